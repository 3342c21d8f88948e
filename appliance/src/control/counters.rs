//! What the control core counts. It is the only writer; the admin thread gets copies in snapshots.

/// Declares a closed enum whose variants are counters: name and meaning stand beside each variant, once.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $label:literal, $help:literal;)+ }) => {
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

            /// What it means, in one sentence: the documentation's.
            #[cfg(test)]
            pub const fn help(self) -> &'static str {
                match self { $($name::$variant => $help,)+ }
            }
        }
    };
}

counted! {
    /// Why a frame for the control core was ignored.
    Ignored {
        BadArp = "bad_arp", "Malformed ARP.";
        OtherArp = "other_arp", "ARP from an address that is no configured board's, or from the wrong port.";
        ForgedArp = "forged_arp", "ARP that claims a board's address for another MAC address than the configured one, for that of another board that lives, or for a second one within a second.";
        AddressConflict = "address_conflict", "ARP by which a second machine claims the address of a board that lives: two machines have one address.";
        UnknownMac = "unknown_mac", "An ipOS frame from a MAC address that is no board's.";
        WrongAddress = "wrong_address", "A report whose source address is another board's, or not meant for this appliance.";
        WrongPort = "wrong_port", "A frame on another port than the board's.";
        BadLength = "bad_length", "An ipOS message shorter than its format.";
        BadChecksum = "bad_checksum", "An ipOS message whose checksum does not hold.";
        BadVersion = "bad_version", "An ipOS message of a version that is not spoken here.";
        BadField = "bad_field", "An ipOS message with a value that its format does not have.";
        UnknownType = "unknown_type", "An ipOS message of a type that is unknown, or not for an appliance.";
        StaleReport = "stale_report", "A report that is older than one already seen.";
        AbsurdReport = "absurd_report", "A report with values that cannot be.";
        LateAnswer = "late_answer", "An answer to an attempt or a question that is over, or never was.";
        BareAck = "bare_ack", "An acknowledgement without id while more than one attempt was made for its connection.";
        WrongBoard = "wrong_board", "An answer from another board than the one that was asked.";
    }
}

counted! {
    /// How an attempt to migrate an endpoint to a board ended.
    Ended {
        Acknowledged = "acknowledged", "The board acknowledged (0x03).";
        Refused = "refused", "The board refused (0x04), or said that the endpoint is closed.";
        Silent = "silent", "The board did not answer, however often it was asked.";
        Abandoned = "abandoned", "The worker wanted the endpoint no more.";
        Deadline = "deadline", "The request's deadline passed while the board was being asked.";
    }
}

counted! {
    /// How a health check ended.
    Checked {
        Passed = "passed", "The board answered with the expected status.";
        OtherStatus = "other_status", "It answered with another status.";
        NotHttp = "not_http", "It answered something that is no HTTP/1.x status line.";
        Cut = "cut", "The connection ended before a status line.";
        Refused = "refused", "The board refused the endpoint (0x04).";
        Silent = "silent", "The board did not acknowledge the endpoint in time.";
        NoAnswer = "no_answer", "The board acknowledged the endpoint, but no answer came in time: it takes connections and does not serve them.";
    }
}

counted! {
    /// Why a request was placed on the board that it was placed on.
    Reason {
        Policy = "policy", "The policy's choice among several boards that were fit.";
        OnlyOne = "only_one", "The only board that was fit.";
        Home = "home", "The service's home board, which was fit.";
        HomeUnfit = "home_unfit", "The service's home board was not fit: the policy's choice among the others.";
        Cookie = "cookie", "The board that the request's session is at, as its cookie says.";
        Assigned = "assigned", "The choice for a client that was given a cookie with it, and comes again.";
        HashNext = "hash_next", "The board that comes first for the client's address was not fit: the next in its order.";
        AfterRefusal = "after_refusal", "Another board had refused.";
        AfterSilence = "after_silence", "Another board had not answered.";
    }
}

counted! {
    /// Why a request got no board: of the reasons of its boards the one nearest to being fit, the nearest last.
    #[derive(PartialOrd, Ord)]
    NoBoard {
        AttemptsFull = "no_attempt_left", "Too many requests were waiting for boards at once.";
        Late = "late", "Its deadline passed while a board was being asked.";
        Silent = "no_reports", "No reports came, or they were overdue.";
        NoMac = "no_mac", "The MAC address was not known.";
        Options = "options", "The kernel lacked TCP options that clients are offered.";
        NotListening = "not_listening", "Nothing listened for the service.";
        Unhealthy = "unhealthy", "Its health check failed.";
        Stopping = "stopping", "What listened was about to be stopped.";
        Draining = "draining", "The board was draining.";
        NoWeight = "no_weight", "The weight was 0.";
        Flapping = "flapping", "The board was kept back, since it had died again and again.";
        Tried = "tried", "Every board that was fit had refused, or had not answered.";
        OverLimit = "over_limit", "The board was beyond a limit of the service, and stayed so until the request's deadline.";
    }
}

counted! {
    /// The limit of `[service.admit]` that a connection was refused for.
    OverLimit {
        ClientConnections = "client_connections", "Its client had as many connections at once as it may.";
        ClientRate = "client_rate", "Its client made more new connections than it may in that time.";
        Connections = "connections", "The service had as many connections at once as it may.";
        Rate = "rate", "The service got more new connections than it may in that time.";
    }
}

counted! {
    /// Things that happen in the control core.
    Did {
        Placed = "placed", "A request asked for a board.";
        DatagramsPlaced = "datagrams_placed", "A flow of datagrams asked for a board.";
        RepeatAsked = "repeat_asked", "A client's retransmission asked for an attempt again.";
        Unavailable = "unavailable", "No board was left for a request: answered 503.";
        OverLimit = "limit_reached", "A request, or a flow of datagrams, was beyond a limit of its service: answered 429, reset or dropped.";
        ClientsFull = "clients_full", "A connection was admitted without regard to its client: more clients than the table has room for.";
        AttemptsFull = "attempts_full", "Too many attempts under way: answered 503.";
        RepeatFailed = "repeat_failed", "The board did not confirm a repeated attempt: the client is reset.";
        ConnectionSent = "connection_sent", "A Connection Packet (0x01) was sent.";
        DetachSent = "detach_sent", "A detach (0x05) was sent.";
        DetachAsked = "detach_asked", "A detach without force (0x05) was sent: a later request belongs to another board.";
        DetachedLate = "detached_late", "A board gave an endpoint up after it was not waited for any more.";
        QuestionSent = "question_sent", "A question (0x08) was sent to one board.";
        HolderFound = "holder_found", "A question ended with a board that holds the endpoint.";
        HolderNobody = "holder_nobody", "A question ended with every live board denying.";
        HolderUnknown = "holder_unknown", "A question ended without every live board's answer.";
        QuestionsFull = "questions_full", "Too many questions under way: answered unknown at once.";
        ClosedNotice = "closed_notice", "A board's notice that an endpoint closed was passed to its worker.";
        StrayNotice = "stray_notice", "A board's notice of a stray packet was passed to its worker.";
        ReportTaken = "report_taken", "A server state report (0x10) was taken.";
        SocketsTaken = "sockets_taken", "A complete listening sockets report (0x11) was taken.";
        ApplicationsTaken = "applications_taken", "A complete application information report (0x12) was taken.";
        OffersTaken = "offers_taken", "A complete list of what a board may start (0x22) was taken.";
        OrderSent = "order_sent", "An order (0x20) to start or stop an application was sent.";
        StartAsked = "start_asked", "A board was asked to start an application.";
        Started = "started", "An application that was asked for listens.";
        StartUnlisted = "start_unlisted", "No start: the board's configuration does not list the application.";
        StartExited = "start_exited", "No start: the application ended before it listened.";
        StartNeverListened = "start_never_listened", "No start: the application did not listen in time, and was ended.";
        StartBackingOff = "start_backing_off", "No start: the application failed on that board before, and is not started again yet.";
        StartImpossible = "start_impossible", "No start: the board could not make the process.";
        StartSilent = "start_silent", "No start: the board did not answer, or died.";
        StopAsked = "stop_asked", "A board was asked to stop an idle application.";
        Stopped = "stopped", "An idle application was stopped.";
        StopBusy = "stop_busy", "An application that was to be stopped had connections, or was wanted again.";
        StopSilent = "stop_silent", "The board did not answer the order to stop an application.";
        Waited = "waited", "A request began to wait for a start.";
        WaitFull = "wait_full", "A request found the queue for a start full: answered 503.";
        WaitOver = "wait_over", "A request waited for a start as long as it may: answered 503.";
        NoStart = "no_start", "A request found no board, and none that could start its application: answered 503.";
        SessionLearned = "session_learned", "A cookie's value was new: it belongs to the board that took its request.";
        SessionMoved = "session_moved", "A cookie's value belongs to another board: its own did not take a request of it.";
        SessionAnew = "session_anew", "A request's session was at a board that could not have it (dead, drained, gone, beyond a limit): placed anew.";
        SessionOtherRow = "session_other_row", "A request's session was at a board that its row of the URL map does not name: placed as without a cookie.";
        CookieWithheld = "session_cookie_withheld", "A request without a cookie was placed as it is: its client had been given one within ten seconds and came again without.";
        SessionExpired = "session_expired", "A session was forgotten: it had not been used for long.";
        SessionEvicted = "session_evicted", "The Cookie Map was full: the session that was unused for longest was forgotten.";
        ArpSent = "arp_sent", "An ARP request for a board was sent.";
        MacLearned = "mac_learned", "A board's MAC address became known, or changed.";
        BoardUp = "board_up", "A board came alive.";
        BoardDown = "board_down", "A board was declared dead.";
        DrainBegun = "drain_begun", "An operator began to drain a board.";
        DrainAgain = "drain_again", "An operator drained a board that drains already.";
        Drained = "drained", "The last connection of a board that drains ended.";
        Undrained = "undrained", "An operator ended a drain.";
        IdleCloseSent = "idle_close_sent", "A board was told to close its idle connections (0x13), a drain's deadline being over.";
        Weighed = "weighed", "An operator gave a board another weight.";
        BoardAdded = "board_added", "A board was added at run time.";
        BoardLeaves = "board_leaves", "A board is no longer in the configuration; it goes with its last connection.";
        BoardRemoved = "board_removed", "A board is gone, and its number free.";
        BoardForced = "board_forced", "A board was removed by force: its connections were given up.";
        FarmApplied = "farm_applied", "A new configuration was applied.";
        OrderRefused = "order_refused", "An operator's order could not be carried out: no such board, or not in that state.";
        BoardKeptBack = "board_kept_back", "A board came alive that had died again and again: it gets no connections for a while.";
        CookieRotated = "cookie_rotated", "The SYN cookies' secret was changed.";
    }
}

/// The numbers.
#[derive(Clone, Debug)]
pub struct ControlCounters {
    ignored: [u64; Ignored::ALL.len()],
    did: [u64; Did::ALL.len()],
}

impl Default for ControlCounters {
    fn default() -> Self {
        Self { ignored: [0; Ignored::ALL.len()], did: [0; Did::ALL.len()] }
    }
}

impl ControlCounters {
    /// Counts a frame that was ignored.
    pub fn ignore(&mut self, reason: Ignored) {
        self.ignored[reason as usize] += 1;
    }

    /// Counts something that happened.
    pub fn count(&mut self, what: Did) {
        self.did[what as usize] += 1;
    }

    /// Frames ignored for a reason.
    pub fn ignored(&self, reason: Ignored) -> u64 {
        self.ignored[reason as usize]
    }

    /// How often something happened.
    pub fn did(&self, what: Did) -> u64 {
        self.did[what as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_counts_itself_alone() {
        let mut counters = ControlCounters::default();
        counters.ignore(Ignored::BareAck);
        counters.count(Did::ArpSent);
        counters.count(Did::ArpSent);
        let ignored: u64 = Ignored::ALL.iter().map(|reason| counters.ignored(*reason)).sum();
        let did: u64 = Did::ALL.iter().map(|what| counters.did(*what)).sum();
        assert_eq!((ignored, counters.ignored(Ignored::BareAck)), (1, 1));
        assert_eq!((did, counters.did(Did::ArpSent)), (2, 2));
    }

    #[test]
    fn names_are_unique_and_fit_a_label() {
        let mut names: Vec<&str> = Ignored::ALL.iter().map(|reason| reason.name()).collect();
        names.extend(Ended::ALL.iter().map(|ended| ended.name()));
        names.extend(Did::ALL.iter().map(|did| did.name()));
        names.extend(Reason::ALL.iter().map(|reason| reason.name()));
        names.extend(NoBoard::ALL.iter().map(|reason| reason.name()));
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
