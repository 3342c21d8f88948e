//! Tests of [`super`], with real processes of this user's, in this network namespace.

use std::{
    cell::Cell,
    fs,
    net::{SocketAddrV4, TcpListener},
    os::fd::BorrowedFd,
};

use ipos_wire::ipos::ApplicationName;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::config::{self, Application, Limits, Output};

const BOARD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const APPLIANCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Listens on the port in its argument until SIGTERM.
const LISTENS: &str = "import signal, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', int(sys.argv[1])))
listener.listen()
signal.pause()";

struct Bench {
    directory: PathBuf,
    config: Config,
    applications: Applications,
    diag: SockDiag,
    held: Cell<u32>,
    next_id: u64,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::Uid::current()).expect("the user file").expect("a user").name
}

impl Bench {
    /// An application `web` with this command; `PORT` in it stands for the port on which it shall listen.
    fn new(test: &str, command: &[&str], change: impl FnOnce(&mut Application)) -> Bench {
        let directory = std::env::temp_dir().join(format!("ipos-board-spawn-{test}-{}", std::process::id()));
        let port = free_port();
        let mut web = Application {
            name: name("web"),
            command: command.iter().map(|word| word.replace("PORT", &port.to_string())).collect(),
            user: user(),
            environment: vec![("COLOUR".to_owned(), "blue".to_owned())],
            directory: "/".into(),
            listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            memory_mb: 64,
            cpu_percent: 50,
            instances_max: 1,
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_millis(300),
            output: Output::File(directory.join("output")),
            limits: Limits::default(),
        };
        change(&mut web);
        fs::create_dir_all(&directory).expect("a folder");
        let text = "interface = \"lo\"\naddress = \"192.0.2.11\"\nappliances = [\"192.0.2.2\"]\n\
                    services = [{ address = \"198.51.100.1\", kind = \"http\" }]\nreport_interval_ms = 10\n";
        let config = Config {
            applications: vec![web],
            run_directory: directory.join("run"),
            // Each test its own: to end an instance is to end what is in its cgroup.
            cgroup: cgroup::beside(&format!("ipos-test-{test}-{}", std::process::id())),
            ..config::parse(text).expect("a configuration")
        };
        let applications = Applications::new(&config, Instant::now());
        let diag = SockDiag::open().expect("sock_diag");
        Bench { directory, config, applications, diag, held: Cell::new(0), next_id: 0 }
    }

    fn order_as(&mut self, id: u64, action: Action, name: &str) {
        let name = self::name(name);
        let order = Order { board: BOARD, appliance: APPLIANCE, action, id, name, tag: [0; 16] };
        let mut message = [0; Order::LEN];
        order.emit(&mut message);
        let held = |_, _| self.held.get();
        self.applications.order(APPLIANCE, &message, Instant::now(), &held);
    }

    /// Gives an order, and returns its id.
    fn order(&mut self, action: Action) -> u64 {
        self.next_id += 1;
        self.order_as(self.next_id, action, "web");
        self.next_id
    }

    /// Waits and turns, as the agent does, until an outcome says this.
    fn until(&mut self, what: Progress) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut heard: Vec<Outcome> = Vec::new();
        loop {
            heard.extend(self.applications.outcomes());
            if let Some(found) = heard.iter().find(|outcome| outcome.progress == what) {
                return *found;
            }
            let in_time = Instant::now() < deadline;
            assert!(in_time, "no {what:?}; heard {heard:?}, output: {:?}", self.output());
            self.turn();
        }
    }

    /// Sleeps as the agent does until something is due, and does it.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let next = self.applications.next(now).unwrap_or(now + Duration::from_secs(1));
        let left = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        let ends: Vec<BorrowedFd<'_>> = self.applications.descriptors().collect();
        let mut ends: Vec<PollFd<'_>> = ends.iter().map(|end| PollFd::new(*end, PollFlags::POLLIN)).collect();
        poll(&mut ends, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).expect("poll");
        let held = |_, _| self.held.get();
        self.applications.turn(Instant::now(), &mut self.diag, &held).expect("sock_diag")
    }

    fn turn_until(&mut self, what: &str, done: impl Fn(&Offer) -> bool) -> Offer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let offer = self.offer();
            if done(&offer) {
                return offer;
            }
            assert!(Instant::now() < deadline, "not {what}: {offer:?}");
            self.turn();
        }
    }

    fn offer(&self) -> Offer {
        self.applications.offers(Instant::now())[0]
    }

    fn output(&self) -> String {
        fs::read_to_string(self.directory.join("output")).unwrap_or_default()
    }

    /// The agent is killed and another one starts.
    fn restart(&mut self) {
        self.applications = Applications::new(&self.config, Instant::now());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for record in Record::read_all(&self.directory.join("run")) {
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(record.pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let _ = fs::remove_dir_all(&self.directory);
        if let Some(cgroup) = &self.config.cgroup {
            // What was killed takes a moment to leave.
            let deadline = Instant::now() + Duration::from_secs(2);
            while cgroup.exists() && Instant::now() < deadline {
                self.applications.supervisors.clear();
                let _ = fs::remove_dir(cgroup.join("web.1"));
                let _ = fs::remove_dir(cgroup);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn name(text: &str) -> ApplicationName {
    ApplicationName::new(text).expect("a name")
}

fn gone(pid: u32) -> bool {
    record::started_ticks(pid).is_none()
}

fn listens(test: &str) -> Bench {
    Bench::new(test, &["/usr/bin/python3", "-c", LISTENS, "PORT"], |_| {})
}

#[test]
fn an_order_starts_one_that_listens_and_another_finds_it_listening() {
    let mut bench = listens("start");
    bench.order(Action::Start);
    let starting = bench.until(Progress::Starting);
    assert!(starting.pid > 0, "{starting:?}");
    // As many orders as may come meanwhile start no second one, nor does a repeated one.
    bench.order_as(starting.id, Action::Start, "web");
    let second = bench.order(Action::Start);
    let listening = bench.until(Progress::Listening);
    assert_eq!((listening.pid, bench.applications.supervisors[0].instances().len()), (starting.pid, 1));
    let third = bench.order(Action::Start);
    let outcome = bench.until(Progress::Listening);
    assert!([second, third].contains(&outcome.id) && outcome.pid == starting.pid, "{outcome:?}");
    let offer = bench.offer();
    assert_eq!((offer.listening, offer.starting, offer.failures, offer.draining), (1, 0, 0, false));
    assert_eq!((offer.memory, offer.cpu_hundredths, offer.instances_max), (64 << 20, 50, 1));
}

#[test]
fn a_stop_drains_and_ends_it_and_is_idempotent() {
    let mut bench = listens("stop");
    bench.order(Action::Start);
    let pid = bench.until(Progress::Listening).pid;
    bench.order(Action::Stop);
    assert_eq!(bench.until(Progress::Stopping).pid, pid);
    assert!(bench.offer().draining, "the appliances hear of it first");
    let stopped = bench.until(Progress::Stopped);
    assert!(gone(pid) && bench.offer().listening == 0);
    bench.order_as(stopped.id, Action::Stop, "web");
    assert_eq!(bench.until(Progress::Stopped).id, stopped.id);
    let again = bench.order(Action::Stop);
    assert_eq!(bench.until(Progress::Stopped).id, again);
    assert!(!bench.config.run_directory.join("web.1.pid").exists());
}

#[test]
fn what_holds_connections_is_not_stopped() {
    let mut bench = listens("busy");
    bench.order(Action::Start);
    let pid = bench.until(Progress::Listening).pid;
    bench.held.set(1);
    bench.order(Action::Stop);
    bench.until(Progress::Busy);
    // A connection that comes while it drains keeps it too.
    bench.held.set(0);
    bench.order(Action::Stop);
    bench.until(Progress::Stopping);
    bench.held.set(1);
    bench.until(Progress::Busy);
    assert!(!bench.offer().draining && !gone(pid));
    // And so does an order to start.
    bench.held.set(0);
    let stop = bench.order(Action::Stop);
    bench.until(Progress::Stopping);
    bench.order(Action::Start);
    assert_eq!(bench.until(Progress::Busy).id, stop);
    assert!(!bench.offer().draining && !gone(pid));
}

#[test]
fn a_start_that_comes_while_it_ends_starts_it_anew() {
    let mut bench = listens("anew");
    bench.order(Action::Start);
    let pid = bench.until(Progress::Listening).pid;
    bench.order(Action::Stop);
    bench.turn_until("ending", |offer| offer.listening == 0);
    bench.order(Action::Start);
    let listening = bench.until(Progress::Listening);
    assert!(listening.pid != pid && gone(pid), "{listening:?}");
}

#[test]
fn an_application_that_is_not_listed_is_refused() {
    let mut bench = listens("unlisted");
    bench.order_as(5, Action::Start, "shop");
    let outcome = bench.until(Progress::Unlisted);
    assert_eq!((outcome.id, outcome.name), (5, name("shop")));
    bench.order_as(6, Action::Other(9), "web");
    assert_eq!(bench.until(Progress::UnknownAction).id, 6);
}

#[test]
fn one_that_exits_at_once_is_told_with_its_status_and_backs_off() {
    let mut bench =
        Bench::new("exits", &["/bin/sh", "-c", "echo $COLOUR $IPOS_INSTANCE $HOME; exit 7"], |_| {});
    bench.order(Action::Start);
    let exited = bench.until(Progress::Exited);
    assert_eq!((exited.detail, exited.retry_ms > 0 && exited.retry_ms <= 250), (7, true), "{exited:?}");
    assert!(bench.output().starts_with("blue 1 /"), "{:?}", bench.output());
    bench.order(Action::Start);
    let refused = bench.until(Progress::BackingOff);
    assert!(refused.retry_ms > 0, "{refused:?}");
    // Each failure doubles the time.
    bench.turn_until("over", |offer| offer.retry_ms == 0);
    bench.order(Action::Start);
    let again = bench.until(Progress::Exited);
    assert!(again.retry_ms > 250, "{again:?}");
    assert_eq!((bench.offer().failures, bench.offer().starting), (2, 0), "it is not started again by itself");
}

#[test]
fn one_that_never_listens_is_ended_when_its_time_is_over() {
    // It ignores SIGTERM, and so do its children.
    let command = ["/bin/sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"];
    let mut bench = Bench::new("never", &command, |web| web.start_timeout = Duration::from_millis(100));
    bench.order(Action::Start);
    let pid = bench.until(Progress::Starting).pid;
    assert_eq!(bench.until(Progress::NeverListened).pid, pid);
    let offer = bench.turn_until("killed", |offer| !offer.draining);
    assert_eq!((offer.starting, offer.failures, gone(pid)), (0, 1, true));
}

#[test]
fn one_that_cannot_be_started_says_why() {
    let mut bench = Bench::new("impossible", &["/nonexistent"], |_| {});
    bench.order(Action::Start);
    assert_eq!(bench.until(Progress::Impossible).detail, 2, "ENOENT");
    let mut bench = Bench::new("nobody", &["/bin/true"], |web| web.user = "no-such-user".to_owned());
    bench.order(Action::Start);
    assert_eq!(bench.until(Progress::Impossible).detail, 2);
}

#[test]
fn one_that_crashes_is_started_again_later_and_later() {
    let mut bench = listens("crash");
    bench.order(Action::Start);
    let mut pid = bench.until(Progress::Listening).pid;
    let mut waits = Vec::new();
    for failures in 1..=2 {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
            .expect("it runs");
        waits.push(bench.turn_until("crashed", |offer| offer.failures == failures).retry_ms);
        assert!(bench.offer().listening == 0);
        bench.turn_until("up again", |offer| offer.listening == 1);
        pid = bench.applications.supervisors[0].instances()[0].pid;
    }
    assert!(waits[0] <= 250 && waits[1] > 250, "{waits:?}");
}

#[test]
fn the_next_agent_adopts_what_runs_and_ends_what_is_listed_no_more() {
    let mut bench = listens("adopt");
    bench.order(Action::Start);
    let pid = bench.until(Progress::Listening).pid;
    bench.restart();
    let offer = bench.turn_until("adopted", |offer| offer.listening == 1);
    assert_eq!((offer.starting, offer.failures, gone(pid)), (0, 0, false));
    bench.order_as(77, Action::Start, "web");
    assert_eq!(bench.until(Progress::Listening).pid, pid, "the same process");
    // One that was told to end when its agent went is not taken for crashed.
    bench.order(Action::Stop);
    bench.turn_until("ending", |offer| offer.listening == 0);
    bench.restart();
    let offer = bench.turn_until("gone", |offer| !offer.draining);
    assert_eq!((offer.starting, offer.failures), (0, 0), "{offer:?}");

    bench.order_as(78, Action::Start, "web");
    let pid = bench.until(Progress::Listening).pid;
    bench.config.applications[0].name = name("other");
    bench.restart();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.applications.retired.is_empty() {
        assert!(Instant::now() < deadline);
        bench.turn();
    }
    // A process whose parent is not init stays a zombie, which is gone for us.
    assert!(gone(pid));
}

#[test]
fn messages_that_are_no_orders_change_nothing() {
    let mut bench = listens("noise");
    let held = |_, _| 0;
    let now = Instant::now();
    bench.applications.order(APPLIANCE, &[0xa5; Order::LEN], now, &held);
    let order = Order {
        board: BOARD,
        appliance: APPLIANCE,
        action: Action::Start,
        id: 1,
        name: name("web"),
        tag: [0; 16],
    };
    for wrong in
        [Order { id: 0, ..order }, Order { board: APPLIANCE, ..order }, Order { appliance: BOARD, ..order }]
    {
        let mut message = [0; Order::LEN];
        wrong.emit(&mut message);
        bench.applications.order(APPLIANCE, &message, now, &held);
    }
    assert_eq!((bench.applications.outcomes().len(), bench.offer().starting), (0, 0));
}
