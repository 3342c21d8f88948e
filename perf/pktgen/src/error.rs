//! Why a run cannot start: one line that says what is wrong and how to mend it.

use ipos_dpdk::eal::{EalError, NotInitialised};
use ipos_dpdk::mempool::MempoolError;
use ipos_dpdk::port::PortError;

/// Why a run cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
    /// The EAL.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No EAL.
    #[error(transparent)]
    NotInitialised(#[from] NotInitialised),
    /// A port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Packet buffers.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// The other side of shared memory is not there.
    #[error(
        "port {device}: nobody serves this net_memif socket: start the process with role=server first, and give both the \
         same id, socket and socket-abstract"
    )]
    NoMemifServer {
        /// The device with its arguments.
        device: String,
    },
    /// The link of a port stays down.
    #[error(
        "port {port}: the link is still down after {waited_s} s: start the other side (net_memif: the process with the \
         other role and the same id and socket), plug the cable in, or give --link-wait more"
    )]
    LinkDown {
        /// The port.
        port: String,
        /// How long it was waited for, seconds.
        waited_s: u64,
    },
    /// Nobody says where client frames go.
    #[error(
        "nobody answers ARP for {service} on port {port}: start the target, correct --service, or name the next hop with \
         --next-hop"
    )]
    NoNextHop {
        /// The service.
        service: std::net::Ipv4Addr,
        /// The clients' port.
        port: String,
    },
    /// The boards cannot reach the appliance.
    #[error(
        "nobody answers ARP for {appliance} on port {port}: start the appliance, or correct --appliance-address (its \
         address on the farm)"
    )]
    NoAppliance {
        /// The appliance's farm address.
        appliance: std::net::Ipv4Addr,
        /// The boards' port.
        port: String,
    },
    /// No connection completes.
    #[error(
        "no connection to {service} completes ({why}): check that the appliance serves that address and port, that its \
         boards are {boards}, and that it takes EtherType {ethertype:#06x} (`ipos-appliance status servers`)"
    )]
    NoConnection {
        /// The service's address and port.
        service: String,
        /// The boards' addresses, in words.
        boards: String,
        /// The farm's EtherType.
        ethertype: u16,
        /// How the attempts ended.
        why: String,
    },
    /// Not all connections that `established` needs could be opened.
    #[error(
        "only {open} of {wanted} connections could be opened ({why}): lower --flows or --open-rate, or give the appliance \
         more entries ([worker] entries, pending)"
    )]
    NotOpened {
        /// Open.
        open: u64,
        /// Wanted.
        wanted: u64,
        /// How the others ended.
        why: String,
    },
    /// The port's line cannot carry the rate.
    #[error(
        "{asked_mpps:.3} M {units}/s need {asked_gbps:.2} Gbit/s on port {port}, whose line has {line_gbps:.2}: at most \
         {max_mpps:.3} M fit; lower --rate, or correct --line-mbps"
    )]
    AboveLine {
        /// The clients' port.
        port: String,
        /// What is counted.
        units: &'static str,
        /// Asked for, millions of units per second.
        asked_mpps: f64,
        /// What that takes, Gbit/s.
        asked_gbps: f64,
        /// The line, Gbit/s.
        line_gbps: f64,
        /// What fits, millions of units per second.
        max_mpps: f64,
    },
    /// The port does not tell its speed.
    #[error("port {port} tells no link speed, which {option} needs: give --line-mbps")]
    NoLineSpeed {
        /// The port.
        port: String,
        /// The option.
        option: &'static str,
    },
    /// A file that cannot be written.
    #[error(
        "{path} cannot be written: {reason}: name a directory that exists and a file that may be written"
    )]
    Write {
        /// The file.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// Stopped by the user before anything was measured.
    #[error("stopped before anything was measured")]
    Stopped,
}
