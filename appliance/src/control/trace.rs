//! What the control core knows of one connection: the decisions about it that are kept (docs/placement.md).

use ipos_wire::flow::Flow;
use serde::{Deserialize, Serialize};

use super::boards::MS_NS;
use super::core::Core;
use super::placement::record::Verdict;
use super::snapshot::ServiceName;

/// What is known of one connection in the control core.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trace {
    /// The worker that owns it.
    pub worker: u8,
    /// What was decided about it, the newest first.
    pub decisions: Vec<DecisionRow>,
}

/// A decision about a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecisionRow {
    /// Since then, milliseconds.
    pub age_ms: u64,
    /// The service.
    pub service: String,
    /// The service's policy.
    pub policy: String,
    /// The board that was chosen; `None` when there was none.
    pub board: Option<String>,
    /// Why that one, or why none.
    pub reason: String,
    /// Boards that were fit, with what the policy went by: the lowest was the best.
    pub scores: Vec<ScoreRow>,
    /// Boards of the pool that were not fit, or had been asked before.
    pub left_out: u16,
}

/// A board that was considered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScoreRow {
    /// The board's name.
    pub board: String,
    /// What the policy went by.
    pub score: f32,
}

/// Decisions about one connection that are shown.
const DECISIONS_SHOWN: usize = 16;

/// What was decided about a connection, as far as it is kept.
pub fn of(core: &Core, now_ns: u64, services: &[ServiceName], flow: &Flow) -> Trace {
    let pools = &core.attempts.pools;
    let decisions = pools.record.of(flow).take(DECISIONS_SHOWN).map(|decision| {
        let number = pools.service_of(decision.pool);
        let service = number.and_then(|number| services.iter().find(|service| service.number == number));
        let scores = decision.candidates();
        let (board, reason) = match decision.verdict {
            Some(Verdict::Board(board, reason)) => (Some(core.board_name(board).to_owned()), reason.name()),
            Some(Verdict::None(reason)) => (None, reason.name()),
            None => (None, ""),
        };
        DecisionRow {
            age_ms: now_ns.saturating_sub(decision.at_ns) / MS_NS,
            service: service.map(|service| service.name.clone()).unwrap_or_default(),
            policy: number.map_or("", |number| pools.rules(number).policy.name()).to_owned(),
            board,
            reason: reason.to_owned(),
            scores: scores
                .map(|(board, score)| ScoreRow { board: core.board_name(board).to_owned(), score })
                .collect(),
            left_out: decision.left_out,
        }
    });
    Trace { worker: core.settings.owners.owner(flow).0, decisions: decisions.collect() }
}
