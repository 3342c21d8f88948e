//! Sockets of this network namespace, through the kernel's sock_diag.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
};

use ipos_wire::flow::Flow;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// One listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Bound to; unspecified for a wildcard.
    pub address: IpAddr,
    /// Bound to.
    pub port: u16,
    /// Connections waiting for `accept`.
    pub queue: u32,
    /// The limit of the accept queue.
    pub queue_limit: u32,
    /// Names the socket in `/proc/PID/fd`.
    pub inode: u32,
    /// Speaks Multipath TCP: it takes no endpoints over.
    pub mptcp: bool,
}

/// One established TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    /// Its addresses and ports: the client's and its own.
    pub flow: Flow,
    /// Names the socket in `/proc/PID/fd`.
    pub inode: u32,
    /// Octets that the application has not read, and that the client has not acknowledged.
    pub waiting: u64,
    /// Since data last went either way, milliseconds.
    pub quiet_ms: u32,
}

/// A netlink socket for sock_diag requests.
pub struct SockDiag {
    socket: Socket,
    sequence: u32,
    /// What the kernel answers, one datagram at a time.
    answer: Vec<u8>,
    /// Listeners by their cookie, and whether they speak Multipath TCP.
    mptcp: HashMap<[u8; 8], bool>,
}

/// No datagram of the kernel's is longer (net/netlink/af_netlink.c), and it fills as much of it as there is room for.
const ANSWER_MAX: usize = 1 << 16;

impl SockDiag {
    /// Opens one in this network namespace.
    ///
    /// # Errors
    /// When the kernel has no sock_diag.
    pub fn open() -> io::Result<SockDiag> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(SockDiag { socket, sequence: 0, answer: Vec::with_capacity(ANSWER_MAX), mptcp: HashMap::new() })
    }

    /// Every listening TCP socket that may take an IPv4 endpoint: bound to an IPv4 address, or dual-stack to `[::]`.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn listeners(&mut self) -> io::Result<Vec<Listener>> {
        let found = self.dump_listeners(ExtensionFlags::empty())?;
        if found.iter().any(|response| !self.mptcp.contains_key(&response.header.socket_id.cookie)) {
            // The kernel tells the protocol above TCP only beside tcp_info, which makes the answer four times as long; no
            // socket ever changes it.
            let known = self.dump_listeners(ExtensionFlags::INFO)?;
            let entry = |response: InetResponse| (response.header.socket_id.cookie, is_mptcp(&response));
            self.mptcp = known.into_iter().map(entry).collect();
        }
        let listener = |response: InetResponse| {
            let header = response.header;
            Listener {
                address: header.socket_id.source_address,
                port: header.socket_id.source_port,
                queue: header.recv_queue,
                queue_limit: header.send_queue,
                inode: header.inode,
                mptcp: self.mptcp.get(&header.socket_id.cookie).copied().unwrap_or(false),
            }
        };
        Ok(found.into_iter().map(listener).collect())
    }

    fn dump_listeners(&mut self, extensions: ExtensionFlags) -> io::Result<Vec<InetResponse>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let listeners = self.dump(family, StateFlags::LISTEN, extensions.clone())?;
            found.extend(listeners.into_iter().filter(|response| {
                let covers_ipv4 =
                    family == AF_INET || response.header.socket_id.source_address.is_unspecified();
                covers_ipv4 && !is_ipv6_only(response)
            }));
        }
        Ok(found)
    }

    /// The inode of every socket that holds a connection over IPv4, by the flow of a client that made it; 0 for one that still
    /// waits to be accepted. TIME-WAIT is no socket any more.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn connections(&mut self) -> io::Result<HashMap<Flow, u32>> {
        let states = StateFlags::ESTABLISHED
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT
            | StateFlags::LAST_ACK
            | StateFlags::CLOSING;
        let mut found = HashMap::new();
        for family in [AF_INET, AF_INET6] {
            for response in self.dump(family, states.clone(), ExtensionFlags::empty())? {
                let id = &response.header.socket_id;
                let (Some(client), Some(endpoint)) = (v4(id.destination_address), v4(id.source_address))
                else {
                    continue;
                };
                let flow = Flow {
                    client,
                    client_port: id.destination_port,
                    endpoint,
                    endpoint_port: id.source_port,
                };
                found.insert(flow, response.header.inode);
            }
        }
        Ok(found)
    }

    /// Every established TCP socket of an IPv4 connection.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn established(&mut self) -> io::Result<Vec<Established>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            found.extend(
                self.dump(family, StateFlags::ESTABLISHED, ExtensionFlags::INFO)?
                    .iter()
                    .filter_map(established),
            );
        }
        Ok(found)
    }

    /// The established socket that holds `flow`, as it is now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn established_of(&mut self, flow: &Flow) -> io::Result<Option<Established>> {
        let request = InetRequest { extensions: ExtensionFlags::INFO, ..exact(any_of(flow)) };
        self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST)?;
        self.receive(|payload: NetlinkPayload<SockDiagMessage>| match payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                Ok(Some(established(&response).filter(|_| response.header.state == TCP_ESTABLISHED)))
            }
            NetlinkPayload::Error(error) => found(&error).map(|_| Some(None)),
            _ => Ok(None),
        })
    }

    fn dump(
        &mut self,
        family: u8,
        states: StateFlags,
        extensions: ExtensionFlags,
    ) -> io::Result<Vec<InetResponse>> {
        let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
        self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut responses = Vec::new();
        self.receive(|payload: NetlinkPayload<SockDiagMessage>| match payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                responses.push(*response);
                Ok(None)
            }
            NetlinkPayload::Done(_) => Ok(Some(())),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Ok(None),
        })?;
        Ok(responses)
    }

    /// Destroys the socket that holds `flow`, whatever its state; true when there was one.
    ///
    /// It sends a RST, which the egress program hides. The application's next call on it fails with ECONNABORTED.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN, EOPNOTSUPP when the kernel lacks CONFIG_INET_DIAG_DESTROY.
    pub fn destroy(&mut self, flow: &Flow) -> io::Result<bool> {
        // By its cookie: where no socket holds the flow, the four numbers alone would find, and destroy, the listener.
        let Some(socket_id) = self.find(flow)? else { return Ok(false) };
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(exact(socket_id)));
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        self.receive(|payload: NetlinkPayload<SockDiagMessage>| match payload {
            NetlinkPayload::Error(error) => found(&error).map(Some),
            _ => Ok(None),
        })
    }

    /// The socket that holds `flow`, listeners apart.
    fn find(&mut self, flow: &Flow) -> io::Result<Option<SocketId>> {
        self.send(SockDiagMessage::InetRequest(exact(any_of(flow))), NLM_F_REQUEST)?;
        self.receive(|payload: NetlinkPayload<SockDiagMessage>| match payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let header = response.header;
                // The lookup is made with IPv4 addresses, also when a dual-stack socket is found by them.
                let socket_id = SocketId { cookie: header.socket_id.cookie, ..any_of(flow) };
                Ok(Some((header.state != TCP_LISTEN).then_some(socket_id)))
            }
            NetlinkPayload::Error(error) => found(&error).map(|_| Some(None)),
            _ => Ok(None),
        })
    }

    fn send<M>(&mut self, message: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, message.into());
        packet.finalize();
        let mut octets = vec![0; packet.buffer_len()];
        packet.serialize(&mut octets);
        self.socket.send(&octets, 0).map(|_| ())
    }

    /// Hands every message of the answer to `take`, until it makes something of one.
    fn receive<M, T, F>(&mut self, mut take: F) -> io::Result<T>
    where
        M: NetlinkDeserializable,
        F: FnMut(NetlinkPayload<M>) -> io::Result<Option<T>>,
    {
        loop {
            self.answer.clear();
            self.socket.recv(&mut self.answer, 0)?;
            let mut rest = self.answer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let length =
                    usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4);
                let ours = message.header.sequence_number == self.sequence;
                if ours && let Some(made) = take(message.payload)? {
                    return Ok(made);
                }
                rest = rest.get(length.max(16)..).unwrap_or_default();
            }
        }
    }
}

/// An IPv4 address, also where a dual-stack socket has it mapped.
fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
    }
}

fn established(response: &InetResponse) -> Option<Established> {
    // `struct tcp_info`, linux/tcp.h.
    const LAST_DATA_SENT: usize = 44;
    const LAST_DATA_RECEIVED: usize = 52;
    let header = &response.header;
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(octets) => Some(octets.as_slice()),
        _ => None,
    })?;
    let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Some(Established {
        flow: Flow {
            client: v4(header.socket_id.destination_address)?,
            client_port: header.socket_id.destination_port,
            endpoint: v4(header.socket_id.source_address)?,
            endpoint_port: header.socket_id.source_port,
        },
        inode: header.inode,
        waiting: u64::from(header.recv_queue) + u64::from(header.send_queue),
        quiet_ms: word(LAST_DATA_SENT)?.min(word(LAST_DATA_RECEIVED)?),
    })
}

/// A request about one socket.
fn exact(socket_id: SocketId) -> InetRequest {
    InetRequest {
        family: AF_INET,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    }
}

/// Whatever socket a packet of this flow would meet.
fn any_of(flow: &Flow) -> SocketId {
    SocketId {
        source_port: flow.endpoint_port,
        destination_port: flow.client_port,
        source_address: IpAddr::V4(flow.endpoint),
        destination_address: IpAddr::V4(flow.client),
        interface_id: 0,
        cookie: [0xff; 8],
    }
}

/// What the kernel's acknowledgement says: true for done, false for no such socket.
fn found(error: &ErrorMessage) -> io::Result<bool> {
    match error.code {
        None => Ok(true),
        // ESTALE: the cookie is another socket's by now.
        Some(code) if code.get() == -libc::ENOENT || code.get() == -libc::ESTALE => Ok(false),
        Some(_) => Err(error.to_io()),
    }
}

/// The kernel tells the protocol above TCP in a nested attribute (INET_DIAG_ULP_INFO, INET_ULP_INFO_NAME; linux/inet_diag.h).
fn is_mptcp(response: &InetResponse) -> bool {
    const INET_DIAG_ULP_INFO: u16 = 19;
    const NLA_TYPE_MASK: u16 = 0x3fff;
    const NAME: &[u8] = b"mptcp\0";
    response.nlas.iter().any(|nla| match nla {
        Nla::Other(other) if other.kind() & NLA_TYPE_MASK == INET_DIAG_ULP_INFO => {
            let mut value = vec![0; other.value_len()];
            other.emit_value(&mut value);
            value.windows(NAME.len()).any(|window| window == NAME)
        }
        _ => false,
    })
}

/// Bound to IPv6 alone: no IPv4 endpoint can be given to it.
fn is_ipv6_only(response: &InetResponse) -> bool {
    response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr as StdAddr, SocketAddrV4, TcpListener, TcpStream};

    use super::*;

    fn std_v4(address: StdAddr) -> SocketAddrV4 {
        match address {
            StdAddr::V4(v4) => v4,
            StdAddr::V6(v6) => panic!("{v6} is not IPv4"),
        }
    }

    #[test]
    fn a_listener_is_found_with_its_queue_its_limit_and_its_inode() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("address").port();
        let _waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        let all = SockDiag::open().expect("sock_diag").listeners().expect("dump");
        let found = all.iter().find(|l| l.port == port).expect("the listener");
        assert_eq!(found.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!((found.queue, found.mptcp), (1, false));
        assert!(found.queue_limit > 0 && found.inode > 0, "{found:?}");
    }

    #[test]
    fn connections_are_found_by_flow_and_have_an_inode_once_they_are_accepted() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(listen).expect("listen");
            let port = listener.local_addr().expect("address").port();
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
            let near = std_v4(client.local_addr().expect("address"));
            let flow = Flow {
                client: *near.ip(),
                client_port: near.port(),
                endpoint: Ipv4Addr::LOCALHOST,
                endpoint_port: port,
            };
            let mut diag = SockDiag::open().expect("sock_diag");
            assert_eq!(diag.connections().expect("dump").get(&flow), Some(&0), "{listen}: not accepted yet");
            let (_server, _) = listener.accept().expect("accept");
            let inode = diag.connections().expect("dump").get(&flow).copied();
            assert!(inode.is_some_and(|inode| inode > 0), "{listen}: {inode:?}");
        }
    }

    #[test]
    fn a_socket_is_destroyed_once_and_its_listener_never() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        let (near, far) =
            (std_v4(client.local_addr().expect("address")), std_v4(server.local_addr().expect("address")));
        let flow = Flow {
            client: *near.ip(),
            client_port: near.port(),
            endpoint: *far.ip(),
            endpoint_port: far.port(),
        };
        let mut diag = SockDiag::open().expect("sock_diag");
        assert!(diag.destroy(&flow).expect("destroy"));
        let error = io::Read::read(&mut server, &mut [0; 1]).expect_err("the socket is gone");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(!diag.destroy(&flow).expect("the second time nothing is found"));
        TcpStream::connect(listener.local_addr().expect("address"))
            .expect("and the listener is not taken for it");
    }
}
