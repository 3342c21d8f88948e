//! Gathers what is shown: the workers' counters, read here, and the control core's snapshot, asked for.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use ipos_pipelines::counters::{LATENCY_BOUNDS_US, Latencies, WorkerCounters};
use ipos_pipelines::handoff::{FlowFilter, FlowPage, FlowRow, WorkerId};
use ipos_wire::flow::Flow;
use tokio::sync::oneshot;

use super::live::Live;
use super::metrics::Exporter;
use super::rows::{LatencyRow, UrlRow};
use crate::control::sessions::rows::{CookiePage, Only};
use crate::control::snapshot::Snapshot;
use crate::control::trace::Trace;
use crate::control::turn::Request;

/// How long the control core may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts by bucket of a worker's latencies.
type Buckets = [u64; LATENCY_BOUNDS_US.len() + 1];

/// The control core did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control core does not answer: it is starting, stalled or gone")]
pub struct NoAnswer;

/// What the appliance is called and what it has. Boards and URL map change with the configuration.
#[derive(Clone, Debug)]
pub struct About {
    /// The appliance's id.
    pub id: u16,
    /// Grows at every start.
    pub epoch: u16,
    /// When it started, Unix seconds.
    pub started_s: f64,
    /// Names of the ports, in the order of the configuration.
    pub ports: Vec<String>,
    /// Names of the boards by number, those included that are gone.
    pub boards: Vec<String>,
    /// The URL Map (Fig. 12).
    pub urls: Vec<UrlRow>,
}

/// The sources, and what is remembered between two looks.
pub struct Collector {
    /// What the appliance is called and what it has.
    pub about: About,
    /// The workers' counters.
    pub workers: Vec<Arc<WorkerCounters>>,
    /// The configuration that is in force.
    pub live: Live,
    requests: crossbeam_channel::Sender<Request>,
    exporter: Exporter,
    latency: Histogram<u64>,
    /// Placements by bucket that the metrics have, of all workers.
    placed: Buckets,
    /// The same of moves.
    moved: Buckets,
    cycles: Vec<(u64, u64)>,
    busy: Vec<f64>,
}

impl Collector {
    /// Nothing gathered yet.
    pub fn new(
        about: About,
        workers: Vec<Arc<WorkerCounters>>,
        requests: crossbeam_channel::Sender<Request>,
        live: Live,
    ) -> Self {
        Self {
            exporter: Exporter::new(),
            latency: Histogram::new(2).expect("two digits are within the histogram's own rules"),
            placed: Buckets::default(),
            moved: Buckets::default(),
            cycles: vec![(0, 0); workers.len()],
            busy: vec![0.0; workers.len()],
            about,
            workers,
            requests,
            live,
        }
    }

    /// The control core's state now. Latencies since the last call go into the metrics.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn snapshot(&mut self) -> Result<Snapshot, NoAnswer> {
        let (snapshot, latency) = self.ask(Request::Snapshot).await?;
        self.exporter.latencies(&latency);
        self.take_placements();
        self.take_moves();
        // It grows to what it is given, so nothing can be out of range.
        let _ = self.latency.add(&latency);
        Ok(snapshot)
    }

    fn take_moves(&mut self) {
        let now = self.sum_of(|counters| &counters.moves);
        let mut fresh = now;
        fresh.iter_mut().zip(self.moved).for_each(|(count, before)| *count -= before);
        self.exporter.moves(&fresh);
        self.moved = now;
    }

    /// What all workers have counted, by bucket.
    fn sum_of(&self, of: impl Fn(&WorkerCounters) -> &Latencies) -> Buckets {
        let mut sum = Buckets::default();
        for counters in &self.workers {
            sum.iter_mut().zip(of(counters).read()).for_each(|(sum, count)| *sum += count);
        }
        sum
    }

    fn take_placements(&mut self) {
        let now = self.sum_of(|counters| &counters.placements);
        let mut fresh = now;
        fresh.iter_mut().zip(self.placed).for_each(|(count, before)| *count -= before);
        self.exporter.placements(&fresh);
        self.placed = now;
    }

    /// A page of a worker's flows.
    ///
    /// # Errors
    /// [`NoAnswer`], also when the page was lost to a full queue.
    pub async fn flows(
        &self,
        worker: WorkerId,
        cursor: u32,
        filter: FlowFilter,
    ) -> Result<Box<FlowPage>, NoAnswer> {
        self.ask(|reply| Request::Flows { worker, cursor, filter, reply }).await
    }

    /// What is known of one connection: what was decided about it, and its entry, if its worker has one.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn trace(&self, flow: Flow) -> Result<(Trace, Option<FlowRow>), NoAnswer> {
        let trace = self.ask(|reply| Request::Trace { flow, reply }).await?;
        let filter = FlowFilter { flow: Some(flow), ..FlowFilter::default() };
        let page = self.flows(WorkerId(trace.worker), 0, filter).await?;
        Ok((trace, page.rows.first().copied()))
    }

    /// A page of the Cookie Map, or what is wrong with what is asked for.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn cookies(&self, from: u32, only: Only) -> Result<Result<CookiePage, String>, NoAnswer> {
        self.ask(|reply| Request::Cookies { from, only, reply }).await
    }

    /// Asks the control core for something.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|_| NoAnswer)?;
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| NoAnswer)?.map_err(|_| NoAnswer)
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn metrics(&mut self) -> Result<String, NoAnswer> {
        let snapshot = self.snapshot().await?;
        Ok(self.exporter.render(&self.about, &self.workers, &self.busy, &snapshot))
    }

    /// Once a second: takes latencies before there are too many, and sees how busy the workers are.
    pub async fn tick(&mut self) {
        for ((counters, before), busy) in self.workers.iter().zip(&mut self.cycles).zip(&mut self.busy) {
            let now = (counters.busy_cycles.read(), counters.total_cycles.read());
            let (worked, passed) = (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1));
            if passed > 0 {
                *busy = (worked as f64 / passed as f64).clamp(0.0, 1.0);
            }
            *before = now;
        }
        // While the control core starts or stops there is nothing to take.
        let _ = self.snapshot().await;
        self.exporter.upkeep();
    }

    /// How busy each worker was in the last second, 0..=1.
    pub fn busy(&self) -> &[f64] {
        &self.busy
    }

    /// Latencies of migrations since the start.
    pub fn latency(&self) -> LatencyRow {
        let us = |ns: u64| ns as f64 / 1000.0;
        LatencyRow {
            count: self.latency.len(),
            p50_us: us(self.latency.value_at_quantile(0.5)),
            p99_us: us(self.latency.value_at_quantile(0.99)),
            max_us: us(self.latency.max()),
        }
    }
}
