//! What the tests of this module share: the golden vectors' connection, and the checks that every message must stand.

extern crate std;

use core::fmt::Debug;
use core::net::Ipv4Addr;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Error, Protocol, Trailer};
use crate::flow::Flow;

/// The connection of the golden vectors.
pub(crate) const FLOW: Flow = Flow {
    client: Ipv4Addr::new(192, 0, 2, 10),
    client_port: 49152,
    endpoint: Ipv4Addr::new(198, 51, 100, 1),
    endpoint_port: 80,
};

/// The board of the golden vectors.
pub(crate) const BOARD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 21);
/// The appliance of the golden vectors.
pub(crate) const APPLIANCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The trailer of the golden vectors.
pub(crate) const TRAILER: Trailer = Trailer::open(0x5152_5354_5556_5758);

/// The Ethernet header of the golden frames (Fig. 11A), for a farm with the default EtherType.
pub(crate) const ETHERNET: [u8; 14] =
    [0x02, 0x00, 0x00, 0x00, 0x00, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x88, 0xb5];

/// Writes a message over octets of 0xa5 and returns it, having seen that nothing behind it was touched.
pub(crate) fn emitted(len: usize, emit: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut buffer = vec![0xa5; len + 8];
    emit(&mut buffer);
    assert_eq!(buffer.split_off(len), [0xa5; 8], "octets behind the message");
    buffer
}

/// Writes into buffers that are too short, all of which must panic.
pub(crate) fn assert_emit_needs(len: usize, emit: impl Fn(&mut [u8]) + std::panic::RefUnwindSafe) {
    for short in [0, len - 1] {
        let outcome = std::panic::catch_unwind(|| emit(&mut vec![0xa5; short]));
        assert!(outcome.is_err(), "a message of {len} octets went into {short}");
    }
}

/// Checks that `message` parses with any padding behind it, and at no length shorter than its own.
pub(crate) fn assert_length<'a, T>(message: &'a [u8], parse: impl Fn(&'a [u8]) -> Result<T, Error>)
where
    T: Debug + PartialEq,
{
    for len in 0..message.len() {
        match parse(&message[..len]) {
            Err(Error::Length(error)) => {
                assert!(error.actual < error.required, "{error}");
                assert_eq!(error.offset + error.actual, len.max(error.offset), "{error}");
            }
            other => panic!("{len} of {} octets: {other:?}", message.len()),
        }
    }
    let whole = parse(message).expect("the whole message");
    for padding in [[0_u8; 46], [0xff; 46]] {
        let padded: &'static [u8] = [message, &padding].concat().leak();
        // The leaked copy outlives every 'a, so both parses have one type.
        assert_eq!(parse(padded).expect("padded"), whole);
    }
}

/// Checks that no single bit of the first `covered` octets can change without an error.
pub(crate) fn assert_covered<T: Debug>(
    message: &[u8],
    covered: usize,
    parse: impl Fn(&[u8]) -> Result<T, Error>,
) {
    for octet in 0..covered {
        for bit in 0..8 {
            let mut damaged = message.to_vec();
            damaged[octet] ^= 1 << bit;
            let outcome = parse(&damaged).map(|_| ());
            assert!(outcome.is_err(), "octet {octet} bit {bit} is not covered");
        }
    }
}

/// Sets the checksum anew after a test changed a message.
pub(crate) fn reseal(message: &mut [u8], covered: usize) {
    message[14..16].fill(0);
    super::header::seal(&mut message[..covered]);
}

prop_compose! {
    pub(crate) fn any_flow()(octets: [u8; 12]) -> Flow { Flow::from_octets(octets) }
}

prop_compose! {
    pub(crate) fn any_trailer()(id: u64, tag: [u8; 16]) -> Trailer { Trailer { id, tag } }
}

/// A protocol that names a connection.
pub(crate) fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

prop_compose! {
    pub(crate) fn any_address()(octets: [u8; 4]) -> Ipv4Addr { Ipv4Addr::from(octets) }
}
