//! Scripted clients and boards: what they say, and that they were told what they should be.

use std::ops::Range;

use anyhow::{Context as _, ensure};
use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::Mempool;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{
    Ack, Listening, ListeningRow, Protocol, ReportPart, ServerState, TcpConnection, Trailer,
};
use ipos_wire::seq::Seq;
use ipos_wire::tcb::OptionBits;
use ipos_wire::tcp::{self, Flags, Options, Timestamps};
use ipos_wire::{ethernet, ipos, ipv4};

use crate::capture::{FARM_MAC, flow, frame, syn_options};
use crate::setup::{BOARDS, ETHERTYPE, FARM_ADDRESS, board_address, board_mac};
use crate::wire::Wire;

/// What every client asks for: the head that a browser's successor sends, short enough for one segment.
const REQUEST: &[u8] = b"GET /images/logo-2.png HTTP/1.1\r\nHost: www.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
    x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: image/png,image/*;q=0.8,*/*;q=0.5\r\nAccept-Encoding: \
    gzip, deflate\r\nConnection: keep-alive\r\nCookie: session=3c6ef372fe94f82b\r\n\r\n";

/// The connections of one batch.
pub struct Peers {
    pool: Mempool,
    clients: Vec<Client>,
}

struct Client {
    flow: Flow,
    irs: Seq,
    iss: Seq,
    /// TSval of the SYN-ACK.
    tsecr: u32,
}

impl Client {
    fn segment(&self, seq: u32, ack: u32, flags: Flags, payload: &[u8]) -> Vec<u8> {
        let timestamps = Some(Timestamps { tsval: 7_001, tsecr: self.tsecr });
        let options = Options { timestamps, ..Options::default() };
        frame(&self.flow, (self.irs + seq, self.iss + ack), flags, options, payload)
    }
}

impl Peers {
    /// Nobody yet; frames come from this pool.
    pub fn new(pool: Mempool) -> Self {
        Self { pool, clients: Vec::new() }
    }

    fn mbuf(&self, frame: &[u8]) -> anyhow::Result<Mbuf> {
        let mut mbuf = self.pool.alloc().context("a packet buffer")?;
        mbuf.append(frame.len()).context("room in a packet buffer")?.copy_from_slice(frame);
        Ok(mbuf)
    }

    /// A frame of a board's: what `write` puts after the Ethernet header.
    fn board_frame(&self, board: u16, len: usize, write: impl FnOnce(&mut [u8])) -> anyhow::Result<Mbuf> {
        let mut frame = vec![0; (ethernet::HEADER_LEN + len).max(60)];
        ethernet::Repr { dst: FARM_MAC, src: board_mac(board), ethertype: ETHERTYPE }.emit(&mut frame);
        write(&mut frame[ethernet::HEADER_LEN..]);
        self.mbuf(&frame)
    }

    /// Every board says that it lives and that a server listens there.
    pub fn reports(&self) -> anyhow::Result<Vec<Mbuf>> {
        let mut frames = Vec::new();
        for board in 0..BOARDS {
            let state = ServerState {
                board: board_address(board),
                appliance: FARM_ADDRESS,
                draining: false,
                // The longest there is: no board falls silent during a measurement.
                interval_ms: 60_000,
                epoch: 1000,
                sequence: 1,
                options: OptionBits(0xf),
                cpu_cores: 2,
                cpu_utilisation: 100,
                established: 1,
                memory: 1 << 30,
                memory_available: 1 << 29,
                link_speed_bps: 0,
                bandwidth_available_bps: 0,
                endpoints_held: 0,
                pressure: None,
                tag: [0; 16],
            };
            frames.push(self.board_frame(board, ServerState::LEN, |body| state.emit(body))?);
            let row = ListeningRow {
                address: std::net::Ipv4Addr::UNSPECIFIED,
                port: 80,
                ipv6: false,
                mptcp: false,
                queue_len: 0,
                queue_max: 511,
                pid: 7,
                name: ListeningRow::name_from("nginx"),
            };
            let mut body = vec![0; 1500];
            let report = ReportPart {
                board: board_address(board),
                appliance: FARM_ADDRESS,
                part: 0,
                parts: 1,
                epoch: 1000,
                sequence: 1,
            };
            let len = Listening::emit(&report, &[row], &mut body);
            frames.push(self.board_frame(board, len, |out| out[..len].copy_from_slice(&body[..len]))?);
        }
        Ok(frames)
    }

    /// New clients send their SYNs.
    pub fn syns(&mut self, numbers: Range<u32>, wan: &Wire) -> anyhow::Result<()> {
        self.clients.clear();
        for number in numbers {
            let (flow, irs) = (flow(number), Seq(number.wrapping_mul(0x9e37_79b9)));
            wan.push(self.mbuf(&frame(&flow, (irs, Seq(0)), Flags::SYN, syn_options(), &[]))?);
            self.clients.push(Client { flow, irs, iss: Seq(0), tsecr: 0 });
        }
        Ok(())
    }

    /// The clients hear the SYN-ACKs and send their requests.
    pub fn requests(&mut self, wan: &Wire) -> anyhow::Result<()> {
        for client in &mut self.clients {
            let answer = wan.pop().context("a SYN-ACK")?;
            let packet = ipv4::Packet::new_checked(&answer.data()[ethernet::HEADER_LEN..]).context("IPv4")?;
            let segment = tcp::Segment::new_checked(packet.payload()).context("TCP")?;
            let heard = (segment.flags(), packet.dst(), segment.dst_port(), segment.ack());
            let wanted =
                (Flags::SYN | Flags::ACK, client.flow.client, client.flow.client_port, client.irs + 1);
            ensure!(heard == wanted, "{heard:?} is not the SYN-ACK {wanted:?}");
            client.iss = segment.seq();
            client.tsecr = segment.options()?.timestamps.context("time stamps")?.tsval;
        }
        for client in &self.clients {
            wan.push(self.mbuf(&client.segment(1, 1, Flags::ACK | Flags::PSH, REQUEST))?);
        }
        Ok(())
    }

    /// The boards acknowledge what they were asked to take.
    pub fn acknowledgements(&mut self, farm: &Wire) -> anyhow::Result<()> {
        let mut acks = Vec::with_capacity(self.clients.len());
        for _ in &self.clients {
            let asked = farm.pop().context("a Connection Packet")?;
            let frame = ethernet::Frame::new_checked(asked.data()).context("Ethernet")?;
            let board =
                (0..BOARDS).find(|board| board_mac(*board) == frame.dst()).context("a board's address")?;
            let connection = TcpConnection::parse(frame.payload()).context("a Connection Packet")?;
            let trailer = Some(Trailer::open(connection.tcb.migration_id));
            let ack = Ack { flow: connection.flow, protocol: Protocol::Tcp, trailer };
            acks.push(self.board_frame(board, ack.buffer_len(), |body| ack.emit(body))?);
        }
        acks.into_iter().for_each(|ack| farm.push(ack));
        Ok(())
    }

    /// The boards get the requests, whole.
    pub fn take_replays(&mut self, farm: &Wire) -> anyhow::Result<()> {
        for client in &self.clients {
            let replay = farm.pop().context("a replayed request")?;
            let body = &replay.data()[ethernet::HEADER_LEN..];
            let (header, packet) = ipos::decapsulate(body).context("an ipOS packet")?;
            let packet = ipv4::Packet::new_checked(packet).context("IPv4")?;
            let segment = tcp::Segment::new_checked(packet.payload()).context("TCP")?;
            ensure!(header.kind == ipos::TYPE_PACKET && segment.payload() == REQUEST, "another packet");
            ensure!(packet.src() == client.flow.client, "another client's");
        }
        Ok(())
    }

    /// The clients acknowledge the first octets of the answer.
    pub fn acks(&mut self, wan: &Wire) -> anyhow::Result<()> {
        for client in &self.clients {
            wan.push(self.mbuf(&client.segment(1 + REQUEST.len() as u32, 101, Flags::ACK, &[]))?);
        }
        Ok(())
    }
}
