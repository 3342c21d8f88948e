//! A worker's counters: written by the worker alone, read by the admin thread.
//!
//! Every packet that a worker receives ends in exactly one of [`Outcome`]; a dropped one also in exactly one [`Drop`]
//! reason (design: system.md, rules). Cost: one relaxed load and store per count, on the worker's own cache lines.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::handoff::PORTS_MAX;

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts; only the owning worker may call this.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets; only the owning worker may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares a closed enum whose variants are counters: name and meaning stand beside each variant, once.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal, $help:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $help] $variant,)+
        }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The value of the metric's label.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $label,)+ }
            }

            /// What it means, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $($name::$variant => $help,)+ }
            }
        }
    };
}

counted! {
    /// What became of a received packet: exactly one of these.
    Outcome {
        Forwarded = "forwarded", "Sent on to the board that holds the endpoint.";
        Answered = "answered", "Answered or settled by the appliance itself.";
        Held = "held", "Its octets or the frame itself wait in an entry.";
        Control = "control", "Handed to the control core.";
        Check = "check", "A board's answer to a health check, handed to the control core.";
        Steered = "steered", "Handed to the worker that owns the flow, which counts it again.";
        Dropped = "dropped", "Dropped, for exactly one of the reasons in ipos_drops_total.";
    }
}

counted! {
    /// Why a packet was dropped.
    Drop {
        OtherMac = "other_mac", "Not ours: the destination MAC address is not the port's.";
        OtherEthertype = "other_ethertype", "Not ours: neither IPv4, ARP nor, on a farm port, the farm's ipOS EtherType.";
        OtherAddress = "other_address", "Not ours: the destination IPv4 address is neither the port's nor a service's.";
        OtherProtocol = "other_protocol", "Not ours: neither TCP, UDP nor ICMP to an address of ours.";
        OtherArp = "other_arp", "Not ours: ARP about somebody else's address.";
        OtherIcmp = "other_icmp", "Not ours: ICMP that is neither an echo request nor an error about a flow we know.";
        IposOnWan = "ipos_on_wan", "Not ours: an ipOS frame on a port that does not face the farm.";
        Vlan = "vlan", "Not ours: a VLAN tag; the appliance's ports are untagged.";
        Segmented = "segmented", "Malformed: more segments than the port's buffers can join.";
        BadEthernet = "bad_ethernet", "Malformed: shorter than an Ethernet header.";
        BadArp = "bad_arp", "Malformed ARP.";
        BadIpv4 = "bad_ipv4", "Malformed IPv4 header or length.";
        BadIpv4Checksum = "bad_ipv4_checksum", "Malformed: IPv4 header checksum.";
        BadUdp = "bad_udp", "Malformed UDP header or length.";
        BadTcp = "bad_tcp", "Malformed TCP header or length.";
        BadTcpChecksum = "bad_tcp_checksum", "Malformed: TCP checksum.";
        BadTcpOptions = "bad_tcp_options", "Malformed TCP options.";
        BadTcpFlags = "bad_tcp_flags", "Malformed: flags that never go together, such as SYN and FIN, or none at all.";
        BadIcmp = "bad_icmp", "Malformed ICMP.";
        BadIpos = "bad_ipos", "Malformed ipOS header on a farm port.";
        Fragment = "fragment", "Refused: an IPv4 fragment; clients of TCP do path MTU discovery.";
        IpOptions = "ip_options", "Refused: IPv4 options.";
        BadSource = "bad_source", "Refused: the source address is multicast (MAC or IPv4), loopback, unspecified or one of ours.";
        UnexpectedIpos = "unexpected_ipos", "Refused: an ipOS packet (0x02) sent to the appliance.";
        NoRequest = "no_request", "Refused: the handshake's ACK without data, where a request is waited for; the first data proves the cookie.";
        ClosedProbe = "closed_probe", "Refused: the last ACK of a connection that was closed without a request.";
        OutOfWindow = "out_of_window", "Refused: outside the window that was advertised.";
        OldSegment = "old_segment", "Refused: nothing new in it and nothing to answer.";
        NoBoardYet = "no_board_yet", "Refused: for a service that chooses boards by hash, before any board was heard of.";
        NoUdpService = "no_udp_service", "Refused: UDP to a service's address, but to a port where there is no UDP service.";
        NoUdpBoard = "no_udp_board", "Refused: a datagram that no board takes (for a second, as its flow was told).";
        OverLimit = "over_limit", "Refused: a datagram of a flow that its service has no room for (`[service.admit]`), for a second, as its flow was told.";
        TooManyGaps = "too_many_gaps", "Refused: more than 16 gaps in the octets held; the client retransmits.";
        AwaitingHolder = "awaiting_holder", "Refused: another packet of this flow already waits for the farm's answer.";
        AskLimit = "ask_limit", "Refused: too many questions to the farm at once (or this second).";
        StrayReset = "stray_reset", "Refused: a RST for an endpoint that nobody holds.";
        ResetLimit = "reset_limit", "Refused: a RST was due, but too many were sent this second.";
        ShardFull = "shard_full", "Pressure: the worker's shard has no entry left.";
        PendingFull = "pending_full", "Pressure: no buffer left for another unfinished request.";
        ControlFull = "control_full", "Pressure: the queue to the control core is full.";
        DatagramsFull = "datagrams_full", "Pressure: a new flow of datagrams found no room, or too many came this second.";
        DatagramsHeld = "datagrams_held", "Pressure: a datagram came while a board was being asked, and enough others wait already.";
        AdmitFull = "admit_full", "Pressure: a SYN that has to be admitted (`[service.admit]`, kind `l4`) found no room to wait, or too many came this second; the client sends it again.";
        AdmitHeld = "admit_held", "Refused: another packet of a connection whose SYN waits to be admitted.";
        SteerFull = "steer_full", "Pressure: the queue to the owning worker is full.";
        NoMbuf = "no_mbuf", "Pressure: no mbuf left for an answer.";
        NoBoardMac = "no_board_mac", "Pressure: the board's MAC address is not known yet.";
        TooBig = "too_big", "Refused: does not fit the farm's MTU behind the ipOS header, and its sender was not told: it allows fragmentation, or too many were told this second.";
        NoHeadroom = "no_headroom", "Pressure: no headroom in the mbuf for the ipOS header.";
    }
}

counted! {
    /// Things that happen to connections.
    Happening {
        SynAnswered = "syn_answered", "SYN answered with a SYN-ACK.";
        HandshakeProven = "handshake_proven", "A packet that proved its cookie, with data or to a service whose server may speak first: an entry was made.";
        CookieFailed = "cookie_failed", "A non-SYN packet without entry whose cookie does not hold.";
        HeadComplete = "head_complete", "A request head became complete.";
        CookieMalformed = "session_cookie_malformed", "A request's cookie could not name a board: cut, or not of the appliance's making. Placed as without.";
        CookieUnknown = "session_cookie_unknown", "A request's cookie named no board of the service: forged, of another key, or of a board that is gone. Placed as without.";
        HelloComplete = "hello_complete", "A TLS ClientHello became complete.";
        Http2Begun = "http2_begun", "A connection began with HTTP/2's preface and was placed as a whole.";
        HelloNotTls = "hello_not_tls", "Refused by an alert: what came for a ClientHello is no TLS.";
        HelloSsl2 = "hello_ssl2", "Refused by an alert: an SSL 2.0 hello.";
        HelloBadRecord = "hello_bad_record", "Refused by an alert: a record of the ClientHello is empty, too long, or of another type.";
        HelloMalformed = "hello_malformed", "Refused by an alert: another message than a ClientHello, or lengths that contradict each other.";
        HelloTooLong = "hello_too_long", "Refused by an alert: a ClientHello that does not fit 16 KiB with its records' headers.";
        HelloBadName = "hello_bad_name", "Refused by an alert: a server name that is none.";
        HelloBadProtocols = "hello_bad_protocols", "Refused by an alert: an ALPN list that is none, or has more than 256 protocols.";
        HelloCut = "hello_cut", "Refused by an alert: the client closed within its ClientHello.";
        HelloTimeout = "hello_timeout", "Closed: the ClientHello was not complete in time.";
        NameUnknown = "name_unknown", "Refused by alert 112: no row of the service's map has the server name.";
        NameMissing = "name_missing", "Refused by alert 112: a ClientHello without a server name.";
        AlertUnavailable = "alert_unavailable", "Refused by alert 80: no board took the endpoint of a TLS client.";
        AlertSent = "alert_sent", "Answered by a TLS alert, then FIN.";
        ServerFirst = "server_first", "A connection was placed on its handshake's ACK, without waiting for data.";
        AckRepeated = "ack_repeated", "The handshake's ACK was sent to the board again: nothing had shown yet that its server has the connection.";
        Migrated = "migrated", "An endpoint moved to a board, and its octets followed.";
        WatchBegun = "watch_begun", "A connection was migrated each request of which is looked at from then on.";
        MoveAsked = "move_asked", "A later request belongs to another board: the one that has the connection was asked to give it up.";
        MoveAskedAgain = "move_asked_again", "The same after the board was silent and was sent the request: it seems to have given the connection up before.";
        Moved = "moved", "A connection went to another board with a later request.";
        MovedHere = "moved_here", "A connection was given up by its board with a later request that the appliance answers itself.";
        StayedShared = "stayed_shared", "A later request fits a row of other boards, and the one that has the connection is among them.";
        StayedBusy = "stayed_busy", "A later request stayed where the connection was: that board had something under way.";
        StayedNotHeld = "stayed_not_held", "A later request went to the board that had the connection, which said that it does not hold it.";
        StayedSilent = "stayed_silent", "A later request stayed where the connection was: that board did not answer whether it gives it up.";
        StayedNoBoard = "stayed_no_board", "A later request stayed where the connection was: no board of its row could take it.";
        StayedNoRoom = "stayed_no_room", "A later request stayed where the connection was: no buffer left, or too many moves at once.";
        UnwatchedLast = "unwatched_last", "A watch ended: the client said that no further request follows, or closed.";
        UnwatchedUpgrade = "unwatched_upgrade", "A watch ended: an upgrade, or CONNECT.";
        UnwatchedLong = "unwatched_long", "A watch ended: a body or chunk of 2^30 octets or more.";
        UnwatchedChunks = "unwatched_chunks", "A watch ended: a chunk header that is none, or that later segments went past.";
        UnwatchedPipelined = "unwatched_pipelined", "A watch ended: the client sent a request before the answer to the one before.";
        UnwatchedMalformed = "unwatched_malformed", "A watch ended: a later request that the appliance would refuse; its board answers it.";
        UnwatchedIncomplete = "unwatched_incomplete", "A watch ended: the rest of a request head did not come in time, or not without an acknowledgement.";
        UnwatchedNoRoom = "unwatched_no_room", "A watch ended, or did not begin: no record or buffer left.";
        UnwatchedReload = "unwatched_reload", "A watch ended: its service has gone, or moves no requests any more.";
        UnwatchedRelearned = "unwatched_relearned", "A watch ended: its board holds the endpoint by another attempt than the one known.";
        Repeated = "repeated", "A client's retransmission made the attempt be repeated.";
        Proven = "proven", "The client showed that the board has the request; held octets were let go.";
        AnsweredBadRequest = "answered_400", "Answered 400 by the appliance.";
        AnsweredForbidden = "answered_403", "Answered 403 by the appliance.";
        AnsweredNotFound = "answered_404", "Answered 404 by the appliance.";
        AnsweredTimeout = "answered_408", "Answered 408 by the appliance.";
        AnsweredUriTooLong = "answered_414", "Answered 414 by the appliance.";
        AnsweredTooMany = "answered_429", "Answered 429 by the appliance.";
        AnsweredTooLarge = "answered_431", "Answered 431 by the appliance.";
        AnsweredUnavailable = "answered_503", "Answered 503 by the appliance.";
        ResetUnplaced = "reset_unplaced", "A connection that no board took was reset: its service has no words to say so in.";
        ResetOverLimit = "reset_over_limit", "A connection beyond a limit of its service (`[service.admit]`) was reset: its service has no words to say so in.";
        Redirected = "redirected", "Answered with a redirect by the appliance.";
        CookieGiven = "session_cookie_given", "Answered with a redirect to the same path and a cookie that names a board.";
        ResetSent = "reset_sent", "A RST was sent to a client.";
        ProbeClosed = "probe_closed", "A connection that was closed without a request was answered with FIN-ACK.";
        HolderAsked = "holder_asked", "The farm was asked who holds an endpoint.";
        HolderFound = "holder_found", "A board said that it holds the endpoint; its entry was rebuilt.";
        HolderDenied = "holder_denied", "Every live board denied to hold the endpoint.";
        HolderUnknown = "holder_unknown", "Not every live board answered who holds an endpoint.";
        Replaced = "replaced", "A new connection proved itself on the addresses and ports of an entry.";
        ClosedByBoard = "closed_by_board", "An entry ended by the board's notice.";
        ClosedByReset = "closed_by_reset", "An entry ended by the client's RST.";
        ExpiredIdle = "expired_idle", "An entry ended idle: its board does not hold the endpoint, or was silent however often it was asked; of kind `l4`, unasked.";
        ExpiredPending = "expired_pending", "An unfinished entry ended by a deadline.";
        Forgotten = "forgotten", "A connection was given up because its board was removed by force.";
        Layer4Placed = "layer4_placed", "A connection that is not terminated here got its board, by hash.";
        Layer4Unkept = "layer4_unkept", "Such a connection's packet went to its board without an entry: the share of the shard is used up.";
        Layer4Unasked = "layer4_unasked", "Such a connection had no entry, the farm could not be asked about so many, and its packet went to the board that the table names.";
        Layer4NoBoard = "layer4_no_board", "Such a connection found no board that could have it, and was answered with RST.";
        DatagramsPlaced = "datagrams_placed", "A flow of datagrams was taken by a board.";
        DatagramsUnplaced = "datagrams_unplaced", "A flow of datagrams that no board takes.";
        DatagramsOverLimit = "datagrams_over_limit", "A flow of datagrams beyond a limit of its service (`[service.admit]`).";
        DatagramsMoved = "datagrams_moved", "A flow of datagrams went to be placed anew: its board was dead or gone.";
        DatagramsIdle = "datagrams_idle", "A flow of datagrams ended idle.";
        QuicFollowed = "quic_followed", "A QUIC connection came from another address: its id named the board, and a flow was made there.";
        QuicUnkept = "quic_unkept", "The same without a flow, for one packet: the share of the table is used up, or too many came this second.";
        QuicMoved = "quic_moved", "A flow went over to the board that a QUIC connection id named.";
        QuicUnknown = "quic_unknown", "A QUIC packet whose connection id names no board: it went with its flow, or was placed.";
        QuicBoardGone = "quic_board_gone", "A QUIC packet whose connection id names a board that is dead or gone: it went with its flow, or was placed.";
        QuicTooShort = "quic_too_short", "A QUIC packet that ends before its connection id names a board: it went with its flow, or was placed.";
        QuicMalformed = "quic_malformed", "What came for a QUIC packet is none: it went with its flow, or was placed.";
        TooBigTold = "too_big_told", "The sender of a packet that does not fit the farm's MTU was told so (ICMP, fragmentation needed).";
        Originated = "originated", "A packet sent that no received packet asked for (replays, time-outs, the control core's frames).";
        OriginateFailed = "originate_failed", "A packet that the appliance wanted to send found no mbuf, board or queue.";
    }
}

counted! {
    /// Why a request was refused with 400: exactly one of these.
    BadReason {
        NotHttp = "not_http", "The stream does not begin with a method: TLS, SSH, noise.";
        RequestLine = "request_line", "The request line is not method, target and version with one space between them.";
        Version = "version", "A version other than HTTP/1.0 and HTTP/1.1, the HTTP/2 preface among them.";
        Header = "header", "A header line that is none, or a name with octets that no name has.";
        ObsFold = "obs_fold", "A header continued on the next line.";
        SpaceBeforeColon = "space_before_colon", "White space between a header's name and its colon.";
        BareCr = "bare_cr", "A CR that no LF follows.";
        BareLf = "bare_lf", "A LF that no CR stands before.";
        Nul = "nul", "A NUL octet, or an encoded one in the path.";
        Host = "host", "A host that is none, in the Host header or the target; CONNECT without a port.";
        TwoHosts = "two_hosts", "More than one Host header.";
        NoHost = "no_host", "HTTP/1.1 without a Host header.";
        OtherHost = "other_host", "The target names one host, the Host header another.";
        ContentLength = "content_length", "More than one Content-Length, or one that is no number.";
        TransferEncoding = "transfer_encoding", "More than one Transfer-Encoding, one in HTTP/1.0, or one whose last coding is not chunked.";
        LengthAndEncoding = "length_and_encoding", "Both Content-Length and Transfer-Encoding.";
        Fragment = "target_fragment", "A target with a fragment.";
        Escape = "escape", "A % in the path without two hexadecimal digits.";
        TwoReadings = "two_readings", "An encoded slash in a path that the URL map places differently when it is read as a slash.";
        Unfinished = "unfinished", "The client closed its side before its head was complete.";
    }
}

/// What one port carried, as one worker saw it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Packets received.
    pub received_packets: Counter,
    /// Octets received, without the frame check sequence.
    pub received_octets: Counter,
    /// Packets given to the port, or waiting for room in its transmit queue.
    pub sent_packets: Counter,
    /// Octets given to the port.
    pub sent_octets: Counter,
    /// Packets dropped because the port took none for a while.
    pub send_failed: Counter,
}

/// Bounds of [`Latencies`], microseconds: 1, 2 and 5 of each decade up to a second.
pub const LATENCY_BOUNDS_US: [u32; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000,
];

/// Latencies by size: how many were at most as long as each bound and longer than the one before; the last place has those
/// that were longer than all.
#[derive(Debug, Default)]
pub struct Latencies([Counter; LATENCY_BOUNDS_US.len() + 1]);

impl Latencies {
    /// Counts one; only the owning worker may call this.
    pub fn record(&self, us: u64) {
        let place = LATENCY_BOUNDS_US.iter().position(|bound| us <= u64::from(*bound));
        self.0[place.unwrap_or(LATENCY_BOUNDS_US.len())].add(1);
    }

    /// How many there were, by bound.
    pub fn read(&self) -> [u64; LATENCY_BOUNDS_US.len() + 1] {
        self.0.each_ref().map(Counter::read)
    }
}

/// All that one worker counts. Shared as an `Arc`; only the worker writes.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    outcomes: [Counter; Outcome::ALL.len()],
    drops: [Counter; Drop::ALL.len()],
    happenings: [Counter; Happening::ALL.len()],
    bad_requests: [Counter; BadReason::ALL.len()],
    /// By port, in the order of the configuration.
    pub ports: [PortCounters; PORTS_MAX],
    /// Packets that came from another worker's hand-over: they are counted as received there, not here.
    pub steered_in: Counter,
    /// Polls, and those that found work.
    pub polls: Counter,
    /// Polls that found something to do.
    pub busy_polls: Counter,
    /// TSC cycles since the worker started.
    pub total_cycles: Counter,
    /// TSC cycles in polls that found something to do.
    pub busy_cycles: Counter,
    /// Entries by [`crate::entry::State`].
    pub entries: [Counter; 9],
    /// Flows of datagrams.
    pub datagram_flows: Counter,
    /// How many entries the shard can hold.
    pub entries_capacity: Counter,
    /// Buffers for unfinished requests in use.
    pub pending: Counter,
    /// How many of those there are.
    pub pending_capacity: Counter,
    /// From the segment that completed a request's head to the request on its way to its board.
    pub placements: Latencies,
    /// The same of later requests that went to another board than the one before: from the first segment on.
    pub moves: Latencies,
}

impl WorkerCounters {
    /// All zero.
    pub fn new() -> Self {
        Self {
            outcomes: [const { Counter(AtomicU64::new(0)) }; Outcome::ALL.len()],
            drops: [const { Counter(AtomicU64::new(0)) }; Drop::ALL.len()],
            happenings: [const { Counter(AtomicU64::new(0)) }; Happening::ALL.len()],
            bad_requests: [const { Counter(AtomicU64::new(0)) }; BadReason::ALL.len()],
            ports: Default::default(),
            steered_in: Counter::default(),
            polls: Counter::default(),
            busy_polls: Counter::default(),
            total_cycles: Counter::default(),
            busy_cycles: Counter::default(),
            datagram_flows: Counter::default(),
            entries: Default::default(),
            entries_capacity: Counter::default(),
            pending: Counter::default(),
            pending_capacity: Counter::default(),
            placements: Latencies::default(),
            moves: Latencies::default(),
        }
    }

    /// The counter of an outcome.
    #[inline]
    pub fn outcome(&self, outcome: Outcome) -> &Counter {
        &self.outcomes[outcome as usize]
    }

    /// The counter of a drop reason.
    #[inline]
    pub fn dropped(&self, reason: Drop) -> &Counter {
        &self.drops[reason as usize]
    }

    /// The counter of a happening.
    #[inline]
    pub fn happening(&self, happening: Happening) -> &Counter {
        &self.happenings[happening as usize]
    }

    /// The counter of a reason for a 400.
    #[inline]
    pub fn bad_request(&self, reason: BadReason) -> &Counter {
        &self.bad_requests[reason as usize]
    }

    /// Packets received on all ports or handed over by other workers.
    pub fn packets_in(&self) -> u64 {
        self.ports.iter().map(|port| port.received_packets.read()).sum::<u64>() + self.steered_in.read()
    }

    /// Packets whose outcome is settled: equal to [`Self::packets_in`] between two polls, whatever came in.
    pub fn packets_settled(&self) -> u64 {
        self.outcomes.iter().map(Counter::read).sum()
    }
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_label() {
        let mut names: Vec<&str> = Drop::ALL.iter().map(|d| d.name()).collect();
        names.extend(Outcome::ALL.iter().map(|o| o.name()));
        names.extend(Happening::ALL.iter().map(|h| h.name()));
        names.extend(BadReason::ALL.iter().map(|r| r.name()));
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_latency_counts_at_the_first_bound_that_it_does_not_exceed() {
        let latencies = Latencies::default();
        for us in [0, 1, 2, 3, 5, 6, 1_000_000, 1_000_001, u64::MAX] {
            latencies.record(us);
        }
        let mut expected = [0; LATENCY_BOUNDS_US.len() + 1];
        for (place, count) in [(0, 2), (1, 1), (2, 2), (3, 1), (18, 1), (19, 2)] {
            expected[place] = count;
        }
        assert_eq!(latencies.read(), expected);
    }

    #[test]
    fn each_counter_counts_itself_alone() {
        let counters = WorkerCounters::new();
        counters.dropped(Drop::Vlan).add(2);
        counters.dropped(Drop::Vlan).add(1);
        counters.outcome(Outcome::Dropped).add(3);
        assert_eq!(counters.dropped(Drop::Vlan).read(), 3);
        assert_eq!(counters.dropped(Drop::OtherMac).read(), 0);
        assert_eq!(counters.packets_settled(), 3);
    }
}
