//! Which keys of a `[[service]]` go with which kind: one that says nothing for its kind is a mistake, with its line.

use ipos_pipelines::services::Kind;

use super::model::FlowMode;
use super::read::Section;

/// Keys of a choice by what the client asks for.
const OF_MAPPED: &[&str] = &["map"];

/// Keys of requests that the appliance reads.
const OF_HTTP: &[&str] = &["check", "cookie", "h2c", "migrate", "pages"];

/// Keys of ClientHellos.
const OF_TLS: &[&str] = &["unknown_name", "no_name"];

/// Keys that need an endpoint that can wait.
const OF_SPAWNED: &[&str] = &["application", "start_queue", "start_wait_s", "idle_stop_s", "instances_max"];

/// Keys of a choice that the control core makes.
const OF_CHOSEN: &[&str] = &["policy", "home", "slow_start_s"];

/// Keys of a choice by hash.
const OF_HASHED: &[&str] = &["hash", "table_size"];

/// Keys of connections that are kept, so that they can be counted.
const OF_ADMITTED: &[&str] = &["admit"];

/// Keys of flows that stick by a connection id.
const OF_QUIC: &[&str] = &["quic"];

/// Keys of datagrams.
const OF_DATAGRAMS: &[&str] = &["flow", "idle_ms"];

/// Notes every key that the service's kind has no use for.
pub fn check(section: &Section<'_>, kind: Kind, flow: FlowMode) {
    let (what, useless): (&str, &[&[&'static str]]) = match (kind, flow) {
        (Kind::Http, _) => ("kind = \"http\"", &[OF_TLS, OF_HASHED, OF_DATAGRAMS, OF_QUIC]),
        (Kind::Tls, _) => ("kind = \"tls\"", &[OF_HTTP, OF_HASHED, OF_DATAGRAMS, OF_QUIC]),
        (Kind::Tcp, _) => ("kind = \"tcp\"", &[OF_MAPPED, OF_HTTP, OF_TLS, OF_HASHED, OF_DATAGRAMS, OF_QUIC]),
        (Kind::L4, _) => {
            ("kind = \"l4\"", &[OF_MAPPED, OF_HTTP, OF_TLS, OF_SPAWNED, OF_CHOSEN, OF_DATAGRAMS, OF_QUIC])
        }
        (Kind::Udp, FlowMode::Connection) => {
            ("kind = \"udp\"", &[OF_MAPPED, OF_HTTP, OF_TLS, OF_SPAWNED, OF_HASHED])
        }
        (Kind::Udp, FlowMode::Datagram) => (
            "flow = \"datagram\"",
            &[OF_MAPPED, OF_HTTP, OF_TLS, OF_SPAWNED, OF_CHOSEN, OF_QUIC, &["idle_ms"]],
        ),
    };
    for keys in useless {
        section.does_not_apply(keys, what);
    }
    if (kind, flow) == (Kind::Udp, FlowMode::Datagram) {
        let why = "flow = \"datagram\", where nothing is kept of a datagram that could count: use flow = \"connection\", or \
                   [service.limits] for what each board takes";
        section.does_not_apply(OF_ADMITTED, why);
    }
}
