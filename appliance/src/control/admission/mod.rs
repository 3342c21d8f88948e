//! Admission (`[service.admit]`): how many connections a service takes, and how many of them one client may have.
//!
//! Input: requests and flows for which a board is wanted, ended connections. Output: admitted, or the limit that is reached. Owner: the
//! control core, which sees every placement of every worker, so that limits hold for the appliance as a whole: one client's
//! connections are spread over the workers by hash, and a share of a small limit for each would refuse clients that are within it.
//!
//! What counts has proven its handshake, since nothing else asks for a board: a flood of SYNs from forged addresses reaches no
//! count. It counts until its end, which its worker tells ([`ipos_pipelines::ended`]). Cost: for a service without limits one look at
//! its row; else one look-up of the client. The clients are bounded: [`CLIENTS_MAX`] pairs of client and service, which are let go
//! of when they have no connection and their bucket is full again, at most 64 looks a turn.

mod bucket;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{Counted, EndedFlow, RetryAfter};
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;

use super::counters::{ControlCounters, Did, OverLimit};
use super::under_way::{At, UnderWay};

pub use bucket::{Bucket, Rate};

/// Clients that are remembered, each once for each service. More are let through without a limit of their own, and counted.
pub const CLIENTS_MAX: usize = 65_536;

/// Between two looks at whether a client can be let go of, nanoseconds.
const LOOK_NS: u64 = SECOND_NS;

const SECOND_NS: u64 = 1_000_000_000;

/// Clients that are looked at in one turn, at most.
const LOOKS_EACH: usize = 64;

/// `[service.admit]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admit {
    /// Connections at once.
    pub connections: Option<u32>,
    /// New ones.
    pub rate: Option<Rate>,
    /// Connections at once of one client address.
    pub client_connections: Option<u32>,
    /// New ones of one client address.
    pub client_rate: Option<Rate>,
}

impl Admit {
    /// Whether it limits anything.
    pub fn limits_anything(&self) -> bool {
        *self != Self::default()
    }

    fn limits_clients(&self) -> bool {
        self.client_connections.is_some() || self.client_rate.is_some()
    }
}

/// What the control core is told of a service that has limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitSettings {
    /// Its number.
    pub service: u16,
    /// Address and port.
    pub endpoint: (Ipv4Addr, u16),
    /// Of UDP or TCP.
    pub protocol: Protocol,
    /// Its limits.
    pub admit: Admit,
}

/// What a service has admitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Admitted {
    /// Connections now.
    pub connections: u32,
    /// Refused, by [`OverLimit`].
    pub refused: [u64; OverLimit::ALL.len()],
}

#[derive(Debug)]
struct Service {
    /// `None` while it has no limits; those of its connections that count end one by one.
    admit: Option<Admit>,
    bucket: Bucket,
    admitted: Admitted,
}

#[derive(Debug)]
struct Client {
    service: u16,
    connections: u32,
    bucket: Bucket,
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// When to come again.
    pub retry: RetryAfter,
}

/// All limits, and what counts against them.
#[derive(Debug)]
pub struct Admission {
    /// By number; counts outlive a reload.
    services: Vec<Option<Service>>,
    /// The numbers of those that have, or had, limits.
    numbers: HashMap<(Ipv4Addr, u16, Protocol), u16>,
    clients: UnderWay<Client>,
}

/// A client is known by its address alone: as a flow without port.
fn key(flow: &Flow) -> Flow {
    Flow { client_port: 0, ..*flow }
}

impl Admission {
    /// Limits of these services; nothing counts yet.
    pub fn new(settings: &[AdmitSettings]) -> Self {
        let clients = UnderWay::new(CLIENTS_MAX, LOOK_NS);
        let mut admission = Self { services: Vec::new(), numbers: HashMap::new(), clients };
        admission.reconfigure(settings);
        admission
    }

    /// Other limits. Connections that count go on counting, and buckets keep what is in them.
    pub fn reconfigure(&mut self, settings: &[AdmitSettings]) {
        self.services.iter_mut().flatten().for_each(|service| service.admit = None);
        for AdmitSettings { service, endpoint: (address, port), protocol, admit } in settings {
            let place = usize::from(*service);
            if self.services.len() <= place {
                self.services.resize_with(place + 1, || None);
            }
            self.numbers.insert((*address, *port, *protocol), *service);
            let new = || Service { admit: None, bucket: Bucket::FULL, admitted: Admitted::default() };
            if let Some(place) = self.services.get_mut(place) {
                place.get_or_insert_with(new).admit = Some(*admit);
            }
        }
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    /// What a service with limits has admitted, and its limits.
    pub fn shown(&self, service: u16) -> Option<(Admit, Admitted)> {
        let service = self.services.get(usize::from(service))?.as_ref()?;
        Some((service.admit?, service.admitted))
    }

    /// A connection wants a board. When it is admitted it counts until [`Self::ended`].
    ///
    /// # Errors
    /// [`Beyond`] when a limit is reached; it takes nothing of any other limit then, so that a client that is refused keeps no
    /// other from the service.
    #[inline]
    pub fn admit(
        &mut self,
        now_ns: u64,
        counters: &mut ControlCounters,
        service: u16,
        flow: &Flow,
    ) -> Result<Counted, Beyond> {
        match self.services.get(usize::from(service)).and_then(Option::as_ref).and_then(|found| found.admit) {
            None => Ok(Counted::No),
            Some(admit) => {
                let admitted = self.limited(now_ns, counters, (service, &admit), flow);
                if admitted.is_err() {
                    counters.count(Did::OverLimit);
                }
                admitted
            }
        }
    }

    fn limited(
        &mut self,
        now_ns: u64,
        counters: &mut ControlCounters,
        (number, admit): (u16, &Admit),
        flow: &Flow,
    ) -> Result<Counted, Beyond> {
        let at =
            if admit.limits_clients() { self.client(now_ns, counters, number, &key(flow)) } else { None };
        let Self { services, clients, .. } = self;
        let Some(service) = services.get_mut(usize::from(number)).and_then(Option::as_mut) else {
            return Ok(Counted::No);
        };
        let client = at.and_then(|at| clients.get_mut(at));
        if let Some((reason, wait_ns)) = reached(now_ns, admit, service, client.as_deref()) {
            service.admitted.refused[reason as usize] += 1;
            return Err(Beyond { retry: RetryAfter::at_least(wait_ns.div_ceil(SECOND_NS)) });
        }
        service.admitted.connections += 1;
        if let Some(rate) = admit.rate {
            service.bucket.take(rate, now_ns);
        }
        let Some(client) = client else { return Ok(Counted::Service) };
        client.connections += 1;
        if let Some(rate) = admit.client_rate {
            client.bucket.take(rate, now_ns);
        }
        Ok(Counted::Client)
    }

    /// Where a client is remembered; `None` when there is no room for another.
    fn client(
        &mut self,
        now_ns: u64,
        counters: &mut ControlCounters,
        service: u16,
        key: &Flow,
    ) -> Option<At> {
        if let Some(at) = self.clients.find(key) {
            return Some(at);
        }
        let new = || Client { service, connections: 0, bucket: Bucket::FULL };
        let Some((at, client)) = self.clients.enter(key, new) else {
            counters.count(Did::ClientsFull);
            return None;
        };
        // What an earlier client left there.
        *client = new();
        self.clients.start_timer(at, now_ns);
        Some(at)
    }

    /// A connection that counted has ended.
    pub fn ended(&mut self, ended: &EndedFlow) {
        let EndedFlow { flow, protocol, counted } = ended;
        let Some(number) = self.numbers.get(&(flow.endpoint, flow.endpoint_port, *protocol)).copied() else {
            return;
        };
        self.release(number, flow, *counted);
    }

    /// The same, of a service that is known by its number: no board was found, or its client has left before.
    pub fn release(&mut self, service: u16, flow: &Flow, counted: Counted) {
        if counted == Counted::No {
            return;
        }
        if let Some(service) = self.services.get_mut(usize::from(service)).and_then(Option::as_mut) {
            service.admitted.connections = service.admitted.connections.saturating_sub(1);
        }
        let at = if counted == Counted::Client { self.clients.find(&key(flow)) } else { None };
        if let Some(client) = at.and_then(|at| self.clients.get_mut(at)) {
            client.connections = client.connections.saturating_sub(1);
        }
    }

    /// Lets go of clients of whom nothing has to be remembered any more.
    pub fn tick(&mut self, now_ns: u64) {
        for _ in 0..LOOKS_EACH {
            let Some(at) = self.clients.due(now_ns) else { return };
            let Some(client) = self.clients.get(at) else { continue };
            let service = self.services.get(usize::from(client.service)).and_then(Option::as_ref);
            let rate = service.and_then(|service| service.admit?.client_rate);
            let is_quiet = rate.is_none_or(|rate| client.bucket.is_full(rate, now_ns));
            if client.connections == 0 && is_quiet {
                self.clients.remove(at);
            } else {
                self.clients.start_timer(at, now_ns);
            }
        }
    }
}

/// The limit that one more connection would exceed, and how long until it would not, as far as that is known, nanoseconds.
fn reached(
    now_ns: u64,
    admit: &Admit,
    service: &Service,
    client: Option<&Client>,
) -> Option<(OverLimit, u64)> {
    let is_beyond = |limit: Option<u32>, have: u32| limit.is_some_and(|limit| have >= limit);
    let wait_ns = |rate: Option<Rate>, bucket: &Bucket| rate.map_or(0, |rate| bucket.wait_ns(rate, now_ns));
    if let Some(client) = client {
        if is_beyond(admit.client_connections, client.connections) {
            return Some((OverLimit::ClientConnections, 0));
        }
        match wait_ns(admit.client_rate, &client.bucket) {
            0 => {}
            ns => return Some((OverLimit::ClientRate, ns)),
        }
    }
    if is_beyond(admit.connections, service.admitted.connections) {
        return Some((OverLimit::Connections, 0));
    }
    match wait_ns(admit.rate, &service.bucket) {
        0 => None,
        ns => Some((OverLimit::Rate, ns)),
    }
}

#[cfg(test)]
mod tests;
