//! Frames of the boards: who sent it, what it says, whom it concerns.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BoardId, Command, PortIndex};
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{
    self, Ack, ApplicationRow, Closed, ClosedReason, DetachOutcome, Detached, HeldState, List, ListeningRow,
    Message, Offer, Offers, Protocol, ReportPart, ServerState,
};
use ipos_wire::{arp, ethernet, ipv4, tcp};

use super::applications::Application;
use super::check_client::Heard;
use super::context::Context;
use super::core::Core;
use super::counters::{Did, Ignored};
use super::gather::Part;
use super::listening::Socket;
use super::sink::Sink;
use super::state::State;

/// Takes a frame.
///
/// # Errors
/// Why it is ignored.
pub(super) fn frame(
    core: &mut Core,
    now_ns: u64,
    port: PortIndex,
    frame: &[u8],
    sink: &mut dyn Sink,
) -> Result<(), Ignored> {
    let frame = ethernet::Frame::new_checked(frame).map_err(|_| Ignored::BadLength)?;
    if frame.ethertype() == ethernet::ETHERTYPE_ARP {
        let packet = arp::Packet::new_checked(frame.payload()).map_err(|_| Ignored::BadArp)?;
        let arp = arp::Repr::parse(&packet).map_err(|_| Ignored::BadArp)?;
        // The frame's own source has to be who it says it is.
        if arp.sender_mac != frame.src() || arp.sender_mac.is_multicast() {
            return Err(Ignored::BadArp);
        }
        return core.arp(now_ns, port, arp.sender_ip, arp.sender_mac, sink);
    }
    if frame.ethertype() == ethernet::ETHERTYPE_IPV4 {
        let board = core.boards.identify(frame.src(), port)?;
        return answer_to_check(core, now_ns, board, frame.payload(), sink);
    }
    if frame.ethertype() != core.settings.ethertype {
        return Err(Ignored::UnknownType);
    }
    let board = core.boards.identify(frame.src(), port)?;
    // What comes with every connection does not go through a value that has room for all messages.
    if frame.payload().get(ipos::TYPE_AT) == Some(&ipos::TYPE_ACK) {
        acknowledged(core, now_ns, board, &Ack::parse(frame.payload()).map_err(reason)?, sink);
        return Ok(());
    }
    let message = Message::parse(frame.payload()).map_err(reason)?.ok_or(Ignored::UnknownType)?;
    take(core, now_ns, port, board, message, sink)
}

/// What a board's kernel says to the appliance's own address: it answers a health check.
fn answer_to_check(
    core: &mut Core,
    now_ns: u64,
    board: BoardId,
    packet: &[u8],
    sink: &mut dyn Sink,
) -> Result<(), Ignored> {
    let packet = ipv4::Packet::new_checked(packet).map_err(|_| Ignored::BadLength)?;
    let segment = tcp::Segment::new_checked(packet.payload()).map_err(|_| Ignored::BadLength)?;
    let (endpoint, client) = (packet.src(), packet.dst());
    if !segment.checksum_ok(endpoint, client) {
        return Err(Ignored::BadChecksum);
    }
    let flow = Flow { client, client_port: segment.dst_port(), endpoint, endpoint_port: segment.src_port() };
    let Core { boards, counters, ids, checks, .. } = core;
    if !checks.owns(&flow) {
        return Err(Ignored::UnknownType);
    }
    let ctx = &mut Context { now_ns, boards, counters, ids, sink };
    let heard =
        Heard { seq: segment.seq(), ack: segment.ack(), flags: segment.flags(), payload: segment.payload() };
    checks.heard(ctx, board, flow, heard);
    Ok(())
}

fn reason(error: ipos::Error) -> Ignored {
    match error {
        ipos::Error::Length(_) => Ignored::BadLength,
        ipos::Error::Checksum { .. } => Ignored::BadChecksum,
        ipos::Error::Version { .. } => Ignored::BadVersion,
        _ => Ignored::BadField,
    }
}

fn take(
    core: &mut Core,
    now_ns: u64,
    port: PortIndex,
    board: BoardId,
    message: Message<'_>,
    sink: &mut dyn Sink,
) -> Result<(), Ignored> {
    let own_address = core.settings.ports.get(usize::from(port.0)).map(|port| port.address);
    let board_address = core.boards.board(board).map(|board| board.settings.address);
    let Core { boards, counters, ids, attempts, holders, checks, datagrams, .. } = core;
    let ctx = &mut Context { now_ns, boards, counters, ids, sink };
    match message {
        Message::Ack(ack) => acknowledged(core, now_ns, board, &ack, sink),
        Message::Refused(refused) if refused.protocol == Protocol::Udp => {
            let (flow, code) = (&refused.flow, refused.reason.code());
            datagrams.refused(ctx, &mut attempts.lent(), board, flow, code);
        }
        Message::Refused(refused) if checks.owns(&refused.flow) => {
            checks.refused(ctx, board, &refused.flow, refused.trailer.id, refused.reason.code());
        }
        Message::Refused(refused) => {
            attempts.refused(ctx, board, refused.flow, refused.trailer.id, refused.reason.code());
        }
        Message::Holds(holds) => {
            let live = match holds.state {
                HeldState::Live => true,
                HeldState::Pending => false,
                HeldState::Other(_) => return Err(Ignored::BadField),
            };
            holders.holds(ctx, board, holds.flow, holds.trailer.id, live);
        }
        Message::Closed(notice) => return closed(core, now_ns, board, &notice, sink),
        Message::ServerState(state) => {
            if Some(state.board) != board_address || Some(state.appliance) != own_address {
                return Err(Ignored::WrongAddress);
            }
            ctx.boards.report(now_ns, board, state_of(&state))?;
            ctx.counters.count(Did::ReportTaken);
        }
        Message::Listening(list) => {
            addressed(&list.report, board_address, own_address)?;
            if ctx.boards.sockets(board, part_of(&list, socket_of))? {
                ctx.counters.count(Did::SocketsTaken);
                attempts.spawner.sockets(ctx, board);
                if attempts.spawner.is_awaited(ctx.boards, board) {
                    attempts.retry_waiting(ctx);
                }
            }
        }
        Message::Applications(list) => {
            addressed(&list.report, board_address, own_address)?;
            if ctx.boards.applications(board, part_of(&list, application_of))? {
                ctx.counters.count(Did::ApplicationsTaken);
            }
        }
        Message::Detached(said) => detached(core, now_ns, board, &said, sink)?,
        // What appliances say to boards.
        Message::TcpConnection(_)
        | Message::UdpConnection(_)
        | Message::Packet { .. }
        | Message::Detach(_)
        | Message::WhoHolds(_)
        | Message::CloseIdle(_)
        | Message::Order(_) => return Err(Ignored::UnknownType),
        Message::Outcome(outcome) => {
            let right = Some(outcome.board) == board_address && Some(outcome.appliance) == own_address;
            if !right {
                return Err(Ignored::WrongAddress);
            }
            if attempts.spawner.outcome(ctx, board, &outcome) {
                attempts.retry_waiting(ctx);
            }
        }
        Message::Offers(offers) => {
            addressed(&offers.report, board_address, own_address)?;
            if ctx.boards.offers(board, offers_of(&offers))? {
                ctx.counters.count(Did::OffersTaken);
            }
        }
    }
    Ok(())
}

/// 0x03: the board has taken an endpoint over.
fn acknowledged(core: &mut Core, now_ns: u64, board: BoardId, ack: &Ack, sink: &mut dyn Sink) {
    let Core { boards, counters, ids, attempts, checks, datagrams, .. } = core;
    let ctx = &mut Context { now_ns, boards, counters, ids, sink };
    if ack.protocol == Protocol::Udp {
        return datagrams.acknowledged(ctx, board, &ack.flow);
    }
    let id = ack.trailer.map_or(0, |trailer| trailer.id);
    if !checks.owns(&ack.flow) {
        attempts.acknowledged(ctx, board, ack.flow, id);
    } else if !checks.acknowledged(ctx, board, &ack.flow, id) {
        attempts.late_ack(ctx, board, id);
    }
}

/// 0x06: the board has given an endpoint up for a later request, or not.
fn detached(
    core: &mut Core,
    now_ns: u64,
    board: BoardId,
    said: &Detached,
    sink: &mut dyn Sink,
) -> Result<(), Ignored> {
    let Core { boards, counters, ids, attempts, moves, .. } = core;
    let ctx = &mut Context { now_ns, boards, counters, ids, sink };
    if moves.answered(ctx, attempts, board, said) {
        return Ok(());
    }
    if said.outcome == DetachOutcome::Detached && said.trailer.id != 0 {
        // Said again, or too late: then the worker still believes that the board has it, and asks once more if it can.
        counters.count(Did::DetachedLate);
        let (flow, migration_id) = (said.flow, said.trailer.id);
        sink.tell(core.settings.owners.owner(&flow), Command::Left { flow, board, migration_id });
        return Ok(());
    }
    Err(Ignored::LateAnswer)
}

/// 0x07: the endpoint closed, is not held, or was a stray packet's.
fn closed(
    core: &mut Core,
    now_ns: u64,
    board: BoardId,
    notice: &Closed,
    sink: &mut dyn Sink,
) -> Result<(), Ignored> {
    let Core { boards, counters, ids, attempts, holders, checks, .. } = core;
    let ctx = &mut Context { now_ns, boards, counters, ids, sink };
    let (flow, id) = (notice.flow, notice.trailer.id);
    if checks.owns(&flow) {
        attempts.detaches.confirmed(board, id);
        checks.closed(ctx, board, &flow, id);
        return Ok(());
    }
    match notice.reason {
        ClosedReason::NotHeld => {
            let expected = holders.not_held(ctx, board, flow, id) || attempts.detaches.confirmed(board, id);
            if expected { Ok(()) } else { Err(Ignored::LateAnswer) }
        }
        // Id 0 would read as a stray packet's.
        ClosedReason::Closed | ClosedReason::Forced if id == 0 => Err(Ignored::BadField),
        ClosedReason::Closed | ClosedReason::Forced => {
            attempts.spawner.ended(now_ns, (flow.endpoint, flow.endpoint_port), board);
            let is_repeating = attempts.is_repeating(&flow, id);
            if attempts.closed(ctx, board, flow, id) {
                // The worker may not wait for the repetition any more, and would take no note of its failure.
                if is_repeating {
                    pass_on(core, board, flow, id, sink);
                }
            } else {
                counters.count(Did::ClosedNotice);
                if let Some(board) = boards.board_mut(board) {
                    board.traffic.end(now_ns);
                }
                pass_on(core, board, flow, id, sink);
            }
            Ok(())
        }
        ClosedReason::Stray => {
            counters.count(Did::StrayNotice);
            pass_on(core, board, flow, 0, sink);
            Ok(())
        }
        ClosedReason::Other(_) => Err(Ignored::BadField),
    }
}

fn pass_on(core: &Core, board: BoardId, flow: Flow, migration_id: u64, sink: &mut dyn Sink) {
    let owner = core.settings.owners.owner(&flow);
    sink.tell(owner, Command::Closed { flow, board, migration_id });
}

fn state_of(state: &ServerState) -> State {
    State {
        epoch: state.epoch,
        sequence: state.sequence,
        interval_ms: state.interval_ms,
        draining: state.draining,
        options: state.options.0,
        cores: state.cpu_cores,
        cpu_hundredths: state.cpu_utilisation,
        connections: state.established,
        memory_octets: state.memory,
        memory_free_octets: state.memory_available,
        link_bits: state.link_speed_bps,
        bandwidth_free_bits: state.bandwidth_available_bps,
        endpoints: state.endpoints_held,
        pressure: state.pressure,
    }
}

/// A report's header has to name the board that sent it and this appliance.
fn addressed(
    report: &ReportPart,
    board: Option<Ipv4Addr>,
    appliance: Option<Ipv4Addr>,
) -> Result<(), Ignored> {
    let right = Some(report.board) == board && Some(report.appliance) == appliance;
    if right { Ok(()) } else { Err(Ignored::WrongAddress) }
}

fn part_of<R: ipos::Row, T>(list: &List<'_, R>, row: impl Fn(&R) -> T) -> Part<T> {
    Part {
        epoch: list.report.epoch,
        sequence: list.report.sequence,
        part: list.report.part,
        parts: list.report.parts,
        rows: list.rows().map(|it| row(&it)).collect(),
    }
}

fn offers_of(offers: &Offers<'_>) -> Part<Offer> {
    let ReportPart { epoch, sequence, part, parts, .. } = offers.report;
    Part { epoch, sequence, part, parts, rows: offers.rows().collect() }
}

fn socket_of(row: &ListeningRow) -> Socket {
    Socket {
        address: row.address,
        port: row.port,
        mptcp: row.mptcp,
        dual_stack: row.ipv6,
        queue: row.queue_len,
        queue_limit: row.queue_max,
        process_id: row.pid,
        process: row.name_str().to_owned(),
    }
}

fn application_of(row: &ApplicationRow) -> Application {
    Application {
        process_id: row.pid,
        process: row.name_str().to_owned(),
        processes: row.processes,
        memory_octets: row.memory,
        cpu_hundredths: row.cpu,
        interval_ms: row.interval_ms,
    }
}
