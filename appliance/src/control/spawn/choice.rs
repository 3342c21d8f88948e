//! Which board starts the next instance: by what its memory and CPU have left against what the application needs.

use ipos_pipelines::handoff::BoardId;
use ipos_wire::ipos::Offer;

use super::super::board::{Board, Liveness};
use super::super::boards::{Boards, MS_NS};
use super::super::context::Context;
use super::Service;

/// How good a board is for a start, best last.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum Rank {
    /// It runs the application, and may run more; what its memory and CPU have left in the scarcer, 0..=1.
    Further(f64),
    /// It does not run it yet.
    First(f64),
    /// It runs it, and is about to stop it.
    Kept,
}

/// What the boards show together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    /// One starts already, by whoever's order.
    pub(super) starts: bool,
    /// One listens.
    pub(super) listens: bool,
    /// One that crashed is started again by itself in so long.
    pub(super) comes_back_ns: Option<u64>,
    /// A board that failed may be asked again in so long.
    pub(super) barred_ns: Option<u64>,
}

impl Service {
    /// The best board for a start, and what there is besides.
    pub(super) fn look(&mut self, ctx: &Context<'_>, boards: &[BoardId]) -> (Option<(Rank, BoardId)>, View) {
        self.bars.retain(|(_, until_ns)| *until_ns > ctx.now_ns);
        let mut view = View::default();
        let mut best: Option<(Rank, BoardId)> = None;
        for id in boards {
            let Some(board) = ctx.boards.board(*id).filter(|board| takes_new(board, ctx)) else { continue };
            let Some(offer) = board.offers.find(&self.settings.application) else { continue };
            let least = |known: Option<u64>, ns: u64| Some(known.map_or(ns, |known| known.min(ns)));
            let wait_ns = u64::from(offer.retry_ms).saturating_mul(MS_NS);
            view.listens |= offer.listening > 0;
            if offer.starting > 0 && wait_ns == 0 {
                view.starts = true;
                continue;
            }
            if offer.starting > 0 {
                view.comes_back_ns = least(view.comes_back_ns, wait_ns);
                continue;
            }
            let barred = self.bars.iter().find(|(barred, _)| barred == id);
            let barred_ns =
                barred.map_or(0, |(_, until_ns)| until_ns.saturating_sub(ctx.now_ns)).max(wait_ns);
            if barred_ns > 0 {
                view.barred_ns = least(view.barred_ns, barred_ns);
                continue;
            }
            if let Some(rank) = rank(board, offer, self.measured)
                && best.is_none_or(|(known, _)| rank > known)
            {
                best = Some((rank, *id));
            }
        }
        (best, view)
    }

    /// Instances on all boards.
    pub(super) fn instances(&self, boards: &Boards) -> u32 {
        let offers = self
            .settings
            .boards
            .iter()
            .filter_map(|id| boards.board(*id)?.offers.find(&self.settings.application));
        offers.map(|offer| u32::from(offer.listening) + u32::from(offer.starting)).sum()
    }

    /// Sees what instances take (0x12): the largest counts, for as long as one runs, and after that until one runs again.
    pub(super) fn measure(&mut self, boards: &Boards) {
        let (address, port) = self.settings.endpoint;
        let taken = self.settings.boards.iter().filter_map(|id| boards.board(*id)).flat_map(|board| {
            let sockets = board.listening.sockets().iter().filter(move |socket| socket.covers(address, port));
            sockets.filter_map(|socket| {
                let mut rows = board.applications.rows().iter();
                rows.find(|row| row.process_id == socket.process_id && socket.process_id != 0)
            })
        });
        // Hundredths of a percent of a core are told, in whole hundredths of a core.
        let most = taken
            .map(|row| (row.memory_octets, u64::from(row.cpu_hundredths) / 100))
            .reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)));
        self.measured = most.unwrap_or(self.measured);
    }
}

/// Whether the board could get connections, if only something listened there.
fn takes_new(board: &Board, ctx: &Context<'_>) -> bool {
    board.liveness(ctx.now_ns) == Liveness::Alive
        && board.life.kept_back_ns(ctx.now_ns) == 0
        && board.mac.is_some()
        && board.standing.takes_new()
        && board
            .state
            .as_ref()
            .is_some_and(|state| !state.draining && ctx.boards.options() & !state.options == 0)
}

/// How good the board is; `None` when what the application needs, as declared or as measured if that is more, does not fit.
fn rank(board: &Board, offer: &Offer, measured: (u64, u64)) -> Option<Rank> {
    if board.offers.is_leaving(offer) {
        return Some(Rank::Kept);
    }
    let state = board.state.as_ref()?;
    if offer.listening >= offer.instances_max {
        return None;
    }
    // Hundredths of a core.
    let all = u64::from(state.cores) * 100;
    let idle = u64::from(10_000_u16.saturating_sub(state.cpu_hundredths)) * all / 10_000;
    let cpu_left = idle.checked_sub(u64::from(offer.cpu_hundredths).max(measured.1))?;
    let memory_left = state.memory_free_octets.checked_sub(offer.memory.max(measured.0))?;
    let share = |left: u64, all: u64| left as f64 / all.max(1) as f64;
    let left = share(cpu_left, all).min(share(memory_left, state.memory_octets));
    Some(if offer.listening == 0 { Rank::First(left) } else { Rank::Further(left) })
}
