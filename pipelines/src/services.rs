//! Services as a worker sees them: a read-only snapshot of addresses, ports and URL maps.
//!
//! Built by the appliance from its configuration, handed to every worker as one `Arc`; a reload hands over a new one.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::answers::Answers;
use crate::maglev::Maglev;
use crate::quic::ServerIds;
use crate::sessions::Cookie;
use crate::tlsmap::TlsRules;
use crate::urlmap::UrlMap;

/// How a service's connections are handled (system.md: service kinds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request head chooses the board.
    Http,
    /// The server may speak first: the handshake's ACK is all that is waited for.
    Tcp,
    /// The ClientHello chooses the board; TLS itself runs there.
    Tls,
    /// The first packet's hash chooses the board, which does the handshake: nothing is terminated here.
    L4,
    /// UDP: the first datagram of a flow chooses the board, or each for itself.
    Udp,
}

impl Kind {
    /// Whether a connection is placed without an octet from its client.
    #[inline]
    pub const fn is_server_first(self) -> bool {
        matches!(self, Kind::Tcp)
    }

    /// Whether it is a kind of UDP services.
    pub const fn is_udp(self) -> bool {
        matches!(self, Kind::Udp)
    }
}

/// A flow of datagrams ends after so long without one, milliseconds, unless its service says otherwise.
pub const UDP_IDLE_MS: u32 = 30_000;

/// One service address and port.
#[derive(Debug)]
pub struct Service {
    /// The address that clients connect to.
    pub address: Ipv4Addr,
    /// The TCP or UDP port that clients connect to.
    pub port: u16,
    /// How its connections are handled.
    pub kind: Kind,
    /// The URL map; its values are pools, see [`crate::handoff::Place::pool`].
    pub urls: UrlMap,
    /// What it says about ClientHellos, where its kind is [`Kind::Tls`].
    pub tls: TlsRules,
    /// Whether a connection of [`Kind::Http`] may begin with HTTP/2: it goes to the default pool as a whole.
    pub h2c: bool,
    /// Whether each request of a connection of [`Kind::Http`] is looked at, and moved where it belongs.
    pub migrates_requests: bool,
    /// The pool for requests that no row of a map names.
    pub default_pool: u16,
    /// Its own pages and redirects.
    pub answers: Answers,
    /// How its clients stay at their boards, where a cookie says so.
    pub cookie: Option<Cookie>,
}

/// Address and port, and the number of their service.
type Row = ((u32, u16), u16);

/// Every service, by address and port.
#[derive(Debug, Default)]
pub struct Services {
    /// By number. Those that clients cannot connect to any more are among them, for requests that are under way.
    services: Vec<Option<Arc<Service>>>,
    /// Sorted (address, port) -> number, of those that clients can connect to by TCP.
    by_endpoint: Vec<Row>,
    /// The same, by UDP.
    by_udp: Vec<Row>,
    /// Milliseconds after which a flow of datagrams ends, by number, of those that keep flows of datagrams.
    idle_ms: Vec<(u16, u32)>,
    /// Where QUIC connection ids say which board they are of, by number, of those that go by them.
    server_ids: Vec<(u16, ServerIds)>,
    /// Addresses of those, sorted, without repetition.
    addresses: Vec<u32>,
    /// Addresses of all, sorted, without repetition.
    known: Vec<u32>,
    /// Tables of those that choose boards by hash, by number; as long as the highest of their numbers.
    tables: Vec<Option<Arc<Maglev>>>,
    /// Whether the control core is asked before a board of the table gets a connection, by number; as long as the highest of
    /// those that it is asked about.
    limited: Vec<bool>,
}

/// Two services of one protocol share an address and port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("two services share {address}:{port}")]
pub struct DuplicateService {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
}

/// Sorted endpoints of the services of one protocol.
fn endpoints(open: &[(u16, Arc<Service>)], udp: bool) -> Result<Vec<Row>, DuplicateService> {
    let of_protocol = open.iter().filter(|(_, service)| service.kind.is_udp() == udp);
    let mut rows: Vec<_> =
        of_protocol.map(|(number, service)| ((service.address.to_bits(), service.port), *number)).collect();
    rows.sort_unstable();
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let (address, port) = pair[0].0;
        return Err(DuplicateService { address: Ipv4Addr::from_bits(address), port });
    }
    Ok(rows)
}

impl Services {
    /// The snapshot of these services; a service's number is its place in the list.
    ///
    /// # Errors
    /// [`DuplicateService`] names the address and port that two of them share.
    pub fn new(services: Vec<Service>) -> Result<Self, DuplicateService> {
        let numbered = services.into_iter().enumerate();
        Self::numbered(
            numbered.map(|(place, service)| (place as u16, Arc::new(service))).collect(),
            Vec::new(),
        )
    }

    /// The snapshot of services with numbers of their own: those that clients can connect to, and closed ones, whose requests
    /// that are under way go on. A number stands once in both lists.
    ///
    /// # Errors
    /// [`DuplicateService`] names the address and port that two open ones share.
    pub fn numbered(
        open: Vec<(u16, Arc<Service>)>,
        closed: Vec<(u16, Arc<Service>)>,
    ) -> Result<Self, DuplicateService> {
        let (by_endpoint, by_udp) = (endpoints(&open, false)?, endpoints(&open, true)?);
        let mut addresses: Vec<u32> =
            by_endpoint.iter().chain(&by_udp).map(|((address, _), _)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut services = Vec::new();
        for (number, service) in open.into_iter().chain(closed) {
            let place = usize::from(number);
            if services.len() <= place {
                services.resize(place + 1, None);
            }
            services[place] = Some(service);
        }
        let mut known: Vec<u32> =
            services.iter().flatten().map(|service| service.address.to_bits()).collect();
        known.sort_unstable();
        known.dedup();
        Ok(Self {
            services,
            by_endpoint,
            by_udp,
            idle_ms: Vec::new(),
            server_ids: Vec::new(),
            addresses,
            known,
            tables: Vec::new(),
            limited: Vec::new(),
        })
    }

    /// The same with the tables of those that choose boards by hash, by number.
    pub fn with_tables(mut self, tables: Vec<(u16, Arc<Maglev>)>) -> Self {
        for (number, table) in tables {
            let place = usize::from(number);
            if self.tables.len() <= place {
                self.tables.resize(place + 1, None);
            }
            self.tables[place] = Some(table);
        }
        self
    }

    /// The same with the numbers of those that choose boards of connections by hash, and have limits for clients.
    pub fn with_limits(mut self, numbers: &[u16]) -> Self {
        let end = numbers.iter().max().map_or(0, |most| usize::from(*most) + 1);
        self.limited =
            (0..end).map(|place| numbers.iter().any(|number| usize::from(*number) == place)).collect();
        self
    }

    /// The same with what ends the flows of those that keep flows of datagrams, by number.
    pub fn with_idle_ms(mut self, mut idle_ms: Vec<(u16, u32)>) -> Self {
        idle_ms.sort_unstable();
        self.idle_ms = idle_ms;
        self
    }

    /// The same with what connection ids say, by number.
    pub fn with_server_ids(mut self, mut server_ids: Vec<(u16, ServerIds)>) -> Self {
        server_ids.sort_unstable_by_key(|row| row.0);
        self.server_ids = server_ids;
        self
    }

    /// Where connection ids of this service say which board they are of, if it goes by them.
    #[inline]
    pub fn server_ids(&self, number: u16) -> Option<&ServerIds> {
        let place = self.server_ids.binary_search_by_key(&number, |row| row.0).ok()?;
        self.server_ids.get(place).map(|row| &row.1)
    }

    /// A flow of datagrams of this service ends after so long without one, milliseconds.
    #[inline]
    pub fn idle_ms(&self, number: u16) -> Option<u32> {
        let place = self.idle_ms.binary_search_by_key(&number, |row| row.0).ok()?;
        self.idle_ms.get(place).map(|row| row.1)
    }

    /// The number of the UDP service at this address and port.
    #[inline]
    pub fn find_udp(&self, address: Ipv4Addr, port: u16) -> Option<u16> {
        let key = (address.to_bits(), port);
        let place = self.by_udp.binary_search_by_key(&key, |row| row.0).ok()?;
        self.by_udp.get(place).map(|row| row.1)
    }

    /// The number of the TCP service at this address and port.
    #[inline]
    pub fn find(&self, address: Ipv4Addr, port: u16) -> Option<u16> {
        let key = (address.to_bits(), port);
        let place = self.by_endpoint.binary_search_by_key(&key, |row| row.0).ok()?;
        self.by_endpoint.get(place).map(|row| row.1)
    }

    /// The table of a service that chooses boards by hash.
    #[inline(always)]
    pub fn table(&self, number: u16) -> Option<&Arc<Maglev>> {
        self.tables.get(usize::from(number))?.as_ref()
    }

    /// Whether connections of a service that chooses boards by hash have to be admitted.
    #[inline]
    pub fn is_limited(&self, number: u16) -> bool {
        self.limited.get(usize::from(number)).is_some_and(|is_limited| *is_limited)
    }

    /// Whether there is a service at this address and port whose handshakes are the appliance's.
    #[inline(always)]
    pub fn answers_syn(&self, address: Ipv4Addr, port: u16) -> bool {
        self.find(address, port).is_some_and(|number| self.table(number).is_none())
    }

    /// Whether some service that clients can connect to has this address.
    #[inline]
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        self.addresses.binary_search(&address.to_bits()).is_ok()
    }

    /// Whether some service has this address, a closed one or not.
    #[inline]
    pub fn knows_address(&self, address: Ipv4Addr) -> bool {
        self.known.binary_search(&address.to_bits()).is_ok()
    }

    /// The service of this number.
    #[inline]
    pub fn service(&self, number: u16) -> Option<&Service> {
        self.services.get(usize::from(number))?.as_deref()
    }
}
