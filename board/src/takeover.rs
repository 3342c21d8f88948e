//! Loads the BPF programs, adopts what an earlier agent left pinned, and takes it all away again.
//!
//! Programs are held by their pinned links, so connections outlive the agent. `run` always loads its own programs,
//! over the pinned maps, and puts them in the place of the old ones (design: takeover.md).

use std::{
    collections::BTreeMap, io, mem::MaybeUninit, net::Ipv4Addr, os::fd::AsFd, path::PathBuf, time::Duration,
};

use ipos_wire::flow::Flow;
use libbpf_rs::{
    MapCore, MapFlags, MapHandle, OpenObject, ProgramInput, RingBuffer, RingBufferBuilder,
    skel::{OpenSkel, SkelBuilder},
};
use tracing::{debug, info, warn};

use crate::{
    config::{Config, Service, ServiceKind, XdpMode},
    counters,
    interface::Interface,
    pins,
    records::{self, LAYOUT_VERSION, Notice},
    sys::{self, Hook},
};

#[allow(unused_qualifications, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/takeover.skel.rs"));
}
use skel::{TakeoverSkel, TakeoverSkelBuilder};

mod pinned;

use pinned::{XDP_GENERIC, XDP_NATIVE, check_layout, counter, endpoints_max, remove_link, replaced};
pub use pinned::{detach, is_in_place, pinned_counters, pinned_records};

/// Why the programs could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory cannot be used.
    #[error(transparent)]
    Pins(#[from] pins::Error),
    /// The maps were pinned by an agent with another layout.
    #[error(
        "{}: maps of layout {found}, this agent needs {LAYOUT_VERSION}; `ipos-board detach` removes them \
         (connections taken over so far are then no longer forwarded to their sockets)",
        .directory.display()
    )]
    Layout {
        /// The pin directory.
        directory: PathBuf,
        /// The version found.
        found: u32,
    },
    /// libbpf or the verifier refused.
    #[error("{what}: {cause}")]
    Bpf {
        /// What was being done.
        what: String,
        /// What libbpf said.
        cause: libbpf_rs::Error,
    },
    /// The kernel refused an attachment.
    #[error("cannot attach {what} to {interface}: {cause}")]
    Attach {
        /// Which program.
        what: &'static str,
        /// Where.
        interface: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The namespace has no cookie.
    #[error("cannot read the network namespace's cookie: {0}")]
    Namespace(io::Error),
    /// The interface is not an Ethernet one.
    #[error("{0} has no Ethernet address: give the farm interface in `interface`")]
    NoMac(String),
}

fn bpf(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Error {
    let what = what.into();
    |cause| Error::Bpf { what, cause }
}

/// Makes a map have just these keys and values.
fn sync(map: &impl MapCore, wanted: &BTreeMap<Vec<u8>, u32>) -> Result<(), Error> {
    let update = || bpf("update the service table");
    for key in map.keys().filter(|key| !wanted.contains_key(key)) {
        map.delete(&key).map_err(update())?;
    }
    for (key, value) in wanted {
        map.update(key, &value.to_ne_bytes(), MapFlags::ANY).map_err(update())?;
    }
    Ok(())
}

/// Keys and values of the `services` map (`enum guarded` in `bpf/tables.h`): addresses with a service that is taken over.
fn guarded(services: &[Service]) -> BTreeMap<Vec<u8>, u32> {
    const GUARDED: u32 = 1;
    const GUARDED_BUT_EXEMPT: u32 = 2;
    let taken = services.iter().filter(|service| service.kind.is_taken_over());
    let rows = taken.map(|service| {
        let is_exempt = services.iter().any(|other| other.address == service.address && is_exempt(other));
        let how = if is_exempt { GUARDED_BUT_EXEMPT } else { GUARDED };
        (service.address.octets().to_vec(), how)
    });
    rows.collect()
}

/// Keys of the `exempt` map (`struct exempt_key`): ports whose connections the board's own kernel shakes hands for.
fn exempt(services: &[Service]) -> BTreeMap<Vec<u8>, u32> {
    let exempt = services.iter().filter(|service| is_exempt(service));
    let keys = exempt.filter_map(|service| {
        let port = service.port?.to_be_bytes();
        Some(([&service.address.octets()[..], &port, &[0; 2]].concat(), 1))
    });
    keys.collect()
}

/// Whether a service's port is left out of the guard of its address, if that is guarded.
fn is_exempt(service: &Service) -> bool {
    service.kind == ServiceKind::L4 && service.port.is_some()
}

/// The programs in place, and the maps they work on.
pub struct Takeover<'obj> {
    skel: TakeoverSkel<'obj>,
}

impl<'obj> Takeover<'obj> {
    /// Loads the programs over new or adopted maps and attaches them.
    ///
    /// # Errors
    /// See [`Error`]; what was in place before stays in place.
    pub fn put_in_place(
        storage: &'obj mut MaybeUninit<OpenObject>,
        config: &Config,
        interface: &Interface,
    ) -> Result<Self, Error> {
        let directory = &config.pin_directory;
        check_layout(directory)?;
        let mut open = TakeoverSkelBuilder::default().open(storage).map_err(bpf("open the BPF object"))?;
        let mac = interface.mac.ok_or_else(|| Error::NoMac(config.interface.clone()))?;
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.farm_ethertype = config.ethertype.to_be();
            constants.board_address = u32::from_ne_bytes(config.address.octets());
            constants.board_mac = mac;
            constants.pending_ns = nanoseconds(config.pending);
            constants.tombstone_ns = nanoseconds(config.tombstone);
            constants.netns_cookie = sys::netns_cookie().map_err(Error::Namespace)?;
        }
        let entries = endpoints_max(directory, config.endpoints_max)?;
        let maps = &mut open.maps;
        maps.endpoints.set_max_entries(entries).map_err(bpf("size the endpoint table"))?;
        for (map, name) in [
            (&mut maps.endpoints, "endpoints"),
            (&mut maps.appliances, "appliances"),
            (&mut maps.services, "services"),
            (&mut maps.exempt, "exempt"),
            (&mut maps.counters, "counters"),
            (&mut maps.events, "events"),
            (&mut maps.strays, "strays"),
        ] {
            map.set_pin_path(directory.join(name)).map_err(bpf(format!("pin the map {name}")))?;
        }
        let skel = open.load().map_err(bpf("load the BPF programs"))?;
        let takeover = Takeover { skel };
        takeover.sync_services(config)?;
        takeover.attach(config, interface)?;
        Ok(takeover)
    }

    fn attach(&self, config: &Config, interface: &Interface) -> Result<(), Error> {
        let directory = &config.pin_directory;
        let programs = &self.skel.progs;
        // The guard first: a packet that XDP decapsulates must never reach TCP without it.
        for (name, program, hook) in [
            ("ingress", &programs.farm_ingress, Hook::Ingress),
            ("egress", &programs.farm_egress, Hook::Egress),
        ] {
            if !replaced(directory, name, program, interface.index)? {
                sys::attach_pinned(program.as_fd(), interface.index, hook, &directory.join(name)).map_err(
                    |cause| Error::Attach { what: name, interface: config.interface.clone(), cause },
                )?;
            }
        }
        // A tracing link cannot be updated; for an instant both work, which compare-and-swap makes harmless.
        let mut tracing = programs.socket_state.attach_trace().map_err(bpf("attach socket_state"))?;
        let (new, pin) = (directory.join("socket_state_new"), directory.join("socket_state"));
        pins::remove(&new)?;
        tracing.pin(&new).map_err(bpf("pin socket_state"))?;
        pins::rename(&new, &pin)?;
        self.attach_xdp(config, interface)
    }

    fn attach_xdp(&self, config: &Config, interface: &Interface) -> Result<(), Error> {
        let modes: &[(&'static str, Hook)] = match config.xdp_mode {
            XdpMode::Auto => &[(XDP_NATIVE, Hook::XdpNative), (XDP_GENERIC, Hook::XdpGeneric)],
            XdpMode::Native => &[(XDP_NATIVE, Hook::XdpNative)],
            XdpMode::Generic => &[(XDP_GENERIC, Hook::XdpGeneric)],
        };
        let directory = &config.pin_directory;
        let program = &self.skel.progs.farm_xdp;
        for (name, _) in modes {
            if replaced(directory, name, program, interface.index)? {
                return Ok(());
            }
        }
        // Attached in a mode that the configuration no longer wants; an interface takes one at a time.
        for name in [XDP_NATIVE, XDP_GENERIC] {
            remove_link(&directory.join(name))?;
        }
        let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
        for (name, hook) in modes {
            match sys::attach_pinned(program.as_fd(), interface.index, *hook, &directory.join(name)) {
                Ok(()) => {
                    info!(interface = config.interface, name, "XDP attached");
                    return Ok(());
                }
                Err(error) => {
                    debug!(name, %error, "XDP not attached");
                    refusal = error;
                }
            }
        }
        Err(Error::Attach { what: "xdp", interface: config.interface.clone(), cause: refusal })
    }

    /// Makes the service table what the configuration says. Only guarded kinds are in it.
    fn sync_services(&self, config: &Config) -> Result<(), Error> {
        let guarded = guarded(&config.services);
        let exempt = exempt(&config.services);
        // What is exempt first, so that no connection meets a guard that does not know of it.
        sync(&self.skel.maps.exempt, &exempt)?;
        sync(&self.skel.maps.services, &guarded)
    }

    /// Tells the programs which sender is which appliance; senders that are no longer anybody's are forgotten.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn sync_appliances(
        &self,
        known: &[(Ipv4Addr, [u8; 6])],
        configured: &[Ipv4Addr],
    ) -> Result<(), Error> {
        let map = &self.skel.maps.appliances;
        let update = || bpf("update the table of appliances");
        for (address, mac) in known {
            map.update(&mac_key(*mac), &address.octets(), MapFlags::ANY).map_err(update())?;
        }
        for key in map.keys() {
            let Some(value) = map.lookup(&key, MapFlags::ANY).map_err(update())? else { continue };
            let owner = <[u8; 4]>::try_from(value.as_slice()).map(Ipv4Addr::from).ok();
            // An appliance that is not resolved just now keeps the address it had.
            let valid = match known.iter().find(|(address, _)| Some(*address) == owner) {
                Some((_, mac)) => mac_key(*mac)[..] == key[..],
                None => owner.is_some_and(|address| configured.contains(&address)),
            };
            if !valid {
                map.delete(&key).map_err(update())?;
            }
        }
        Ok(())
    }

    /// The appliances that the programs know, which an earlier agent may have told them.
    pub fn appliances(&self) -> Vec<(Ipv4Addr, [u8; 6])> {
        let map = &self.skel.maps.appliances;
        let entry = |key: Vec<u8>| {
            let address = <[u8; 4]>::try_from(map.lookup(&key, MapFlags::ANY).ok()??).ok()?;
            Some((Ipv4Addr::from(address), key.get(..6)?.try_into().ok()?))
        };
        map.keys().filter_map(entry).collect()
    }

    /// A reader of the programs' notices, which calls `handle` for each.
    ///
    /// # Errors
    /// When the ring buffer cannot be mapped.
    pub fn events<'cb>(&self, mut handle: impl FnMut(Notice) + 'cb) -> Result<RingBuffer<'cb>, Error>
    where
        'obj: 'cb,
    {
        let ring = MapHandle::try_from(&self.skel.maps.events).map_err(bpf("open the event ring"))?;
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&ring, move |octets| {
                match Notice::parse(octets) {
                    Some(notice) => handle(notice),
                    None => warn!(length = octets.len(), "event of an unknown kind ignored"),
                }
                0
            })
            .map_err(bpf("read the event ring"))?;
        builder.build().map_err(bpf("read the event ring"))
    }

    /// Ages out tombstones and endpoints that were never used.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn reap(&self) -> Result<(), Error> {
        self.skel.progs.reap.test_run(ProgramInput::default()).map_err(bpf("run reap"))?;
        Ok(())
    }

    /// Concludes a clearing or a detach; false when the endpoint no longer waits for it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn settle(&self, flow: &Flow, migration_id: u64, destroyed: bool) -> Result<bool, Error> {
        let mut argument = records::settlement(flow, migration_id, destroyed);
        let input = ProgramInput { context_in: Some(&mut argument), ..Default::default() };
        let output = self.skel.progs.settle.test_run(input).map_err(bpf("run settle"))?;
        Ok(output.return_value == 1)
    }

    /// The state of the endpoint with that id, by name; `None` when there is none.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn endpoint_state(&self, flow: &Flow, migration_id: u64) -> Result<Option<&'static str>, Error> {
        let record = self
            .skel
            .maps
            .endpoints
            .lookup(&flow.to_octets(), MapFlags::ANY)
            .map_err(bpf("read the endpoint table"))?;
        Ok(record
            .filter(|record| records::migration_id(record) == Some(migration_id))
            .and_then(|record| records::endpoint_state(&record)))
    }

    /// Endpoints of a listener that have not ended; 0.0.0.0 stands for every address.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn held_on(&self, address: Ipv4Addr, port: u16) -> Result<u32, Error> {
        let mut argument = records::listener(address, port);
        let input = ProgramInput { context_in: Some(&mut argument), ..Default::default() };
        Ok(self.skel.progs.held_on.test_run(input).map_err(bpf("run held_on"))?.return_value)
    }

    /// Whether the flow is a live endpoint of this appliance, between two requests. What cannot be read is not.
    pub fn is_between_requests(&self, flow: &Flow, appliance: Ipv4Addr) -> bool {
        let record = self.skel.maps.endpoints.lookup(&flow.to_octets(), MapFlags::ANY);
        record.ok().flatten().is_some_and(|record| records::is_between_requests(&record, appliance))
    }

    /// Endpoints pending or live.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn endpoints_held(&self) -> Result<u64, Error> {
        counter(&self.skel.maps.counters, counters::ENDPOINTS_HELD)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn mac_key(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_l4_ports_of_guarded_addresses_are_exempt() {
        let service = |last, port, kind| Service { address: Ipv4Addr::new(198, 51, 100, last), port, kind };
        let services = [
            service(1, None, ServiceKind::Http),
            service(1, Some(5201), ServiceKind::L4),
            service(2, Some(443), ServiceKind::Tls),
            service(2, Some(53), ServiceKind::Udp),
            service(3, None, ServiceKind::L4),
        ];
        let rows: Vec<_> = guarded(&services).into_iter().collect();
        assert_eq!(rows, [(vec![198, 51, 100, 1], 2), (vec![198, 51, 100, 2], 1)]);
        let keys: Vec<_> = exempt(&services).into_keys().collect();
        assert_eq!(keys, [[198, 51, 100, 1, 0x14, 0x51, 0, 0]]);
    }
}
