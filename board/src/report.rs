//! The board's reports: 0x10 and 0x11 to every appliance that is known (docs/wire.md).

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ipos_wire::{
    ipos::{ListeningRow, ServerState},
    tcb::OptionBits,
};
use tracing::debug;

use crate::{
    config::Config,
    farm::Farm,
    load::{Load, Meter},
    preflight::read_sysctl,
    procs::Owners,
    sockets::{Listener, SockDiag},
};

/// Makes reports. The epoch is the agent's start, the sequence counts its reports.
pub struct Reporter {
    board: Ipv4Addr,
    interval_ms: u16,
    epoch: u32,
    sequence: u32,
    meter: Meter,
    diag: SockDiag,
    owners: Owners,
}

impl Reporter {
    /// A reporter whose epoch is now.
    ///
    /// # Errors
    /// When the kernel has no sock_diag.
    pub fn new(config: &Config, ifindex: u32) -> io::Result<Reporter> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Reporter {
            board: config.address,
            interval_ms: u16::try_from(config.report_interval.as_millis()).unwrap_or(u16::MAX),
            epoch: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
            sequence: 0,
            meter: Meter::new(&config.interface, ifindex),
            diag: SockDiag::open()?,
            owners: Owners::default(),
        })
    }

    /// Reads everything once and tells every appliance in `known`.
    ///
    /// # Errors
    /// When /proc or sock_diag cannot be read. An appliance that cannot be reached is no error: it notices itself.
    pub fn report(
        &mut self,
        farm: &mut Farm,
        known: &[(Ipv4Addr, [u8; 6])],
        endpoints_held: u64,
        now: Instant,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let load = self.meter.read(now)?;
        let listeners = self.diag.listeners()?;
        let inodes: Vec<u32> = listeners.iter().map(|listener| listener.inode).collect();
        self.owners.update(&inodes);
        let rows: Vec<ListeningRow> = listeners.iter().map(|listener| row(listener, &self.owners)).collect();
        for (appliance, mac) in known {
            let state = self.state(*appliance, &load, endpoints_held);
            let sent = farm.server_state(*mac, &state).and_then(|()| {
                farm.listening(*mac, self.board, *appliance, self.epoch, self.sequence, &rows)
            });
            if let Err(error) = sent {
                debug!(%appliance, %error, "report not sent");
            }
        }
        Ok(())
    }

    fn state(&self, appliance: Ipv4Addr, load: &Load, endpoints_held: u64) -> ServerState {
        ServerState {
            board: self.board,
            appliance,
            draining: false,
            interval_ms: self.interval_ms,
            epoch: self.epoch,
            sequence: self.sequence,
            options: supported_options(&read_sysctl),
            cpu_cores: load.cores,
            cpu_utilisation: load.cpu_centipercent,
            established: load.established,
            memory: load.memory_octets,
            memory_available: load.available_octets,
            link_speed_bps: load.link_bps,
            bandwidth_available_bps: load.free_bps,
            endpoints_held: u32::try_from(endpoints_held).unwrap_or(u32::MAX),
            tag: [0; 16],
        }
    }
}

/// The TCP options that this namespace's kernel takes over, read anew each time: an operator may change them.
fn supported_options(read: &dyn Fn(&str) -> Option<i64>) -> OptionBits {
    let on = |key: &str, bit: OptionBits| {
        let enabled = read(&format!("net/ipv4/{key}")).is_some_and(|value| value > 0);
        if enabled { bit.0 } else { 0 }
    };
    OptionBits(
        on("tcp_timestamps", OptionBits::TIMESTAMPS)
            | on("tcp_sack", OptionBits::SACK)
            | on("tcp_window_scaling", OptionBits::WINDOW_SCALE)
            | on("tcp_ecn", OptionBits::ECN),
    )
}

fn row(listener: &Listener, owners: &Owners) -> ListeningRow {
    let owner = owners.owner(listener.inode);
    let (address, ipv6) = match listener.address {
        IpAddr::V4(v4) => (v4, false),
        IpAddr::V6(_) => (Ipv4Addr::UNSPECIFIED, true),
    };
    ListeningRow {
        address,
        port: listener.port,
        ipv6,
        mptcp: listener.mptcp,
        queue_len: listener.queue,
        queue_max: listener.queue_limit,
        pid: owner.pid,
        name: ListeningRow::name_from(&owner.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supported_options_follow_the_sysctls() {
        let none = supported_options(&|_| Some(0));
        let all = supported_options(&|_| Some(2));
        let no_sack = supported_options(&|key| Some(i64::from(!key.ends_with("sack"))));
        assert_eq!((none.0, all.0, no_sack.0), (0, 0b1111, 0b1101));
    }

    #[test]
    fn a_dual_stack_listener_is_told_as_a_wildcard_of_ipv6() {
        let listener = Listener {
            address: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            port: 80,
            queue: 3,
            queue_limit: 511,
            inode: 0,
            mptcp: true,
        };
        let row = row(&listener, &Owners::default());
        assert_eq!((row.address, row.ipv6, row.mptcp), (Ipv4Addr::UNSPECIFIED, true, true));
        assert_eq!((row.queue_len, row.queue_max, row.pid), (3, 511, 0));
    }
}
