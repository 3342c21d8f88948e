//! What a stage decided about a packet. The stage has already done it: the packet is sent, kept or gone.

use crate::counters::{Drop, Outcome};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every packet is counted exactly once"]
pub enum Verdict {
    /// On its way to the board that holds the endpoint.
    Forwarded,
    /// Answered by the appliance.
    Answered,
    /// Its octets, or the frame, wait in an entry.
    Held,
    /// Handed to the control core.
    Control,
    /// A board's answer to a health check, handed to the control core.
    Check,
    /// Handed to the worker that owns the flow.
    Steered,
    /// Dropped.
    Drop(Drop),
}

impl Verdict {
    /// The counter that it belongs to.
    #[inline]
    pub const fn outcome(self) -> Outcome {
        match self {
            Verdict::Forwarded => Outcome::Forwarded,
            Verdict::Answered => Outcome::Answered,
            Verdict::Held => Outcome::Held,
            Verdict::Control => Outcome::Control,
            Verdict::Check => Outcome::Check,
            Verdict::Steered => Outcome::Steered,
            Verdict::Drop(_) => Outcome::Dropped,
        }
    }
}
