//! What the workers and the control core are given of the configuration: services with their URL maps, and pools of boards,
//! under numbers that outlive it.
//!
//! Requests that are under way name their service and pool by number, and flows their board. So a number means the same in the
//! next configuration as well, and one that nothing uses any more is given again only when nothing under way can name it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipos_pipelines::answers::{Answers, Page};
use ipos_pipelines::handoff::{Answer, BOARDS_MAX, BoardId, NO_POOL};
use ipos_pipelines::maglev::{Maglev, Member as Hashed};
use ipos_pipelines::quic::ServerIds;
use ipos_pipelines::services::{Kind, Service as WorkerService, Services};
use ipos_pipelines::sessions::{Cookie, KEY_OCTETS, Key, Value};
use ipos_pipelines::tlsmap::{self, TlsMap, TlsRules};
use ipos_pipelines::urlmap::{Action, Rule, UrlMap};

use super::model::{Config, CookieMode, RowAnswer, Service};
use super::quic::Quic;
use crate::control::placement::{Member, PoolSettings};

/// How long the number of a pool that nothing names any more stays unused: longer than a request is under way.
const REUSE: Duration = Duration::from_secs(300);

/// How long what a reload has replaced is kept: longer than a worker takes to let go of it, and than an answer is repeated.
const RETIRED: Duration = Duration::from_secs(60);

/// Services that were removed since the start, at most: their connections go on.
const CLOSED_MAX: usize = 4096;

/// Services by number, and the boards of each pool.
#[derive(Debug)]
pub struct Snapshot {
    /// What the workers hold.
    pub services: Services,
    /// Boards by pool: what [`ipos_pipelines::handoff::Place::pool`] names.
    pub pools: Vec<PoolSettings>,
}

/// Why there is no snapshot. A checked configuration gives one at the start, always.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A map refuses its rows.
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
    #[error("more than 65536 different lists of boards within 5 minutes; merge some, or wait")]
    Pools,
    /// More redirects than their numbers can tell apart.
    #[error("more than 65536 different redirects in one service; merge some")]
    Redirects,
    /// More services since the start than the appliance keeps.
    #[error(
        "more than {CLOSED_MAX} services were removed since the start, whose connections go on; restart the appliance"
    )]
    Closed,
    /// No number for a board.
    #[error(
        "more than {BOARDS_MAX} boards, those included that have just gone; wait a minute, or restart the appliance"
    )]
    Boards,
}

/// The numbers given since the start.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// Services by number; an endpoint has one number for ever.
    services: Vec<Arc<WorkerService>>,
    /// What was in force before, and until when: workers may hold it a moment longer, and none of them shall be the one that
    /// frees a map.
    retired: Vec<(Instant, Arc<WorkerService>)>,
    pools: Vec<Pool>,
    /// Tables of services, by number: those that are as they were are not built again.
    tables: Vec<(u16, Arc<Maglev>)>,
    /// The key of what the control core is told of cookies, as long as the appliance runs.
    secret: Secret,
}

/// A key that has to be given; without one cookies are hashed all the same.
#[derive(Clone, Copy, Debug)]
struct Secret(Key);

impl Default for Secret {
    fn default() -> Self {
        Self(Key([0; KEY_OCTETS]))
    }
}

#[derive(Clone, Debug)]
struct Pool {
    settings: PoolSettings,
    /// Since when nothing names it.
    unused_since: Option<Instant>,
}

/// Numbers for the boards of a configuration, in its order. `taken` are the numbers that a board has, with its address, or has had
/// until just now: a board keeps its number by its address.
///
/// # Errors
/// [`SnapshotError::Boards`].
pub fn board_ids(
    config: &Config,
    taken: &[(BoardId, Option<Ipv4Addr>)],
) -> Result<Vec<BoardId>, SnapshotError> {
    let mut free =
        (0..BOARDS_MAX as u16).map(BoardId).filter(|id| !taken.iter().any(|(other, _)| other == id));
    let ids = config.boards.iter().map(|board| {
        let kept = taken.iter().find(|(_, address)| *address == Some(board.address.value));
        kept.map(|(id, _)| *id).or_else(|| free.next()).ok_or(SnapshotError::Boards)
    });
    ids.collect()
}

impl Numbers {
    /// None given, and a random key for what is hashed.
    pub fn new(secret: [u8; KEY_OCTETS]) -> Self {
        Self { secret: Secret(Key(secret)), ..Self::default() }
    }

    /// Makes the snapshot, and remembers the numbers it gives. `ids` are the numbers of the configuration's boards. Equal lists of
    /// boards of one service are one pool.
    ///
    /// # Errors
    /// [`SnapshotError`]; the numbers are as before then.
    pub fn snapshot(
        &mut self,
        config: &Config,
        ids: &[BoardId],
        now: Instant,
    ) -> Result<Snapshot, SnapshotError> {
        let mut next = self.clone();
        next.retired.retain(|(since, _)| now.duration_since(*since) < RETIRED);
        next.pools.iter_mut().for_each(|pool| pool.unused_since = pool.unused_since.or(Some(now)));
        let mut open = Vec::new();
        for service in &config.services {
            let number = next.number(service)?;
            let cookie = next.cookie(service, number, config, ids);
            let worker_service = Arc::new(next.worker_service(service, (number, cookie), ids, now)?);
            next.keep(number, worker_service.clone(), now);
            next.table(service, number, config, ids);
            open.push((number, worker_service));
        }
        let numbered = (0u16..).zip(&next.services);
        let closed: Vec<_> = numbered
            .filter(|(number, _)| !open.iter().any(|(other, _)| other == number))
            .map(|(number, service)| (number, Arc::clone(service)))
            .collect();
        if closed.len() > CLOSED_MAX {
            return Err(SnapshotError::Closed);
        }
        next.tables.retain(|(number, _)| open.iter().any(|(other, _)| other == number));
        let numbered = open.iter().zip(&config.services);
        let idle_ms = numbered.filter(|(_, service)| service.kind.is_udp());
        let idle_ms = idle_ms.map(|((number, _), service)| (*number, service.datagrams.idle_ms)).collect();
        let open_numbers: Vec<u16> = open.iter().map(|(number, _)| *number).collect();
        let services = Services::numbered(open, closed)?;
        let services = services.with_tables(next.tables.clone()).with_idle_ms(idle_ms);
        let numbered = open_numbers.iter().zip(&config.services);
        let server_ids =
            numbered.filter_map(|(number, service)| Some((*number, server_ids(service.quic.as_ref()?, ids))));
        let services = services.with_server_ids(server_ids.collect());
        let numbered = open_numbers.iter().zip(&config.services);
        let limited =
            numbered.filter(|(_, service)| service.kind == Kind::L4 && service.admit.limits_anything());
        let services = services.with_limits(&limited.map(|(number, _)| *number).collect::<Vec<_>>());
        let pools = next.pools.iter().map(|pool| pool.settings.clone()).collect();
        *self = next;
        Ok(Snapshot { services, pools })
    }

    /// The number of the service at this endpoint, which is its from now on.
    fn number(&self, service: &Service) -> Result<u16, SnapshotError> {
        let endpoint = (service.address.value, service.port, service.kind.is_udp());
        let of = |known: &WorkerService| (known.address, known.port, known.kind.is_udp());
        let known = self.services.iter().position(|known| of(known) == endpoint);
        u16::try_from(known.unwrap_or(self.services.len())).map_err(|_| SnapshotError::Closed)
    }

    fn keep(&mut self, number: u16, service: Arc<WorkerService>, now: Instant) {
        match self.services.get_mut(usize::from(number)) {
            Some(known) => self.retired.push((now, std::mem::replace(known, service))),
            None => self.services.push(service),
        }
    }

    /// The table of a service that chooses boards by hash.
    fn table(&mut self, service: &Service, number: u16, config: &Config, ids: &[BoardId]) {
        let known = self.tables.iter().position(|(other, _)| *other == number);
        let known = known.map(|place| self.tables.swap_remove(place).1);
        if !service.is_hashed() {
            return;
        }
        let members = service.boards.iter().zip(&service.weights).filter_map(|(place, weight)| {
            let place = usize::from(*place);
            let (board, id) = (config.boards.get(place)?, ids.get(place)?);
            let weight = u32::from(board.weight) * u32::from(*weight);
            Some(Hashed { board: *id, address: board.address.value, weight })
        });
        let (members, table) = (members.collect::<Vec<_>>(), service.table);
        let built = known.filter(|known| known.is_of(table.by, &members, table.slots));
        let built = built.unwrap_or_else(|| Arc::new(Maglev::build(table.by, members, table.slots)));
        self.tables.push((number, built));
    }

    fn worker_service(
        &mut self,
        service: &Service,
        (number, cookie): (u16, Option<Cookie>),
        ids: &[BoardId],
        now: Instant,
    ) -> Result<WorkerService, SnapshotError> {
        let pool_of = |boards, weights| pool_of(number, boards, weights, ids);
        let default_pool = self.pool(pool_of(&service.boards, &service.weights), now)?;
        let mut rules = Vec::with_capacity(service.maps.len());
        let mut answers = answers(service);
        for map in &service.maps {
            let action = match &map.answer {
                None => Action::Pool(self.pool(pool_of(&map.boards, &map.weights), now)?),
                Some(answer) => Action::Answer(answer_of(answer, &mut answers)?),
            };
            rules.push(Rule {
                host: map.host.clone(),
                path: map.path.clone(),
                method: map.method.clone(),
                header: map.header.clone(),
                action,
            });
        }
        let urls = UrlMap::build(&rules).map_err(|faults| SnapshotError::Map {
            service: service.name.value.clone(),
            faults: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })?;
        let tls = self.tls_rules(service, number, ids, now)?;
        Ok(WorkerService {
            address: service.address.value,
            port: service.port,
            kind: service.kind,
            urls,
            tls,
            h2c: service.h2c,
            migrates_requests: service.migrates_requests,
            default_pool,
            answers,
            cookie,
        })
    }

    /// What the workers look for in a service's cookies. All boards of the farm have values: which of them may serve a request is the
    /// URL map's to say.
    fn cookie(&self, service: &Service, number: u16, config: &Config, ids: &[BoardId]) -> Option<Cookie> {
        let cookie = service.cookie.as_ref()?;
        let Secret(secret) = self.secret;
        let boards = || config.boards.iter().zip(ids);
        let of = |key| {
            let name = &service.name.value;
            boards().map(move |(board, id)| (Value::of(key, name, board.address.value), *id))
        };
        let values = cookie.keys().iter().flat_map(of).collect();
        Some(match &cookie.mode {
            CookieMode::Learn { .. } => Cookie::learned(&cookie.name, number, secret),
            CookieMode::Encoded { .. } => Cookie::encoded(&cookie.name, number, secret, values),
            CookieMode::Insert { keys, attributes } => {
                let given = keys.first().into_iter().flat_map(of);
                let given = given.map(|(value, id)| (id, format!("{}={value}{attributes}", cookie.name)));
                Cookie::inserted(&cookie.name, number, secret, values, given)
            }
        })
    }

    fn tls_rules(
        &mut self,
        service: &Service,
        number: u16,
        ids: &[BoardId],
        now: Instant,
    ) -> Result<TlsRules, SnapshotError> {
        let mut rules = Vec::with_capacity(service.tls.rows.len());
        for row in &service.tls.rows {
            let value = self.pool(pool_of(number, &row.boards, &row.weights, ids), now)?;
            rules.push(tlsmap::Rule { sni: row.sni.clone(), alpn: row.alpn.clone(), value });
        }
        let map = TlsMap::build(&rules).map_err(|faults| SnapshotError::Map {
            service: service.name.value.clone(),
            faults: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })?;
        Ok(TlsRules { map, unknown_name: service.tls.unknown_name, no_name: service.tls.no_name })
    }

    /// The number of a pool.
    fn pool(&mut self, settings: PoolSettings, now: Instant) -> Result<u16, SnapshotError> {
        let is_old = |pool: &Pool| pool.unused_since.is_some_and(|since| now.duration_since(since) >= REUSE);
        let known = self.pools.iter().position(|pool| pool.settings == settings);
        let place = known.or_else(|| self.pools.iter().position(is_old)).unwrap_or(self.pools.len());
        let pool = Pool { settings, unused_since: None };
        match self.pools.get_mut(place) {
            Some(known) => *known = pool,
            None => self.pools.push(pool),
        }
        u16::try_from(place).ok().filter(|place| *place != NO_POOL).ok_or(SnapshotError::Pools)
    }
}

/// The server ids of a service, by the boards' numbers.
fn server_ids(quic: &Quic, ids: &[BoardId]) -> ServerIds {
    let boards = quic.ids.iter().filter_map(|(id, place)| Some((*id, *ids.get(usize::from(*place))?)));
    ServerIds::new(quic.offset, quic.len, boards.collect())
}

/// The pages of a service.
fn answers(service: &Service) -> Answers {
    let pages = service.pages.pages.iter().filter_map(|page| {
        let answer = Answer::of_row(page.status)?;
        let own = Page::own(answer, &service.pages.content_type, &page.body)?;
        Some((answer, Arc::new(own)))
    });
    Answers { pages: pages.collect(), redirects: Vec::new() }
}

/// What a worker answers for a row. Equal redirects are one.
fn answer_of(answer: &RowAnswer, answers: &mut Answers) -> Result<Answer, SnapshotError> {
    let (status, to) = match answer {
        RowAnswer::Page(status) => return Answer::of_row(*status).ok_or(SnapshotError::Redirects),
        RowAnswer::Redirect { status, to } => (status, to),
    };
    let page = Page::redirect(*status, to).map_err(|_| SnapshotError::Redirects)?;
    let known = answers.redirects.iter().position(|known| **known == page);
    let number = known.unwrap_or(answers.redirects.len());
    if known.is_none() {
        answers.redirects.push(Arc::new(page));
    }
    u16::try_from(number).map(Answer::Redirect).map_err(|_| SnapshotError::Redirects)
}

/// A list of boards, given as places in the configuration, with their weights in it.
fn pool_of(service: u16, places: &[u16], weights: &[u16], ids: &[BoardId]) -> PoolSettings {
    let members = places.iter().zip(weights).filter_map(|(place, weight)| {
        let board = *ids.get(usize::from(*place))?;
        Some(Member { board, weight: *weight })
    });
    PoolSettings { service, members: members.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SHORT, good as config};
    use super::*;

    const BOARDS: &str = "\n[[board]]\nname = \"x\"\naddress = \"192.0.2.77\"\n";

    #[test]
    fn a_board_keeps_its_number_by_its_address_and_a_new_one_gets_none_that_is_taken() {
        let config = config(&format!("{SHORT}{BOARDS}"));
        let (first, new) = (config.boards[0].address.value, config.boards.len() - 1);
        let taken = [(BoardId(0), None), (BoardId(5), Some(first)), (BoardId(1), Some([9, 9, 9, 9].into()))];
        let ids = board_ids(&config, &taken).expect("numbers");
        assert_eq!(ids[0], BoardId(5));
        assert_eq!(ids[new].0, 1 + new as u16, "0 was just freed, 1 belongs to one that leaves");
        let all: Vec<_> = (0..BOARDS_MAX as u16).map(|id| (BoardId(id), None)).collect();
        assert!(matches!(board_ids(&config, &all), Err(SnapshotError::Boards)));
    }

    #[test]
    fn a_board_that_is_added_has_its_cookie_to_be_given_with_the_services_that_name_it() {
        let key = "000102030405060708090a0b0c0d0e0f";
        let cookie = format!("[service.cookie]\nmode = \"insert\"\nname = \"srv\"\nkey = \"{key}\"\n");
        let with_cookie = SHORT.replacen("[[service.map]]", &format!("{cookie}[[service.map]]"), 1);
        let mut numbers = Numbers::default();
        let mut has_page = |text: &str, id: u16| {
            let config = config(text);
            let ids: Vec<BoardId> = (0..config.boards.len() as u16).map(BoardId).collect();
            let snapshot = numbers.snapshot(&config, &ids, Instant::now()).expect("a snapshot");
            let service = snapshot.services.service(0).expect("the service");
            service.cookie.as_ref().expect("its cookie").page(BoardId(id)).is_some()
        };
        assert_eq!([0, 1, 2].map(|id| has_page(&with_cookie, id)), [true, true, false]);
        assert!(has_page(&format!("{with_cookie}{BOARDS}"), 2));
    }

    #[test]
    fn services_and_pools_keep_their_numbers_and_removed_services_stay_closed() {
        let before = config(SHORT);
        let start = Instant::now();
        let mut numbers = Numbers::default();
        let ids: Vec<BoardId> = (0..9).map(BoardId).collect();
        let first = numbers.snapshot(&before, &ids, start).expect("a snapshot");
        let (address, port) = (before.services[0].address.value, before.services[0].port);
        assert_eq!(first.services.find(address, port), Some(0));
        // Another service takes the place in the file; its pool is a new one.
        let mut after = before.clone();
        after.services[0].port = 8088;
        (after.services[0].boards, after.services[0].weights) = (vec![0], vec![100]);
        after.services[0].maps.clear();
        let second = numbers.snapshot(&after, &ids, start).expect("a snapshot");
        assert_eq!(
            (second.services.find(address, port), second.services.find(address, 8088)),
            (None, Some(1))
        );
        assert!(second.services.service(0).is_some(), "what is under way goes on");
        assert_eq!(second.pools[..first.pools.len()], first.pools[..], "pools mean what they meant");
        // Back: the old numbers again.
        let third = numbers.snapshot(&before, &ids, start).expect("a snapshot");
        assert_eq!(third.services.find(address, port), Some(0));
        assert_eq!(third.pools, second.pools);
        // A pool that nothing has named for long gives its number away.
        let mut other = after.clone();
        (other.services[0].boards, other.services[0].weights) = (vec![8], vec![100]);
        numbers.snapshot(&other, &ids, start).expect("a snapshot");
        let late = numbers.snapshot(&after, &ids, start + REUSE).expect("a snapshot");
        assert!(late.pools.len() <= third.pools.len() + 1);
    }
}
