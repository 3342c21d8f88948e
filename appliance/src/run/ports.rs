//! Starting the ports, and giving each worker its queues.

use anyhow::Context as _;
use ipos_dpdk::mempool::Mempool;
use ipos_dpdk::port::{Port, PortConfig, PortError, RssMode};
use ipos_dpdk::queue::{RxQueue, TxQueue};
use ipos_pipelines::config::{PortSettings, Role};
use ipos_pipelines::handoff::PortIndex;
use ipos_pipelines::io::QueuePair;
use ipos_wire::mac::Mac;

use crate::config::model::{self, Config};
use crate::control::snapshot::PortRow;
use crate::control::turn::NamedPort;

/// The ports, started.
pub struct Ports {
    /// As the workers know them, in the order of the configuration.
    pub settings: Vec<PortSettings>,
    /// For the control core's snapshots.
    pub named: Vec<NamedPort>,
    queues: Vec<Queues>,
}

/// The queues of a port that no worker has yet.
struct Queues {
    rx: std::vec::IntoIter<RxQueue>,
    tx: std::vec::IntoIter<TxQueue>,
}

impl Ports {
    /// The next worker's queues: a transmit queue of every port, and a receive queue where one is left.
    pub fn take_queues(&mut self) -> Vec<(PortSettings, QueuePair)> {
        let pairs = self.settings.iter().zip(&mut self.queues).filter_map(|(settings, queues)| {
            // There are as many transmit queues as workers.
            let tx = queues.tx.next()?;
            Some((*settings, QueuePair { rx: queues.rx.next(), tx }))
        });
        pairs.collect()
    }
}

/// Starts the ports of the configuration.
///
/// # Errors
/// Which port, why, and how to mend it.
pub fn start(config: &Config, mempool: &Mempool) -> anyhow::Result<Ports> {
    let mut ports = Ports { settings: Vec::new(), named: Vec::new(), queues: Vec::new() };
    let workers = config.dpdk.worker_cpus.len() as u16;
    for (index, configured) in config.ports.iter().enumerate() {
        let name = &configured.name.value;
        let (port, rx, tx) =
            start_port(configured, workers, mempool).with_context(|| format!("starting port \"{name}\""))?;
        let settings = PortSettings {
            index: PortIndex(index as u8),
            role: configured.role,
            mac: Mac(port.mac()),
            address: configured.address.value.address,
        };
        let link = port.link();
        tracing::info!(
            port = name,
            device = configured.device.value.text(),
            mac = %settings.mac,
            address = %settings.address,
            queues = rx.len(),
            link_up = link.up,
            "port started"
        );
        ports.named.push(NamedPort { row: row(configured, &settings), port });
        ports.settings.push(settings);
        ports.queues.push(Queues { rx: rx.into_iter(), tx: tx.into_iter() });
    }
    Ok(ports)
}

fn start_port(
    configured: &model::Port,
    workers: u16,
    mempool: &Mempool,
) -> anyhow::Result<(Port, Vec<RxQueue>, Vec<TxQueue>)> {
    let id = Port::find(configured.device.value.name())?;
    let mut config = PortConfig {
        rx_queues: workers,
        tx_queues: workers,
        rx_descriptors: configured.rx_descriptors,
        tx_descriptors: configured.tx_descriptors,
        mtu: Some(configured.mtu.value),
        // Packets are steered in software: without RSS in all ports alike, no queue says who owns a flow.
        rss: RssMode::None,
        promiscuous: false,
        checksum_offloads: true,
    };
    match Port::start(id, &config, std::slice::from_ref(mempool)) {
        // Fewer receive queues than workers will do: who has one steers to those that have none.
        Err(PortError::Queues { direction: "receive", max, .. }) if max > 0 => {
            config.rx_queues = max;
            Ok(Port::start(id, &config, std::slice::from_ref(mempool))?)
        }
        started => started
            .with_context(|| format!("each of {workers} workers (`worker_cpus`) needs a transmit queue")),
    }
}

fn row(configured: &model::Port, settings: &PortSettings) -> PortRow {
    PortRow {
        port: configured.name.value.clone(),
        device: configured.device.value.text().to_owned(),
        role: match configured.role {
            Role::Wan => "wan",
            Role::Farm => "farm",
            Role::Both => "both",
        }
        .to_owned(),
        mac: settings.mac.to_string(),
        address: settings.address,
        link_up: false,
        speed_mbps: 0,
        missed: 0,
        receive_errors: 0,
        send_errors: 0,
        no_mbuf: 0,
    }
}
