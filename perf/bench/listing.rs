//! What it costs a worker to list a million flows (`ipos-appliance status flows`): the same worker in turns with and without
//! a reader of all its flows, which asks for page after page at the admin socket's pace.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ipos_pipelines::handoff::{
    Command, Event, FLOW_PAGE_ROWS, FlowFilter, FlowPage, Receiver, Sender, WorkerId,
};

use crate::capture::Kind;
use crate::cputime;
use crate::rates::{Scene, Taker};
use crate::report::{Row, Target};
use crate::stats::{Runs, paired};
use crate::targets::{Desk, SMALL_DATA_ROOM_OCTETS, capacity, flows_in_words};

/// Between two pages: what the admin socket allows all its clients together.
const PAGE_INTERVAL: Duration = Duration::from_millis(2);

/// Runs at least: the difference that is looked for is that of one run to the next.
const RUNS_MIN: u32 = 9;

/// The other end of the worker's queues.
pub struct Reader {
    /// To the worker.
    pub commands: Sender<Command>,
    /// From the worker.
    pub events: Receiver<Event>,
}

/// What a reader has done.
#[derive(Debug, Default)]
pub struct Read {
    /// Told to stop.
    pub is_over: AtomicBool,
    /// Its own CPU time, nanoseconds: not the worker's, and not billed to it.
    pub own_ns: AtomicU64,
    /// Flows that it was told.
    pub rows: AtomicU64,
}

impl Reader {
    /// Lists all flows, again and again, until it is told to stop.
    ///
    /// # Errors
    /// When the worker takes no commands.
    pub fn read(&mut self, read: &Read) -> anyhow::Result<()> {
        let rows = Vec::with_capacity(FLOW_PAGE_ROWS);
        let (worker, filter) = (WorkerId(0), FlowFilter::default());
        let mut page = Some(Box::new(FlowPage { request: 1, worker, cursor: Some(0), filter, rows }));
        while !read.is_over.load(Ordering::Relaxed) {
            if let Some(mut page) = page.take() {
                page.cursor = page.cursor.or(Some(0));
                ensure!(self.commands.send(Command::ListFlows(page)).is_ok(), "the worker takes no commands");
            }
            std::thread::sleep(PAGE_INTERVAL);
            while let Some(event) = self.events.receive() {
                if let Event::Flows(answer) = event {
                    read.rows.fetch_add(answer.rows.len() as u64, Ordering::Relaxed);
                    page = Some(answer);
                }
            }
            read.own_ns.store(cputime::thread_ns()?, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Established packets of a million flows, with and without a listing.
///
/// # Errors
/// When something cannot be measured.
pub fn listing(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let flows = if desk.options.quick { 1024 } else { 1_000_000 };
    let scene = |captured: u32| Scene {
        kind: Kind::Established,
        captured,
        resident: flows,
        entries: capacity(flows),
        data_room_octets: SMALL_DATA_ROOM_OCTETS,
        modes: &[],
        with_capsule: false,
    };
    let captured = if desk.options.quick { flows } else { 1 << 16 };
    let mut taker = Taker::start(&scene(captured), desk.options, desk.folder())?;
    let runs = if desk.options.quick { 1 } else { desk.options.runs.max(RUNS_MIN) };
    let (mut with, mut without, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        without.push(taker.take(desk.options.packets(), false)?.rate / 1e6);
        let measured = taker.take(desk.options.packets(), true)?;
        with.push(measured.rate / 1e6);
        listed.push(measured.listed);
    }
    ensure!(listed.iter().all(|rows| *rows > 0.0), "nothing was listed");
    let ratio = paired(&with, &without, |with, without| with / without).context("no run")?;
    let pace = Runs::new(listed).context("no run")?.median();
    let what = format!(
        "established packet, {} flows{}, while they are listed at {:.0} k flows/s; baseline without",
        flows_in_words(flows),
        taker.pages().remark(),
        pace / 1e3
    );
    let row = Row::new("listing", what, "Mpps", &Runs::new(with).context("no run")?);
    let without = Runs::new(without).context("no run")?;
    desk.rows.push(row.against(without.median(), ratio.median()).held_to(Target::RatioAtLeast(0.98)));
    Ok(())
}
