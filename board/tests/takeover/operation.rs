//! The agent as an operator meets it: start, crash, restart, removal, reports, preflight.

use ipos_wire::{
    ipos::{ClosedReason, Message, ServerState},
    tcp::Flags,
};

use crate::{
    appliance::Appliance,
    await_listener, board_with_nginx,
    client::Client,
    world::{APPLIANCE, BOARD, Options, SERVICE, World, shell},
};

fn next_state(appliance: &mut Appliance, wanted: impl Fn(&ServerState) -> bool) -> ServerState {
    appliance.message("a server state", |message| match message {
        Message::ServerState(state) if wanted(&state) => Some(state),
        _ => None,
    })
}

/// Whether it succeeded, and all that it said.
fn outcome(mut command: std::process::Command) -> (bool, String) {
    let output = command.output().expect("runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn reports_tell_the_real_state_and_the_real_processes() {
    let mut world = World::new(&Options::default());
    let nginx = world.start_nginx("80 backlog=77", "");
    world.write_page("small", b"a small page\n");
    let mut appliance = world.appliance();
    world.start_agent();
    let row = appliance.message("nginx's row", |message| match message {
        Message::Listening(report) => report.rows().find(|row| row.port == 80 && row.pid != 0),
        _ => None,
    });
    assert_eq!((row.pid, row.name_str()), (nginx, "nginx"));
    assert_eq!((row.address.is_unspecified(), row.ipv6, row.queue_max), (true, false, 77));

    let first = next_state(&mut appliance, |_| true);
    assert_eq!((first.board, first.appliance, first.interval_ms), (BOARD, APPLIANCE, 50));
    assert_eq!(first.options.0, 0b1111);
    assert!(first.memory > first.memory_available && first.memory_available > 0, "{first:?}");
    assert!(first.cpu_cores > 0 && first.cpu_utilisation <= 10_000, "{first:?}");
    assert_eq!(first.link_speed_bps, 10_000_000_000, "what veth says");
    assert!(first.bandwidth_available_bps > 0);
    assert_eq!((first.established, first.endpoints_held), (0, 0));
    let second = next_state(&mut appliance, |_| true);
    assert_eq!((second.epoch, second.sequence), (first.epoch, first.sequence + 1));

    let application = appliance.message("nginx, its master and its worker", |message| match message {
        Message::Applications(list) => list.rows().find(|row| row.pid == nginx && row.processes == 2),
        _ => None,
    });
    assert_eq!(application.name_str(), "nginx");
    assert!(application.memory > 1 << 20, "{application:?}");
    let measured = appliance.message("its CPU", |message| match message {
        Message::Applications(list) => list.rows().find(|row| row.pid == nginx && row.interval_ms > 0),
        _ => None,
    });
    assert!((500..10_000).contains(&measured.interval_ms) && measured.cpu < 10_000, "{measured:?}");

    let mut client = Client::new(44_001, 80);
    client.migrate(&mut appliance, 1);
    client.get(&mut appliance, "/small");
    let busy = next_state(&mut appliance, |state| state.endpoints_held == 1 && state.established == 1);
    assert_eq!(busy.epoch, first.epoch);

    world.end(nginx);
    appliance.message("a list without nginx", |message| match message {
        Message::Listening(report) => report.rows().all(|row| row.port != 80).then_some(()),
        _ => None,
    });
}

#[test]
fn a_crash_of_the_agent_harms_no_connection_and_the_next_adopts() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut old = Client::new(44_002, 80);
    old.migrate(&mut appliance, 1);
    assert_eq!(old.get(&mut appliance, "/small").0, b"a small page\n");
    let epoch = next_state(&mut appliance, |_| true).epoch;
    world.kill_agent();

    assert_eq!(old.get(&mut appliance, "/small").0, b"a small page\n", "without an agent");
    let mut new = Client::new(44_003, 80);
    new.migrate(&mut appliance, 2);
    assert_eq!(new.get(&mut appliance, "/small").0, b"a small page\n", "taken over without an agent");
    // One ends meanwhile: the news waits in the ring for the next agent.
    new.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    assert!(new.receive(&mut appliance).1);

    appliance.forget();
    world.start_agent();
    let adopted = next_state(&mut appliance, |state| state.epoch >= epoch && state.sequence == 1);
    assert_eq!(adopted.endpoints_held, 1, "the records were adopted");
    assert_eq!(appliance.closed(new.flow), (ClosedReason::Closed, 2));
    assert_eq!(old.get(&mut appliance, "/small").0, b"a small page\n", "and the programs replaced under it");
    assert_eq!(world.counter("endpoints_live"), 2, "counters go on");
    assert!(world.stop_agent().success(), "SIGTERM is an orderly end");
    assert_eq!(old.get(&mut appliance, "/small").0, b"a small page\n");
}

#[test]
fn the_programs_are_replaced_without_losing_a_packet() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_004, 80);
    client.migrate(&mut appliance, 1);
    for round in 0..3 {
        assert!(world.stop_agent().success());
        appliance.forget();
        world.start_agent();
        assert_eq!(client.get(&mut appliance, "/large").0, crate::large_page(), "round {round}");
        next_state(&mut appliance, |state| state.sequence == 1);
    }
    assert_eq!(world.counter("resize_failed"), 0);
}

#[test]
fn a_change_of_the_xdp_mode_takes_effect_with_the_next_start() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_008, 80);
    client.migrate(&mut appliance, 1);
    client.get(&mut appliance, "/small");
    assert!(world.pins().join("xdp_native").exists());
    for (from, to) in [("auto", "generic"), ("generic", "native")] {
        world.stop_agent();
        let text = std::fs::read_to_string(world.configuration()).expect("configuration");
        let changed = text.replace(&format!("xdp_mode = \"{from}\""), &format!("xdp_mode = \"{to}\""));
        std::fs::write(world.configuration(), changed).expect("written");
        appliance.forget();
        world.start_agent();
        next_state(&mut appliance, |state| state.sequence == 1);
        let pins = ["xdp_native", "xdp_generic"].map(|name| world.pins().join(name).exists());
        assert_eq!(pins, [to == "native", to == "generic"]);
        assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    }
}

#[test]
fn detach_removes_everything() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(44_005, 80);
    client.migrate(&mut appliance, 1);
    client.get(&mut appliance, "/small");
    world.stop_agent();
    appliance.forget();
    let namespace = world.board_namespace().to_string();
    let attached = move || {
        shell(&format!("ip netns exec {namespace} bpftool net show; ip -n {namespace} -d link show farm0"))
    };
    assert!(attached().contains("farm_xdp"), "{}", attached());
    world.start_agent();
    next_state(&mut appliance, |state| state.sequence == 1);
    let (again, said) = outcome(world.agent_command("run"));
    assert!(!again && said.contains("another ipos-board runs"), "{said}");
    let output = world.agent_command("detach").output().expect("detach runs");
    assert!(output.status.success(), "{output:?}");
    assert!(!world.pins().exists());
    let left = attached();
    for program in ["farm_xdp", "farm_ingress", "farm_egress", "xdp"] {
        assert!(
            !left.lines().any(|line| line.contains(program) && !line.ends_with(':')),
            "{program} in {left}"
        );
    }
    assert!(!outcome(world.agent_command("status")).0);
    assert!(!world.wait_for_agent().success(), "an agent without its programs must not go on reporting");
    assert!(world.log().contains("taken away"), "{}", world.log());
}

#[test]
fn an_agent_whose_interface_got_another_address_ends_to_be_started_again() {
    let (mut world, _) = board_with_nginx(&Options::default());
    shell(&format!("ip -n {} link set farm0 address 02:00:00:00:00:43", world.board_namespace()));
    assert!(!world.wait_for_agent().success(), "its programs would drop every frame");
    assert!(world.log().contains("another Ethernet address"), "{}", world.log());
    let mut appliance = world.appliance();
    world.start_agent();
    await_listener(&mut appliance, 80);
    let mut client = Client::new(44_009, 80);
    client.migrate(&mut appliance, 1);
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
}

#[test]
fn preflight_fails_with_the_command_that_mends_and_run_refuses_to_start() {
    let mut world = World::new(&Options::default());
    let namespace = world.board_namespace().to_string();
    let run = |world: &World, verb| outcome(world.agent_command(verb));
    let (passed, table) = run(&world, "preflight");
    assert!(passed, "{table}");
    for (spoil, mend) in [
        (
            "sysctl -qw net.ipv4.tcp_syncookies=0".to_string(),
            "sysctl -w net.ipv4.tcp_syncookies=1".to_string(),
        ),
        ("sysctl -qw net.ipv4.tcp_timestamps=0".into(), "sysctl -w net.ipv4.tcp_timestamps=1".into()),
        ("sysctl -qw net.ipv4.tcp_sack=0".into(), "sysctl -w net.ipv4.tcp_sack=1".into()),
        ("sysctl -qw net.ipv4.tcp_window_scaling=0".into(), "sysctl -w net.ipv4.tcp_window_scaling=1".into()),
        ("sysctl -qw net.ipv4.tcp_ecn=0".into(), "sysctl -w net.ipv4.tcp_ecn=2".into()),
        (
            "sysctl -qw net.ipv4.conf.farm0.rp_filter=1".into(),
            "sysctl -w net.ipv4.conf.farm0.rp_filter=0".into(),
        ),
        (
            "sysctl -qw net.ipv4.conf.farm0.arp_ignore=0".into(),
            "sysctl -w net.ipv4.conf.farm0.arp_ignore=1".into(),
        ),
        (format!("ip address del {SERVICE}/32 dev lo"), format!("ip address add {SERVICE}/32 dev lo")),
        ("ip link set farm0 down".into(), "ip link set farm0 up".into()),
    ] {
        shell(&format!("ip netns exec {namespace} {spoil}"));
        let (passed, table) = run(&world, "preflight");
        assert!(!passed && table.contains(&format!("-> {mend}")), "{spoil}:\n{table}");
        let (started, said) = run(&world, "run");
        assert!(!started && said.contains(&mend) && said.contains("not started"), "{spoil}:\n{said}");
        assert!(!world.pins().exists(), "nothing was put in place");
        shell(&format!("ip netns exec {namespace} {mend}"));
        let (passed, table) = run(&world, "preflight");
        assert!(passed, "{mend} mends it:\n{table}");
    }
    // Taking the link down removed the route; the agent itself does not need it.
    let mut appliance = world.appliance();
    world.start_agent();
    next_state(&mut appliance, |_| true);
}

#[test]
fn a_bad_configuration_is_told_whole() {
    let world = World::new(&Options::default());
    std::fs::write(world.configuration(), "interface = \"farm0\"\nadress = 1\nethertype = 2\n")
        .expect("written");
    let output = world.agent_command("check").output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "board.toml:2: unknown key `adress`",
        "board.toml:3: `ethertype`",
        "`address` is missing",
        "`services`",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn an_appliance_that_moves_to_another_address_is_followed() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let before = Client::new(44_006, 80);
    before.migrate(&mut appliance, 1);
    shell(&format!(
        "ip -n {0} link set far0 down; ip -n {0} link set far0 address 02:00:00:00:00:42; ip -n {0} link set far0 up
         ip -n {1} neigh flush dev farm0",
        world.far_namespace(),
        world.board_namespace()
    ));
    let mut appliance = world.appliance();
    await_listener(&mut appliance, 80);
    let after = Client::new(44_007, 80);
    after.migrate(&mut appliance, 2);
    assert_eq!(appliance.ask_who_holds(before.flow, 3).map(|held| held.1), Some(1));
}

#[test]
fn status_shows_endpoints_pending_live_and_gone_with_their_processes_also_without_the_agent() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let pending = Client::new(44_031, 80);
    pending.migrate(&mut appliance, 0x0005_0000_0000_0001);
    let mut live = Client::new(44_032, 80);
    live.migrate(&mut appliance, 2);
    live.get(&mut appliance, "/small");
    let mut gone = Client::new(44_033, 80);
    gone.migrate(&mut appliance, 3);
    gone.get(&mut appliance, "/small");
    gone.send_bare(&mut appliance, Flags::RST | Flags::ACK);
    assert_eq!(appliance.closed(gone.flow).0, ClosedReason::Closed);
    let held = world.counter("endpoints_held");
    world.kill_agent();

    let mut command = world.agent_command("status");
    command.arg("--json");
    let output = command.output().expect("runs");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((told["counters"]["endpoints_held"].as_u64(), held), (Some(2), 2));
    let rows = told["endpoints"].as_array().expect("a list");
    assert_eq!(rows.len(), 3, "{rows:?}");
    let row = |client: &Client| {
        let port = u64::from(client.flow.client_port);
        rows.iter().find(|row| row["client_port"].as_u64() == Some(port)).expect("its row")
    };
    for (client, state, id) in [
        (&pending, "pending", "0x0005000000000001"),
        (&live, "live", "0x0000000000000002"),
        (&gone, "gone", "0x0000000000000003"),
    ] {
        let row = row(client);
        assert_eq!((row["state"].as_str(), row["migration_id"].as_str()), (Some(state), Some(id)), "{row}");
        assert_eq!(row["appliance"], APPLIANCE.to_string());
        assert_eq!((&row["endpoint"], &row["endpoint_port"]), (&SERVICE.to_string().into(), &80.into()));
        assert!(row["age_ms"].as_u64().is_some_and(|age| age < 60_000), "{row}");
    }
    assert!(row(&pending)["process_id"].is_null() && row(&gone)["process_id"].is_null());
    assert_eq!(row(&live)["process"], "nginx");
    let worker = row(&live)["process_id"].as_u64().expect("accepted");
    let socket = shell(&format!("ip netns exec {} ss -Htnp dport = :44032", world.board_namespace()));
    assert!(socket.contains(&format!("(\"nginx\",pid={worker},")), "{worker}: {socket}");

    assert!(outcome(world.agent_command("detach")).0);
    let (passed, text) = outcome(world.agent_command("status"));
    assert!(!passed && text.contains("ipos-board run"), "{text}");
}
