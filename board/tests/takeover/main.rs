//! The whole board against a scripted appliance: real kernel, real programs, real nginx, in namespaces of their own.
//! Needs root and a kernel with the kfunc, as the board does.

mod appliance;
mod client;
mod leaving;
mod migration;
mod operation;
mod refusal;
mod world;

use appliance::Appliance;
use ipos_wire::ipos::Message;
use world::{Options, World};

/// Awaits a report that lists a listener on `port`; its process.
pub fn await_listener(appliance: &mut Appliance, port: u16) -> (u32, String) {
    appliance.message(&format!("a report of a listener on port {port}"), |message| match message {
        Message::Listening(report) => report
            .rows()
            .find(|row| row.port == port && row.pid != 0)
            .map(|row| (row.pid, row.name_str().to_string())),
        _ => None,
    })
}

/// A board with a running agent and nginx on port 80, which serves `/small` and `/large`.
pub fn board_with_nginx(options: &Options) -> (World, Appliance) {
    let mut world = World::new(options);
    world.write_page("small", b"a small page\n");
    world.write_page("large", &large_page());
    world.start_nginx("80", "");
    let mut appliance = world.appliance();
    world.start_agent();
    await_listener(&mut appliance, 80);
    (world, appliance)
}

/// A board whose server is Python's, which closes each connection itself: on port 8080, with `/page`.
pub fn board_with_python() -> (World, Appliance) {
    let mut world = World::new(&Options::default());
    world.write_page("page", b"from python");
    let mut python = world.on_board("python3");
    python.args(["-m", "http.server", "8080", "--directory"]).arg(world.directory.join("www"));
    python.stderr(std::process::Stdio::null());
    world.spawn(python);
    let mut appliance = world.appliance();
    world.start_agent();
    await_listener(&mut appliance, 8080);
    (world, appliance)
}

/// A page of 100,000 octets, no two words alike.
pub fn large_page() -> Vec<u8> {
    (0u32..25_000).flat_map(u32::to_be_bytes).collect()
}
