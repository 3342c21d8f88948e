//! The board's reports: 0x10, 0x11, 0x12 and 0x22 to every appliance that is known (docs/wire.md).

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ipos_wire::{
    ipos::{ListeningRow, Offer, ReportPart, ServerState, name_from},
    tcb::OptionBits,
};
use tracing::debug;

use crate::{
    applications::Census,
    config::Config,
    effort::{Effort, Work},
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
    census: Census,
    options: OptionBits,
    /// Reports until what changes seldom is read again, and applications are told: once a second, or with every report where
    /// those come less often.
    until_second: u32,
    sockets_effort: Effort,
    applications_effort: Effort,
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
            census: Census::new(),
            options: OptionBits(0),
            until_second: 0,
            sockets_effort: Effort::default(),
            applications_effort: Effort::default(),
        })
    }

    /// Reads everything once and tells every appliance in `known`. An urgent report does without looking for the owners of new
    /// sockets, which takes tens of milliseconds: somebody waits for the sockets.
    ///
    /// # Errors
    /// When /proc or sock_diag cannot be read. An appliance that cannot be reached is no error: it notices itself.
    pub fn report(
        &mut self,
        farm: &mut Farm,
        known: &[(Ipv4Addr, [u8; 6])],
        endpoints_held: u64,
        offers: &[Offer],
        urgent: bool,
        now: Instant,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let is_second = self.until_second == 0;
        self.until_second = if is_second { self.reports_per_second() - 1 } else { self.until_second - 1 };
        if is_second {
            self.options = supported_options(&read_sysctl);
        }
        let load = self.meter.read(now, is_second)?;
        if known.is_empty() {
            // What nobody hears needs no look.
            self.until_second = 0;
            return Ok(());
        }
        self.each(farm, known, |reporter, farm, report, mac| {
            farm.server_state(mac, &reporter.state(report.appliance, &load, endpoints_held))
        });
        if urgent || self.sockets_effort.is_allowed(now) {
            let work = Work::begin();
            let rows = self.sockets(urgent, now)?;
            self.each(farm, known, |_, farm, report, mac| farm.list(mac, report, &rows));
            self.sockets_effort.rest(work, 1);
        }
        self.each(farm, known, |_, farm, report, mac| farm.offers(mac, &report, offers));
        if is_second && self.applications_effort.is_allowed(now) {
            let work = Work::begin();
            let rows = self.census.read(&mut self.owners, load.cores, now);
            self.each(farm, known, |_, farm, report, mac| farm.list(mac, report, &rows));
            self.applications_effort.rest(work, 1);
        }
        Ok(())
    }

    fn reports_per_second(&self) -> u32 {
        (1000 / u32::from(self.interval_ms).max(1)).max(1)
    }

    /// Sends something to every appliance.
    fn each(
        &self,
        farm: &mut Farm,
        known: &[(Ipv4Addr, [u8; 6])],
        send: impl Fn(&Reporter, &mut Farm, ReportPart, [u8; 6]) -> io::Result<()>,
    ) {
        for (appliance, mac) in known {
            let report = ReportPart {
                board: self.board,
                appliance: *appliance,
                part: 0,
                parts: 1,
                epoch: self.epoch,
                sequence: self.sequence,
            };
            if let Err(error) = send(self, farm, report, *mac) {
                debug!(%appliance, %error, "report not sent");
            }
        }
    }

    fn sockets(&mut self, urgent: bool, now: Instant) -> io::Result<Vec<ListeningRow>> {
        let listeners = self.diag.listeners()?;
        let inodes: Vec<u32> = listeners.iter().map(|listener| listener.inode).collect();
        if !urgent {
            self.owners.update(&inodes, now);
        }
        Ok(listeners.iter().map(|listener| row(listener, &self.owners)).collect())
    }

    fn state(&self, appliance: Ipv4Addr, load: &Load, endpoints_held: u64) -> ServerState {
        ServerState {
            board: self.board,
            appliance,
            draining: false,
            interval_ms: self.interval_ms,
            epoch: self.epoch,
            sequence: self.sequence,
            options: self.options,
            cpu_cores: load.cores,
            cpu_utilisation: load.cpu_centipercent,
            established: load.established,
            memory: load.memory_octets,
            memory_available: load.available_octets,
            link_speed_bps: load.link_bps,
            bandwidth_available_bps: load.free_bps,
            endpoints_held: u32::try_from(endpoints_held).unwrap_or(u32::MAX),
            pressure: load.pressure,
            tag: [0; 16],
        }
    }
}

/// The TCP options that this namespace's kernel takes over; an operator may change them at any time.
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
        pid: owner.map_or(0, |owner| owner.pid),
        name: owner.map_or_else(Default::default, |owner| name_from(&owner.name)),
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
