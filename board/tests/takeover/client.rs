//! A scripted client: it has just finished a handshake with the appliance, and sends exactly the segments it is told to.

use ipos_wire::{
    flow::Flow,
    ipos::{NextRequest, TcpConnection},
    ipv4,
    seq::Seq,
    tcb::{OptionBits, Tcb},
    tcp::{self, Flags, Timestamps},
};

use crate::{
    appliance::Appliance,
    world::{BOARD, CLIENT, SERVICE},
};

pub const ALL_OPTIONS: u16 = 0b0111;

#[derive(Debug, Clone)]
pub struct Client {
    pub flow: Flow,
    pub options: OptionBits,
    pub window_scale: u8,
    /// The next octet that the client sends.
    pub next: Seq,
    /// The next octet that the client expects.
    pub expected: Seq,
    /// The client's clock, and the last of the server's that it has seen.
    pub tsval: u32,
    pub tsecr: u32,
    pub established_at_us: u64,
}

impl Client {
    pub fn new(client_port: u16, endpoint_port: u16) -> Client {
        Client {
            flow: Flow { client: CLIENT, client_port, endpoint: SERVICE, endpoint_port },
            options: OptionBits(ALL_OPTIONS),
            window_scale: 7,
            next: Seq(0x1000_0001),
            expected: Seq(0xfff0_0001),
            tsval: 5_000_000,
            tsecr: 900_000_000,
            established_at_us: 1_700_000_000_000_000,
        }
    }

    /// The Connection Packet that an appliance would send now.
    pub fn connection(&self, id: u64) -> TcpConnection {
        TcpConnection {
            flow: self.flow,
            server: BOARD,
            server_port: self.flow.endpoint_port,
            tcb: Tcb {
                state: 4,
                options: self.options,
                client_mss: 1460,
                our_mss: 1444,
                client_window_scale: self.window_scale,
                our_window_scale: 7,
                iss: self.expected - 1,
                irs: self.next - 1,
                snd_una: self.expected,
                snd_nxt: self.expected,
                snd_wnd: 65_535,
                snd_wl1: self.next,
                snd_wl2: self.expected,
                rcv_nxt: self.next,
                rcv_wnd: 16_384,
                ts_recent: self.tsval,
                last_tsval: self.tsecr,
                migration_id: id,
                established_at_us: self.established_at_us,
                appliance_id: 1,
                epoch: 1,
                ..Tcb::default()
            },
        }
    }

    /// An IPv4 packet with one segment, at any place of the sequence.
    pub fn packet(&self, seq: Seq, flags: Flags, payload: &[u8]) -> Vec<u8> {
        let timestamps = self
            .options
            .contains(OptionBits::TIMESTAMPS)
            .then_some(Timestamps { tsval: self.tsval, tsecr: self.tsecr });
        let header = tcp::Repr {
            src_port: self.flow.client_port,
            dst_port: self.flow.endpoint_port,
            seq,
            ack: self.expected,
            flags,
            window: 64_000,
            options: tcp::Options { timestamps, ..tcp::Options::default() },
        };
        let length = header.header_len() + payload.len();
        let mut packet = vec![0; ipv4::HEADER_LEN + length];
        let (ip, segment) = packet.split_at_mut(ipv4::HEADER_LEN);
        header.emit(segment, payload, self.flow.client, self.flow.endpoint);
        ipv4::Repr {
            src: self.flow.client,
            dst: self.flow.endpoint,
            protocol: ipv4::PROTOCOL_TCP,
            ttl: 60,
            ident: 0,
            dont_fragment: true,
            payload_len: length,
        }
        .emit(ip);
        packet
    }

    /// Sends the next octets of the stream.
    pub fn send(&mut self, appliance: &mut Appliance, payload: &[u8]) {
        self.tsval += 1;
        let packet = self.packet(self.next, Flags::ACK | Flags::PSH, payload);
        appliance.send_packet(self.flow, &packet);
        self.next = self.next + u32::try_from(payload.len()).expect("short");
    }

    /// Sends a segment without data.
    pub fn send_bare(&mut self, appliance: &mut Appliance, flags: Flags) {
        let packet = self.packet(self.next, flags, &[]);
        appliance.send_packet(self.flow, &packet);
        if flags.intersects(Flags::FIN) {
            self.next = self.next + 1;
        }
    }

    /// What tells a board of the next request.
    pub fn next_request(&self) -> NextRequest {
        NextRequest { seq: self.next, ack: self.expected }
    }

    /// Moves the endpoint to the board, which acknowledges.
    pub fn migrate(&self, appliance: &mut Appliance, id: u64) {
        appliance.send_connection(&self.connection(id));
        appliance.await_ack(self.flow, id);
    }

    /// Takes the next data of the server in order, and acknowledges it; empty with its FIN.
    pub fn receive(&mut self, appliance: &mut Appliance) -> (Vec<u8>, bool) {
        loop {
            let segment = appliance.segment(self.flow);
            let header = segment.header;
            assert!(!header.flags.intersects(Flags::RST), "RST: {header:?}");
            let fin = segment.header.flags.intersects(Flags::FIN);
            if segment.payload.is_empty() && !fin {
                continue;
            }
            if header.seq != self.expected {
                // Out of order or again: say what is expected, as a client would.
                self.send_bare(appliance, Flags::ACK);
                continue;
            }
            assert_eq!(
                segment.header.options.timestamps.is_some(),
                self.options.contains(OptionBits::TIMESTAMPS),
                "timestamps are sent if and only if they were agreed on: {header:?}"
            );
            if let Some(timestamps) = segment.header.options.timestamps {
                let advance = timestamps.tsval.wrapping_sub(self.tsecr);
                assert!(
                    advance < 600_000,
                    "the server's clock continues ours: {timestamps:?}, {}",
                    self.tsecr
                );
                self.tsecr = timestamps.tsval;
            }
            self.expected =
                self.expected + u32::try_from(segment.payload.len()).expect("short") + u32::from(fin);
            self.send_bare(appliance, Flags::ACK);
            return (segment.payload, fin);
        }
    }

    /// Receives a whole HTTP answer with Content-Length; its body. True when the server closed with it.
    pub fn response(&mut self, appliance: &mut Appliance) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        let mut fin = false;
        loop {
            if let Some(body) = whole_body(&all) {
                return (body, fin);
            }
            assert!(!fin, "the server closed in the middle: {}", String::from_utf8_lossy(&all));
            let (octets, ended) = self.receive(appliance);
            all.extend(octets);
            fin |= ended;
        }
    }

    /// Asks for a page on the connection as it is.
    pub fn get(&mut self, appliance: &mut Appliance, path: &str) -> (Vec<u8>, bool) {
        self.send(appliance, request(path).as_bytes());
        self.response(appliance)
    }
}

pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n")
}

fn whole_body(answer: &[u8]) -> Option<Vec<u8>> {
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..head_end]).to_lowercase();
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())?;
    answer.get(head_end..head_end + length).map(<[u8]>::to_vec)
}
