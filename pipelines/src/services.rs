//! Services as a worker sees them: a read-only snapshot of addresses, ports and URL maps.
//!
//! Built by the appliance from its configuration, handed to every worker as one `Arc`; a reload hands over a new one.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::answers::Answers;
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
}

impl Kind {
    /// Whether a connection is placed without an octet from its client.
    #[inline]
    pub const fn is_server_first(self) -> bool {
        matches!(self, Kind::Tcp)
    }
}

/// One service address and port.
#[derive(Debug)]
pub struct Service {
    /// The address that clients connect to.
    pub address: Ipv4Addr,
    /// The TCP port that clients connect to.
    pub port: u16,
    /// How its connections are handled.
    pub kind: Kind,
    /// The URL map; its values are pools, see [`crate::handoff::Place::pool`].
    pub urls: UrlMap,
    /// What it says about ClientHellos, where its kind is [`Kind::Tls`].
    pub tls: TlsRules,
    /// Whether a connection of [`Kind::Http`] may begin with HTTP/2: it goes to the default pool as a whole.
    pub h2c: bool,
    /// The pool for requests that no row of a map names.
    pub default_pool: u16,
    /// Its own pages and redirects.
    pub answers: Answers,
}

/// Every service, by address and port.
#[derive(Debug, Default)]
pub struct Services {
    /// By number. Those that clients cannot connect to any more are among them, for requests that are under way.
    services: Vec<Option<Arc<Service>>>,
    /// Sorted (address, port) -> number, of those that clients can connect to.
    by_endpoint: Vec<((u32, u16), u16)>,
    /// Addresses of those, sorted, without repetition.
    addresses: Vec<u32>,
    /// Addresses of all, sorted, without repetition.
    known: Vec<u32>,
}

/// Two services share an address and port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("two services share {address}:{port}")]
pub struct DuplicateService {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
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
        let mut by_endpoint: Vec<_> = open
            .iter()
            .map(|(number, service)| ((service.address.to_bits(), service.port), *number))
            .collect();
        by_endpoint.sort_unstable();
        if let Some(pair) = by_endpoint.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (address, port) = pair[0].0;
            return Err(DuplicateService { address: Ipv4Addr::from_bits(address), port });
        }
        let mut addresses: Vec<u32> = by_endpoint.iter().map(|((address, _), _)| *address).collect();
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
        Ok(Self { services, by_endpoint, addresses, known })
    }

    /// The number of the service at this address and port.
    #[inline]
    pub fn find(&self, address: Ipv4Addr, port: u16) -> Option<u16> {
        let key = (address.to_bits(), port);
        let place = self.by_endpoint.binary_search_by_key(&key, |row| row.0).ok()?;
        self.by_endpoint.get(place).map(|row| row.1)
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
