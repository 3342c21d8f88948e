//! Captures that `net_pcap` replays from memory: flows, their frames, and files of them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipos_wire::ethernet::{self, ETHERTYPE_IPV4};
use ipos_wire::flow::Flow;
use ipos_wire::ipv4;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{self, Flags, Options, Timestamps};
use serde::{Deserialize, Serialize};

/// The service that all flows address.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Its port.
pub const SERVICE_PORT: u16 = 80;
/// The appliance's port that faces the clients.
pub const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xa1]);
/// Its port that faces the boards.
pub const FARM_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xa2]);
/// Where the clients' frames come from.
pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0xc1, 1]);

/// Most flows that [`flow`] tells apart.
pub const FLOWS_MAX: u32 = 1 << 24;

/// Octets of the smallest frame in memory: 64 on the wire less the check sequence.
const FRAME_MIN: usize = 60;

/// What the packets of a capture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Pure ACKs of established connections, 64 octets on the wire.
    Established,
    /// SYNs with the options that Linux sends.
    Syn,
}

/// The flow of a number below [`FLOWS_MAX`]: as many clients, on ports all over the range.
pub fn flow(number: u32) -> Flow {
    // An odd factor maps 24 bits onto 24 bits one to one.
    let client = number.wrapping_mul(0x009e_3779) % FLOWS_MAX;
    Flow {
        client: Ipv4Addr::from_bits(0x0b00_0000 | client),
        client_port: 1024 + (number % 64_511) as u16,
        endpoint: SERVICE,
        endpoint_port: SERVICE_PORT,
    }
}

/// A frame of a client's, without payload unless one is given.
pub fn frame(flow: &Flow, (seq, ack): (Seq, Seq), flags: Flags, options: Options, payload: &[u8]) -> Vec<u8> {
    let (src_port, dst_port) = (flow.client_port, flow.endpoint_port);
    let repr = tcp::Repr { src_port, dst_port, seq, ack, flags, window: 502, options };
    let tcp_len = repr.header_len() + payload.len();
    let headers = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
    let mut frame = vec![0; (headers + tcp_len).max(FRAME_MIN)];
    ethernet::Repr { dst: WAN_MAC, src: CLIENT_MAC, ethertype: ETHERTYPE_IPV4 }.emit(&mut frame);
    ipv4::Repr {
        src: flow.client,
        dst: flow.endpoint,
        protocol: ipv4::PROTOCOL_TCP,
        ttl: 57,
        ident: 0x4242,
        dont_fragment: true,
        payload_len: tcp_len,
    }
    .emit(&mut frame[ethernet::HEADER_LEN..]);
    repr.emit(&mut frame[headers..headers + tcp_len], payload, flow.client, flow.endpoint);
    frame
}

/// The options of a Linux client's SYN.
pub fn syn_options() -> Options {
    Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { tsval: 7_000, tsecr: 0 }),
    }
}

/// A flow's frame in a capture.
pub fn frame_of(kind: Kind, number: u32) -> Vec<u8> {
    let irs = Seq(number.wrapping_mul(0x9e37_79b9));
    match kind {
        Kind::Established => frame(&flow(number), (irs, Seq(!irs.0)), Flags::ACK, Options::default(), &[]),
        Kind::Syn => frame(&flow(number), (irs, Seq(0)), Flags::SYN, syn_options(), &[]),
    }
}

/// A small pseudo-random generator (splitmix64): the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ mixed >> 31) as u32 as u64 * u64::from(bound)) >> 32) as u32
    }
}

/// `count` of the numbers below `of`, evenly spread, in random order: neighbours in time are never neighbours in a table.
pub fn sample(count: u32, of: u32) -> Vec<u32> {
    let count = count.min(of);
    let spread = |n: u32| (u64::from(n) * u64::from(of) / u64::from(count.max(1))) as u32;
    let mut numbers: Vec<u32> = (0..count).map(spread).collect();
    let mut random = Random(1);
    for place in (1..numbers.len()).rev() {
        numbers.swap(place, random.below(place as u32 + 1) as usize);
    }
    numbers
}

/// A folder for captures that goes when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one, among the temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ipos-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    /// Writes a capture of `count` flows out of `of`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn capture(&self, kind: Kind, count: u32, of: u32) -> anyhow::Result<PathBuf> {
        let path = self.0.join(format!("{kind:?}-{count}-{of}.pcap"));
        write(&path, sample(count, of).into_iter().map(|number| frame_of(kind, number)))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Removes a capture that everybody has read.
    pub fn forget(&self, capture: &Path) {
        // The folder takes it along if not.
        let _ = std::fs::remove_file(capture);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left-overs in a temporary folder harm nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The classic pcap format, microseconds, Ethernet.
fn write(path: &Path, frames: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let header: [u32; 6] = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1];
    for word in header {
        file.write_all(&word.to_le_bytes())?;
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.write_all(&u32::to_le_bytes(word))?;
        }
        file.write_all(&frame)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn flows_are_all_different() {
        let flows: HashSet<Flow> = (0..200_000).chain(FLOWS_MAX - 1000..FLOWS_MAX).map(flow).collect();
        assert_eq!(flows.len(), 201_000);
    }

    #[test]
    fn frames_are_what_the_parser_takes() {
        for (kind, len, flags) in [(Kind::Established, 60, Flags::ACK), (Kind::Syn, 74, Flags::SYN)] {
            let frame = frame_of(kind, 77);
            assert_eq!(frame.len(), len);
            let packet = ipv4::Packet::new_checked(&frame[14..]).expect("IPv4");
            assert!(packet.checksum_ok());
            let segment = tcp::Segment::new_checked(packet.payload()).expect("TCP");
            assert!(segment.checksum_ok(packet.src(), packet.dst()));
            assert_eq!((segment.flags(), packet.src()), (flags, flow(77).client));
        }
    }

    #[test]
    fn a_sample_is_spread_over_all_numbers_and_in_no_order() {
        let numbers = sample(1000, 10_000);
        let distinct: HashSet<u32> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), 1000);
        assert!(distinct.contains(&0) && distinct.contains(&9990));
        let ascending = numbers.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((400..600).contains(&ascending), "{ascending} of 999 steps go up");
        assert_eq!(sample(10, 4).len(), 4);
    }

    #[test]
    fn a_capture_is_a_pcap_file_of_whole_frames() {
        let folder = Folder::new().expect("a folder");
        let path = folder.capture(Kind::Established, 3, 3).expect("a capture");
        let octets = std::fs::read(&path).expect("the file");
        assert_eq!(octets.len(), 24 + 3 * (16 + 60));
        assert_eq!(octets[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(octets[24 + 8..24 + 12], 60u32.to_le_bytes());
        drop(folder);
        assert!(!path.exists());
    }
}
