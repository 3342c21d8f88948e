//! What the workers and the control core are given of the configuration: services with their URL maps, and pools of boards.

use ipos_pipelines::handoff::BoardId;
use ipos_pipelines::services::{Kind, Service as WorkerService, Services};
use ipos_pipelines::urlmap::{Rule, UrlMap};

use super::model::{Config, Service};

/// Services by number, and the boards of each pool.
#[derive(Debug)]
pub struct Snapshot {
    /// What the workers hold.
    pub services: Services,
    /// Boards by pool: what [`ipos_pipelines::handoff::Place::pool`] names.
    pub pools: Vec<Vec<BoardId>>,
}

/// Why there is no snapshot. A checked configuration always gives one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The URL map refuses its rows.
    #[error("service \"{service}\": {faults}")]
    Map {
        /// The service.
        service: String,
        /// What is wrong, row by row.
        faults: String,
    },
    /// Two services share an endpoint.
    #[error(transparent)]
    Duplicate(#[from] ipos_pipelines::services::DuplicateService),
    /// More pools than their numbers can tell apart.
    #[error("more than 65536 different lists of boards; merge some")]
    Pools,
}

/// Makes the snapshot. Equal lists of boards are one pool.
///
/// # Errors
/// [`SnapshotError`], with a configuration that was not checked.
pub fn of(config: &Config) -> Result<Snapshot, SnapshotError> {
    let mut pools = Vec::new();
    let services: Result<Vec<_>, _> = config.services.iter().map(|s| worker_service(s, &mut pools)).collect();
    Ok(Snapshot { services: Services::new(services?)?, pools })
}

fn worker_service(service: &Service, pools: &mut Vec<Vec<BoardId>>) -> Result<WorkerService, SnapshotError> {
    let default_pool = pool(&service.boards, pools)?;
    let rules: Result<Vec<Rule>, SnapshotError> = service
        .maps
        .iter()
        .map(|map| {
            let value = pool(&map.boards, pools)?;
            Ok(Rule { host: map.host.clone(), path_prefix: map.path.clone(), value })
        })
        .collect();
    let urls = UrlMap::build(&rules?).map_err(|faults| SnapshotError::Map {
        service: service.name.value.clone(),
        faults: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })?;
    Ok(WorkerService {
        address: service.address.value,
        port: service.port,
        kind: Kind::Http,
        urls,
        default_pool,
    })
}

fn pool(boards: &[u16], pools: &mut Vec<Vec<BoardId>>) -> Result<u16, SnapshotError> {
    let boards: Vec<BoardId> = boards.iter().map(|place| BoardId(*place)).collect();
    let place = pools.iter().position(|known| *known == boards).unwrap_or_else(|| {
        pools.push(boards);
        pools.len() - 1
    });
    u16::try_from(place).map_err(|_| SnapshotError::Pools)
}
