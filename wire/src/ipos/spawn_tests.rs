//! Tests of [`super`].

extern crate std;

use proptest::prelude::*;

use super::*;
use crate::ipos::ReportPart;
use crate::ipos::list::testing::{stands_its_tests, survives_a_round_trip};
use crate::ipos::testing::{
    APPLIANCE, BOARD, any_address, assert_covered, assert_emit_needs, assert_length, emitted, reseal,
};

// The checksums of the golden vectors were reckoned apart from this crate.
const ORDER: [u8; 88] = [
    // source: the board 10.0.0.21, port 0
    0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
    0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
    0x20, 0x00, // checksum
    0xa0, 0x2d, // version, action: start; zero
    0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // order
    0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // zero
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // name
    0x77, 0x65, 0x62, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, // tag
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const OUTCOME: [u8; 88] = [
    // source: the board 10.0.0.21, port 0
    0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
    0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
    0x21, 0x00, // checksum
    0x88, 0xae, // version, progress: exited; zero
    0x01, 0x11, 0x00, 0x00, // not again for 1500 ms
    0x00, 0x00, 0x05, 0xdc, // order
    0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // process 4242, exit status 1
    0x00, 0x00, 0x10, 0x92, 0x00, 0x00, 0x00, 0x01, // name
    0x77, 0x65, 0x62, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, // tag
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const OFFERS: [u8; 112] = [
    // source: the board 10.0.0.21, port 0
    0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
    0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
    0x22, 0x00, // checksum
    0xb2, 0x3d, // version, part 0 of 1, 1 row
    0x01, 0x00, 0x01, 0x01, // epoch, sequence 7, zero
    0x65, 0xf0, 0xa1, 0xb2, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, // name
    0x77, 0x65, 0x62, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, // 64 MiB, half a core, at most 2 instances
    0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x32, 0x00, 0x02,
    // 1 listens, 1 starts, 3 failures, draining
    0x00, 0x01, 0x00, 0x01, 0x00, 0x03, 0x00, 0x01, // not again for 1500 ms
    0x00, 0x00, 0x05, 0xdc, // 198.51.100.1:80, zero
    0xc6, 0x33, 0x64, 0x01, 0x00, 0x50, 0x00, 0x00, // tag
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const ID: u64 = 0x5152_5354_5556_5758;

fn name(text: &str) -> ApplicationName {
    ApplicationName::new(text).expect("a name")
}

fn golden_order() -> Order {
    let (board, appliance) = (BOARD, APPLIANCE);
    Order { board, appliance, action: Action::Start, id: ID, name: name("web"), tag: [0; 16] }
}

fn golden_outcome() -> Outcome {
    Outcome {
        board: BOARD,
        appliance: APPLIANCE,
        progress: Progress::Exited,
        retry_ms: 1500,
        id: ID,
        pid: 4242,
        detail: 1,
        name: name("web"),
        tag: [0; 16],
    }
}

fn golden_offer() -> Offer {
    Offer {
        name: name("web"),
        memory: 64 << 20,
        cpu_hundredths: 50,
        instances_max: 2,
        listening: 1,
        starting: 1,
        failures: 3,
        draining: true,
        retry_ms: 1500,
        address: Ipv4Addr::new(198, 51, 100, 1),
        port: 80,
    }
}

#[test]
fn deconstructs_the_golden_messages() {
    assert_eq!(Order::parse(&ORDER), Ok(golden_order()));
    assert_eq!(Outcome::parse(&OUTCOME), Ok(golden_outcome()));
}

#[test]
fn constructs_the_golden_messages_over_old_octets() {
    assert_eq!(emitted(Order::LEN, |buffer| golden_order().emit(buffer)), ORDER);
    assert_eq!(emitted(Outcome::LEN, |buffer| golden_outcome().emit(buffer)), OUTCOME);
}

#[test]
fn offers_stand_the_tests_of_lists() {
    stands_its_tests(&OFFERS, &[golden_offer()]);
}

#[test]
fn every_shorter_buffer_is_refused_and_padding_ignored() {
    assert_length(&ORDER, Order::parse);
    assert_length(&OUTCOME, Outcome::parse);
}

#[test]
fn emit_panics_on_a_short_buffer_only() {
    assert_emit_needs(88, |buffer| golden_order().emit(buffer));
    assert_emit_needs(88, |buffer| golden_outcome().emit(buffer));
}

#[test]
fn the_checksum_covers_the_whole_message() {
    assert_covered(&ORDER, 88, Order::parse);
    assert_covered(&OUTCOME, 88, Outcome::parse);
}

#[test]
fn another_version_protocol_or_type_is_refused() {
    for at in [16, 13, 12] {
        let (mut order, mut outcome) = (ORDER, OUTCOME);
        order[at] = 2;
        outcome[at] = 2;
        reseal(&mut order, 88);
        reseal(&mut outcome, 88);
        assert!(Order::parse(&order).is_err() && Outcome::parse(&outcome).is_err(), "octet {at}");
    }
}

#[test]
fn codes_are_their_own_inverse() {
    for code in 0..=u8::MAX {
        assert_eq!(Action::from_code(code).code(), code);
        assert_eq!(Progress::from_code(code).code(), code);
    }
    assert!(!Progress::Starting.is_final() && !Progress::Stopping.is_final());
    assert!(Progress::Listening.is_final() && Progress::Other(99).is_final());
}

#[test]
fn names_are_short_and_plain() {
    assert_eq!(name("shop-2.x_y").as_str(), "shop-2.x_y");
    let longest = "a".repeat(32);
    assert_eq!(name(&longest).as_str(), longest);
    let beyond = "a".repeat(33);
    for wrong in ["", "a b", "a/b", "\u{e9}", "a\0", beyond.as_str()] {
        assert_eq!(ApplicationName::new(wrong), None, "{wrong:?}");
    }
    assert_eq!(ApplicationName([0xff; 32]).as_str(), "");
}

prop_compose! {
    fn any_offer()(
        address in any_address(),
        (memory, retry_ms, name) in any::<(u64, u32, [u8; 32])>(),
        (cpu_hundredths, instances_max, listening) in any::<(u16, u16, u16)>(),
        (starting, failures, port, draining) in any::<(u16, u16, u16, bool)>(),
    ) -> Offer {
        let name = ApplicationName(name);
        Offer { name, memory, cpu_hundredths, instances_max, listening, starting, failures, draining, retry_ms, address, port }
    }
}

proptest! {
    #[test]
    fn orders_and_outcomes_survive_a_round_trip(mut message in prop::collection::vec(any::<u8>(), 88)) {
        message[12..14].copy_from_slice(&[0x20, 0]);
        message[16] = 1;
        reseal(&mut message, 88);
        let order = Order::parse(&message).expect("version 1");
        prop_assert_eq!(Order::parse(&emitted(88, |buffer| order.emit(buffer))), Ok(order));
        message[12] = 0x21;
        reseal(&mut message, 88);
        let outcome = Outcome::parse(&message).expect("version 1");
        prop_assert_eq!(Outcome::parse(&emitted(88, |buffer| outcome.emit(buffer))), Ok(outcome));
    }

    #[test]
    fn lists_survive_a_round_trip(
        (board, appliance) in (any_address(), any_address()),
        parts in 1_u8..,
        (epoch, sequence) in any::<(u32, u32)>(),
        rows in prop::collection::vec(any_offer(), 0..=OFFERS_MAX),
    ) {
        survives_a_round_trip(ReportPart { board, appliance, part: parts - 1, parts, epoch, sequence }, &rows);
    }
}
