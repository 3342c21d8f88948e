//! The Server State Table (Fig. 12), one row: what a board says of itself in 0x10 (docs/wire.md).

use ipos_wire::ipos::Pressure;

/// A board's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// When the agent started, Unix seconds.
    pub epoch: u32,
    /// The report's number within the epoch.
    pub sequence: u32,
    /// Until the next report, milliseconds.
    pub interval_ms: u16,
    /// Takes no new connections.
    pub draining: bool,
    /// TCP options that the kernel supports, bits as in the control block.
    pub options: u16,
    /// CPU cores.
    pub cores: u16,
    /// CPU utilisation, hundredths of a percent of all cores.
    pub cpu_hundredths: u16,
    /// Established TCP connections.
    pub connections: u32,
    /// Memory, octets.
    pub memory_octets: u64,
    /// Memory that is free, octets.
    pub memory_free_octets: u64,
    /// Link speed, bits per second; 0 unknown.
    pub link_bits: u64,
    /// Bandwidth that is free, bits per second.
    pub bandwidth_free_bits: u64,
    /// Endpoints held.
    pub endpoints: u32,
    /// Pressure, where the board's kernel tells it.
    pub pressure: Option<Pressure>,
}

/// More connections than any kernel holds: the report is nonsense.
pub(super) const CONNECTIONS_MAX: u32 = 1 << 30;

/// The largest process id that Linux can give (`PID_MAX_LIMIT`), less one.
pub(super) const PROCESS_MAX: u32 = (1 << 22) - 1;

/// The longest interval that an agent can have, milliseconds.
const INTERVAL_MAX_MS: u16 = 60_000;

impl State {
    /// Why there cannot be such a state. A board that reports nonsense must not draw all connections by it.
    pub fn wrong(&self) -> Option<&'static str> {
        let pressure = self.pressure.unwrap_or(Pressure { cpu: 0, memory: 0 });
        [
            (self.sequence == 0, "sequence 0"),
            (!(1..=INTERVAL_MAX_MS).contains(&self.interval_ms), "an interval that no agent can have"),
            (self.cores == 0, "no cores"),
            (self.cpu_hundredths > 10_000, "a CPU utilisation above 100 %"),
            (pressure.cpu > 10_000 || pressure.memory > 10_000, "a pressure above 100 %"),
            (self.connections > CONNECTIONS_MAX, "more connections than any kernel holds"),
            (self.endpoints > CONNECTIONS_MAX, "more endpoints than any kernel holds"),
            (self.memory_octets == 0, "no memory"),
            (self.memory_free_octets > self.memory_octets, "more free memory than memory"),
            (self.bandwidth_free_bits > self.link_bits, "more free bandwidth than the link has"),
        ]
        .into_iter()
        .find_map(|(is_so, what)| is_so.then_some(what))
    }

    /// Whether it was sent after another one.
    pub fn is_after(&self, other: &State) -> bool {
        (self.epoch, self.sequence) > (other.epoch, other.sequence)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A state as a quiet board has it.
    pub const QUIET: State = State {
        epoch: 1000,
        sequence: 1,
        interval_ms: 100,
        draining: false,
        options: 7,
        cores: 2,
        cpu_hundredths: 150,
        connections: 3,
        memory_octets: 1 << 30,
        memory_free_octets: 1 << 29,
        link_bits: 10_000_000_000,
        bandwidth_free_bits: 9_000_000_000,
        endpoints: 2,
        pressure: None,
    };

    #[test]
    fn nonsense_is_recognised_field_by_field() {
        assert_eq!(QUIET.wrong(), None);
        let unknown_speed = State { link_bits: 0, bandwidth_free_bits: 0, ..QUIET };
        assert_eq!(unknown_speed.wrong(), None);
        let pressed = State { pressure: Some(Pressure { cpu: 10_000, memory: 0 }), ..QUIET };
        assert_eq!(pressed.wrong(), None);
        let nonsense = [
            State { cores: 0, ..QUIET },
            State { cpu_hundredths: 10_001, ..QUIET },
            State { interval_ms: 0, ..QUIET },
            State { connections: u32::MAX, ..QUIET },
            State { endpoints: u32::MAX, ..QUIET },
            State { memory_octets: 0, memory_free_octets: 0, ..QUIET },
            State { memory_free_octets: (1 << 30) + 1, ..QUIET },
            State { link_bits: 1, ..QUIET },
            State { sequence: 0, ..QUIET },
            State { pressure: Some(Pressure { cpu: 10_001, memory: 0 }), ..QUIET },
            State { pressure: Some(Pressure { cpu: 0, memory: 10_001 }), ..QUIET },
        ];
        let mut said: Vec<&str> = nonsense.iter().filter_map(State::wrong).collect();
        assert_eq!(said.len(), nonsense.len());
        said.dedup();
        assert_eq!(said.len(), 10, "each in its own words: {said:?}");
    }

    #[test]
    fn a_new_epoch_is_after_every_sequence_of_the_old_one() {
        let later = State { sequence: 2, ..QUIET };
        let restarted = State { epoch: 1001, sequence: 1, ..QUIET };
        assert!(later.is_after(&QUIET) && restarted.is_after(&later));
        assert!(!QUIET.is_after(&QUIET) && !QUIET.is_after(&later) && !later.is_after(&restarted));
    }
}
