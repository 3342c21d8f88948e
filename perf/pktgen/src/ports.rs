//! Starting the EAL and the ports.

use std::time::{Duration, Instant};

use ipos_dpdk::eal::{Eal, EalConfig, EalError, Memory};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::port::{Port, PortConfig, PortError};

use crate::cli::{Cli, MemoryKind};
use crate::error::Error;
use crate::lane::Lane;

/// Mbufs that the thread keeps at hand.
const CACHE: u32 = 256;

/// Whether a device is a virtual one, which the EAL is told to make.
fn is_virtual(device: &str) -> bool {
    device.starts_with("net_") || device.starts_with("eth_")
}

/// What the EAL is started with.
#[must_use]
pub fn eal_config(cli: &Cli) -> EalConfig {
    let devices = [Some(&cli.client_port), cli.farm_port.as_ref()].into_iter().flatten();
    let (vdevs, allow): (Vec<String>, Vec<String>) = devices.cloned().partition(|device| is_virtual(device));
    EalConfig {
        program: "ipos-pktgen".to_owned(),
        lcores: format!("0@{}", cli.cpu),
        main_lcore: 0,
        memory: match cli.memory {
            MemoryKind::Hugepages => Memory::Hugepages { mb: cli.memory_mb, in_memory: true },
            MemoryKind::NoHuge => Memory::NoHuge { mb: cli.memory_mb },
        },
        no_pci: allow.is_empty(),
        allow,
        vdevs,
        file_prefix: format!("ipos-pktgen-{}", std::process::id()),
        ..EalConfig::default()
    }
}

/// Starts the EAL: the calling thread is then bound to the CPU of the command line.
///
/// # Errors
/// [`Error::Options`] for a name that no device has, [`Error::Eal`].
pub fn start_eal(cli: &Cli) -> Result<Eal, Error> {
    for device in [Some(&cli.client_port), cli.farm_port.as_ref()].into_iter().flatten() {
        let is_pci = device.contains(':') && device.contains('.');
        if !is_virtual(device) && !is_pci {
            return Err(Error::Options(format!(
                "{device:?} is no port: name a PCI address such as 0000:81:00.0, or a virtual device such as \
                 net_memif0,role=client,id=0,socket=/run/wan.sock"
            )));
        }
    }
    Eal::init(&eal_config(cli)).map_err(|error| match error {
        EalError::Init { said, .. } if said.contains("failed to parse device") => Error::Options(format!(
            "the installed DPDK has no driver for a virtual device that was named (DPDK said: {said}): name one such as \
             net_memif0, net_af_packet0, net_ring0, with its arguments after a comma"
        )),
        error => error.into(),
    })
}

/// Starts one port, with one queue each way.
///
/// # Errors
/// [`Error::Port`], [`Error::NoMemifServer`], [`Error::Mempool`].
pub fn start_port(device: &str, cli: &Cli) -> Result<Lane, Error> {
    let id = Port::find(device)?;
    let name = format!("pktgen-{id}");
    let pool = Mempool::new(&name, cli.mbufs, CACHE, DATA_ROOM_OCTETS, ipos_dpdk::port::socket(id))?;
    let config = PortConfig {
        rx_descriptors: cli.descriptors,
        tx_descriptors: cli.descriptors,
        // Several boards live behind one port, each with a MAC address of its own.
        promiscuous: true,
        ..PortConfig::default()
    };
    let started = Port::start(id, &config, std::slice::from_ref(&pool));
    let (port, rx, tx) = started.map_err(|error| match error {
        // A memif client connects when it starts; the driver only says that it may not.
        PortError::Step { .. } if device.starts_with("net_memif") && !device.contains("role=server") => {
            Error::NoMemifServer { device: device.to_owned() }
        }
        error => error.into(),
    })?;
    match (rx.into_iter().next(), tx.into_iter().next()) {
        (Some(rx), Some(tx)) => Ok(Lane::new(port, rx, tx, pool)),
        _ => Err(PortError::NoQueues { port: device.to_owned() }.into()),
    }
}

/// Waits until the port's link is up.
///
/// # Errors
/// [`Error::LinkDown`], and [`Error::Stopped`] when `stopped` says so.
pub fn wait_for_link(lane: &Lane, wait_s: u64, stopped: impl Fn() -> bool) -> Result<(), Error> {
    let end = Instant::now() + Duration::from_secs(wait_s);
    while !lane.port().link().up {
        if stopped() {
            return Err(Error::Stopped);
        }
        if Instant::now() >= end {
            return Err(Error::LinkDown { port: lane.port().name().to_owned(), waited_s: wait_s });
        }
        // Links tell nobody when they come up: there is only looking.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
