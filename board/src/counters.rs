//! The programs' counters: names in the order of `enum counter` in `bpf/tables.h`; docs/board.md explains each.

/// Every counter's name. The last one is a gauge.
pub const NAMES: [&str; 52] = [
    "frames_received",
    "unknown_sender",
    "not_ours",
    "malformed",
    "bad_checksum",
    "unknown_type",
    "connections_received",
    "acks_sent",
    "acks_repeated",
    "refused_no_listener",
    "refused_not_covered",
    "refused_queue_full",
    "refused_table_full",
    "refused_control_block",
    "refused_mss",
    "refused_mptcp",
    "refused_held",
    "refused_protocol",
    "clears_queued",
    "tombstone_answers",
    "busy_dropped",
    "packets_decapsulated",
    "detaches_received",
    "detached_pending",
    "detaches_queued",
    "detaches_not_held",
    "moves_detached",
    "moves_busy",
    "moves_not_held",
    "questions_received",
    "questions_held",
    "questions_not_held",
    "orders_received",
    "resize_failed",
    "answers_redirected",
    "assigned",
    "assign_failed",
    "first_packet_mismatch",
    "followed_first_packet",
    "packets_busy_dropped",
    "guard_dropped",
    "strays_sent",
    "fragments_dropped",
    "egress_hidden",
    "endpoints_live",
    "endpoints_closed",
    "events_lost",
    "pending_expired",
    "tombstones_expired",
    "udp_connections_received",
    "udp_acks_sent",
    "endpoints_held",
];

/// The place of `endpoints_held` in [`NAMES`].
pub const ENDPOINTS_HELD: u32 = NAMES.len() as u32 - 1;

/// One counter over all CPUs. The gauge counts up on one and down on another, so the sum wraps.
pub fn total(per_cpu: &[Vec<u8>]) -> u64 {
    per_cpu
        .iter()
        .filter_map(|octets| Some(u64::from_ne_bytes(octets.get(..8)?.try_into().ok()?)))
        .fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_programs_in_their_order() {
        let source = include_str!("../bpf/tables.h");
        let names: Vec<String> = source
            .split("enum counter {")
            .nth(1)
            .and_then(|rest| rest.split("};").next())
            .expect("tables.h has enum counter")
            .lines()
            .filter_map(|line| line.trim().strip_prefix("COUNT_"))
            .map(|line| line.split(',').next().unwrap_or_default().to_lowercase())
            .collect();
        assert_eq!(names, NAMES);
    }

    #[test]
    fn every_counter_is_explained_in_the_operator_page() {
        let page = include_str!("../../docs/board.md");
        for name in NAMES {
            assert!(page.contains(&format!("`{name}`")), "docs/board.md does not explain {name}");
        }
    }

    #[test]
    fn a_gauge_that_rose_here_and_fell_there_is_summed_modulo_2_64() {
        let per_cpu = [3u64.to_ne_bytes().to_vec(), (-2i64).to_ne_bytes().to_vec()];
        assert_eq!(total(&per_cpu), 1);
    }
}
