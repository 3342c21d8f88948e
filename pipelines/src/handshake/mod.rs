//! Handshake: a SYN is answered in place, without state, by a SYN cookie (design: system.md, step 1).
//!
//! Input: SYNs to a service; and what comes before a first octet of data: the handshake's pure ACK, a FIN. Output: a
//! SYN-ACK, or a FIN-ACK for who closes without a request (TCP health checks). Owner: the worker. Cost: one SipHash, one
//! TCP checksum over the answer; no entry, no allocation.

pub mod cookie;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::tcb::OptionBits;
use ipos_wire::tcp::{Flags, Options, Timestamps};

use crate::config::WINDOW_SCALE;
use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::parse::TcpPacket;
use crate::request::assembly::WINDOW;
use crate::segment::Segment;
use crate::verdict::Verdict;

use cookie::Offer;

const _: () = assert!(WINDOW <= u16::MAX as usize, "a SYN-ACK's window is not scaled");

/// Answers a SYN. Data in it is ignored: the client sends it again.
pub fn syn(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    let offered = match packet.options(&mbuf) {
        Ok(options) => options,
        Err(reason) => return Verdict::Drop(reason),
    };
    let farm = core.config.options;
    let offer = Offer {
        mss: offered.mss,
        window_scale: offered.window_scale.filter(|_| farm.contains(OptionBits::WINDOW_SCALE)),
        sack: offered.sack_permitted && farm.contains(OptionBits::SACK),
    };
    let timestamps = offered.timestamps.filter(|_| farm.contains(OptionBits::TIMESTAMPS));
    let asks_ecn = packet.flags.contains(Flags(Flags::ECE.0 | Flags::CWR.0));
    let ecn = asks_ecn && timestamps.is_some() && farm.contains(OptionBits::ECN);
    let flags = Flags::SYN | Flags::ACK | if ecn { Flags::ECE } else { Flags(0) };
    let answer = Segment {
        seq: core.config.cookie_keys.make(&packet.flow, packet.seq, offer, core.now.cookie_slot),
        ack: packet.seq + 1,
        flags,
        window: WINDOW as u16,
        options: Options {
            mss: Some(core.config.mss),
            window_scale: offer.window_scale.map(|_| WINDOW_SCALE),
            sack_permitted: offer.sack,
            timestamps: timestamps.map(|theirs| Timestamps {
                tsval: cookie::tsval_with_ecn(core.now.timestamp, ecn),
                tsecr: theirs.tsval,
            }),
        },
        payload: &[],
    };
    match core.answer_in_place(mbuf, packet.port, packet.source_mac, &packet.flow, &answer) {
        Ok(()) => {
            core.happened(Happening::SynAnswered);
            Verdict::Answered
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Answers a FIN that comes right after the handshake, without a request before it: FIN-ACK, without state.
pub fn probe_fin(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    let timestamps = match packet.options(&mbuf) {
        Ok(options) => options.timestamps,
        Err(reason) => return Verdict::Drop(reason),
    };
    let answer = Segment {
        seq: packet.ack,
        ack: packet.seq + 1,
        flags: Flags::FIN | Flags::ACK,
        window: 0,
        options: echo(core, timestamps.map(|theirs| theirs.tsval)),
        payload: &[],
    };
    match core.answer_in_place(mbuf, packet.port, packet.source_mac, &packet.flow, &answer) {
        Ok(()) => {
            core.happened(Happening::ProbeClosed);
            Verdict::Answered
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The options of a segment other than SYN-ACK: time stamps alone, when both sides use them.
#[inline]
pub fn echo(core: &Core, their_tsval: Option<u32>) -> Options {
    Options {
        timestamps: their_tsval.map(|tsecr| Timestamps { tsval: core.now.timestamp, tsecr }),
        ..Options::default()
    }
}
