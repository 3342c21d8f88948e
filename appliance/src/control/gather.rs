//! A table that a board reports in parts (docs/wire.md "Lists"): put together, in order, and only what can be.

/// One part of a report.
#[derive(Clone, Debug)]
pub struct Part<R> {
    /// When the agent started, Unix seconds.
    pub epoch: u32,
    /// The report's number.
    pub sequence: u32,
    /// Which part, from 0.
    pub part: u8,
    /// How many parts.
    pub parts: u8,
    /// Its rows.
    pub rows: Vec<R>,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The table is that of this report now.
    Complete,
    /// Other parts are to come.
    Waiting,
    /// Older than what is known: ignored.
    Stale,
    /// No such part can be, and why not: ignored.
    Absurd(&'static str),
}

/// The table of one board.
#[derive(Debug)]
pub struct Gathered<R> {
    /// Epoch and sequence of the table.
    known: Option<(u32, u32)>,
    rows: Vec<R>,
    gathering: Option<Gathering<R>>,
}

#[derive(Debug)]
struct Gathering<R> {
    report: (u32, u32),
    parts: Vec<Option<Vec<R>>>,
}

impl<R> Default for Gathered<R> {
    fn default() -> Self {
        Self { known: None, rows: Vec::new(), gathering: None }
    }
}

impl<R: Clone + PartialEq> Gathered<R> {
    /// The rows, as last reported in full.
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// The sequence of that report; `None` before the first.
    pub fn sequence(&self) -> Option<u32> {
        self.known.map(|(_, sequence)| sequence)
    }

    /// Takes note of the board's newest state report, whose epoch and sequence its lists share. A table or a part that claims
    /// to be from elsewhere, or from later, must not keep the board's own reports out as stale.
    pub fn follow(&mut self, epoch: u32, sequence: u32) {
        let strays = |report: (u32, u32)| report.0 != epoch || report.1 > sequence;
        if self.known.is_some_and(strays) {
            self.known = Some((epoch, sequence.saturating_sub(1)));
        }
        if self.gathering.as_ref().is_some_and(|gathering| strays(gathering.report)) {
            self.gathering = None;
        }
    }

    /// Takes a part. A report replaces the table once all its parts have come. `wrong` says what cannot be about rows: of a
    /// part, and of all parts together.
    pub fn take(&mut self, part: Part<R>, wrong: impl Fn(&[R]) -> Option<&'static str>) -> Taken {
        if part.part >= part.parts {
            return Taken::Absurd("a part beyond the number of parts");
        }
        let report = (part.epoch, part.sequence);
        let newest = self.gathering.as_ref().map(|gathering| gathering.report).max(self.known);
        if newest.is_some_and(|newest| report < newest) || self.known == Some(report) {
            return Taken::Stale;
        }
        if let Some(why) = wrong(&part.rows) {
            return Taken::Absurd(why);
        }
        let fresh = || Gathering { report, parts: vec![None; usize::from(part.parts)] };
        if self.gathering.as_ref().is_none_or(|gathering| gathering.report != report) {
            self.gathering = Some(fresh());
        }
        let gathering = self.gathering.get_or_insert_with(fresh);
        if gathering.parts.len() != usize::from(part.parts) {
            return Taken::Absurd("parts of one report that differ in how many there are");
        }
        match gathering.parts.get_mut(usize::from(part.part)) {
            Some(Some(known)) if *known != part.rows => {
                return Taken::Absurd("a part that came twice and differs");
            }
            Some(slot) => *slot = Some(part.rows),
            None => {}
        }
        if gathering.parts.iter().any(Option::is_none) {
            return Taken::Waiting;
        }
        let rows: Vec<R> = gathering.parts.drain(..).flatten().flatten().collect();
        self.gathering = None;
        if part.parts > 1
            && let Some(why) = wrong(&rows)
        {
            return Taken::Absurd(why);
        }
        self.rows = rows;
        self.known = Some(report);
        Taken::Complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(report: (u32, u32), part: u8, parts: u8, row: u16) -> Part<u16> {
        Part { epoch: report.0, sequence: report.1, part, parts, rows: vec![row] }
    }

    /// No row is 13, and no two are alike.
    fn wrong(rows: &[u16]) -> Option<&'static str> {
        let twice = rows.iter().enumerate().any(|(place, row)| rows.iter().take(place).any(|old| old == row));
        if rows.contains(&13) { Some("13") } else { twice.then_some("twice") }
    }

    fn take(table: &mut Gathered<u16>, part: Part<u16>) -> Taken {
        table.take(part, wrong)
    }

    #[test]
    fn a_report_from_nowhere_is_outlived() {
        let mut table = Gathered::default();
        assert_eq!(take(&mut table, part((1000, 7), 0, 1, 80)), Taken::Complete);
        // Forged: a whole table, and a part of one, from an epoch that is never reached.
        assert_eq!(take(&mut table, part((u32::MAX, 9), 0, 1, 81)), Taken::Complete);
        assert_eq!(take(&mut table, part((u32::MAX, 10), 0, 2, 82)), Taken::Waiting);
        assert_eq!(take(&mut table, part((1000, 8), 0, 1, 80)), Taken::Stale);
        table.follow(1000, 9);
        assert_eq!(take(&mut table, part((1000, 9), 0, 1, 80)), Taken::Complete);
        assert_eq!((table.rows(), table.sequence()), (&[80][..], Some(9)));
        // The board's own order goes on.
        table.follow(1000, 10);
        assert_eq!(take(&mut table, part((1000, 9), 0, 1, 83)), Taken::Stale);
    }

    #[test]
    fn a_report_counts_once_all_its_parts_have_come_in_any_order() {
        let mut table = Gathered::default();
        assert_eq!(take(&mut table, part((1, 1), 1, 2, 81)), Taken::Waiting);
        assert!(table.rows().is_empty());
        assert_eq!(take(&mut table, part((1, 1), 1, 2, 81)), Taken::Waiting, "the same part, repeated");
        assert_eq!(take(&mut table, part((1, 1), 0, 2, 80)), Taken::Complete);
        assert_eq!(table.rows(), [80, 81]);
        assert_eq!(take(&mut table, part((1, 2), 0, 1, 8080)), Taken::Complete);
        assert_eq!(table.rows(), [8080]);
    }

    #[test]
    fn parts_of_different_reports_are_never_mixed() {
        let mut table = Gathered::default();
        assert_eq!(take(&mut table, part((1, 1), 0, 2, 80)), Taken::Waiting);
        assert_eq!(take(&mut table, part((1, 2), 1, 2, 81)), Taken::Waiting);
        assert_eq!(take(&mut table, part((1, 1), 1, 2, 82)), Taken::Stale);
        assert_eq!(take(&mut table, part((1, 2), 0, 2, 83)), Taken::Complete);
        assert_eq!(table.rows(), [83, 81]);
    }

    #[test]
    fn old_and_impossible_parts_change_nothing() {
        let mut table = Gathered::default();
        let absurd = |taken| matches!(taken, Taken::Absurd(_));
        assert_eq!(take(&mut table, part((2, 5), 0, 1, 80)), Taken::Complete);
        assert_eq!(take(&mut table, part((2, 5), 0, 1, 81)), Taken::Stale);
        assert_eq!(take(&mut table, part((2, 4), 0, 1, 81)), Taken::Stale);
        assert_eq!(take(&mut table, part((1, 9), 0, 1, 81)), Taken::Stale);
        assert!(absurd(take(&mut table, part((2, 6), 2, 2, 81))));
        assert!(absurd(take(&mut table, part((2, 6), 0, 0, 81))));
        assert_eq!(take(&mut table, part((2, 6), 0, 3, 81)), Taken::Waiting);
        assert!(absurd(take(&mut table, part((2, 6), 1, 2, 82))), "the number of parts differs");
        assert!(absurd(take(&mut table, part((2, 6), 0, 3, 83))), "the same part says something else");
        assert_eq!(take(&mut table, part((2, 6), 1, 3, 13)), Taken::Absurd("13"));
        assert_eq!(table.rows(), [80]);
    }

    #[test]
    fn parts_that_contradict_each_other_are_no_report_and_the_next_one_counts() {
        let mut table = Gathered::default();
        assert_eq!(take(&mut table, part((2, 5), 0, 2, 80)), Taken::Waiting);
        assert_eq!(take(&mut table, part((2, 5), 1, 2, 80)), Taken::Absurd("twice"));
        assert_eq!((table.rows(), table.sequence()), (&[][..], None));
        assert_eq!(take(&mut table, part((2, 6), 0, 1, 80)), Taken::Complete);
    }
}
