//! Reports that cannot be: said once, then only counted, so that a board gone wrong does not fill the log.

use super::counters::Ignored;

/// The reports of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// 0x10.
    State,
    /// 0x11.
    Sockets,
    /// 0x12.
    Applications,
    /// 0x22.
    Offers,
}

impl Report {
    /// As docs/wire.md names it.
    pub const fn name(self) -> &'static str {
        match self {
            Report::State => "server state (0x10)",
            Report::Sockets => "listening sockets (0x11)",
            Report::Applications => "application information (0x12)",
            Report::Offers => "offers (0x22)",
        }
    }
}

/// What has been said about one board.
#[derive(Debug, Default)]
pub struct Absurd {
    said: [bool; 4],
}

impl Absurd {
    /// Whether this is the first such report of its type since the board came alive: then it is worth a line.
    pub fn is_first(&mut self, report: Report) -> bool {
        !std::mem::replace(&mut self.said[report as usize], true)
    }

    /// The board has died; what comes after that is said again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Says it, if it has not been said.
    pub fn ignore(&mut self, board: &str, report: Report, what: &str) -> Ignored {
        if self.is_first(report) {
            tracing::warn!(
                board,
                report = report.name(),
                what,
                "report ignored: it cannot be; further ones are only counted (absurd_report)"
            );
        }
        Ignored::AbsurdReport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_report_is_said_once_in_the_life_of_a_board() {
        let mut absurd = Absurd::default();
        assert!(absurd.is_first(Report::State));
        assert!(absurd.is_first(Report::Applications));
        assert!(!absurd.is_first(Report::State));
        assert_eq!(absurd.ignore("board1", Report::Sockets, "port 0"), Ignored::AbsurdReport);
        assert!(!absurd.is_first(Report::Sockets));
        absurd.clear();
        assert!(absurd.is_first(Report::State));
    }
}
