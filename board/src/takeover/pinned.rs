//! What is pinned: maps and links that outlive the agent, read and taken away also without one.

use std::{collections::BTreeMap, path::Path};

use ipos_wire::flow::Flow;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, MapType, query::LinkTypeInfo};
use tracing::{debug, warn};

use super::{Error, bpf};
use crate::{
    counters, pins,
    records::{LAYOUT_VERSION, Record},
};

/// Names of the pinned maps besides [`LAYOUT`].
const MAPS: [&str; 7] = ["endpoints", "appliances", "services", "exempt", "counters", "events", "strays"];
/// Names of the pinned links.
const LINKS: [&str; 5] = [XDP_NATIVE, XDP_GENERIC, "ingress", "egress", "socket_state"];
/// The XDP link's name says its mode, which cannot be read from the link.
pub(super) const XDP_NATIVE: &str = "xdp_native";
pub(super) const XDP_GENERIC: &str = "xdp_generic";
/// A map with one entry: the version of the others. Pinned first, unpinned last.
const LAYOUT: &str = "layout";

pub(super) fn counter(map: &impl MapCore, index: u32) -> Result<u64, Error> {
    let per_cpu = map
        .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
        .map_err(bpf("read the counters"))?
        .unwrap_or_default();
    Ok(counters::total(&per_cpu))
}

/// Whether the programs that are pinned here have not been taken away (`ipos-board detach`).
pub fn is_in_place(directory: &Path) -> bool {
    pins::exists(&directory.join(LAYOUT)).unwrap_or(false)
}

/// Every counter with its name, from the pinned map; works without a running agent.
///
/// # Errors
/// When nothing is pinned in `directory`.
pub fn pinned_counters(directory: &Path) -> Result<Vec<(&'static str, u64)>, Error> {
    let map = open_pinned(directory, "counters")?;
    (0u32..).zip(counters::NAMES).map(|(index, name)| Ok((name, counter(&map, index)?))).collect()
}

/// Records read in one system call.
const BATCH: u32 = 4096;

/// Every record of the pinned endpoint table; works without a running agent, and beside one that changes it.
///
/// # Errors
/// When nothing is pinned in `directory`, or by an agent with another layout.
pub fn pinned_records(directory: &Path) -> Result<BTreeMap<Flow, Record>, Error> {
    let found = layout(directory)?;
    if found != LAYOUT_VERSION {
        return Err(Error::Layout { directory: directory.to_path_buf(), found });
    }
    let map = open_pinned(directory, "endpoints")?;
    let batches =
        map.lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY).map_err(bpf("read the endpoint table"))?;
    let record = |(key, value): (Vec<u8>, Vec<u8>)| {
        Some((Flow::from_octets(key.get(..Flow::LEN)?.try_into().ok()?), Record::parse(&value)?))
    };
    Ok(batches.filter_map(record).collect())
}

fn layout(directory: &Path) -> Result<u32, Error> {
    let map = open_pinned(directory, LAYOUT)?;
    let key = 0u32.to_ne_bytes();
    let value = map.lookup(&key, MapFlags::ANY).map_err(bpf("read the layout"))?.unwrap_or_default();
    Ok(value.get(..4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes))
}

fn open_pinned(directory: &Path, name: &str) -> Result<MapHandle, Error> {
    let path = directory.join(name);
    MapHandle::from_pinned_path(&path).map_err(bpf(format!("open {}", path.display())))
}

/// Puts `program` in the place of the pinned link's; false when there is no such link on this interface.
pub(super) fn replaced(
    directory: &Path,
    name: &str,
    program: &libbpf_rs::ProgramMut<'_>,
    ifindex: u32,
) -> Result<bool, Error> {
    let pin = directory.join(name);
    if !pins::exists(&pin)? {
        return Ok(false);
    }
    let mut link = Link::open(&pin).map_err(bpf(format!("open {}", pin.display())))?;
    let on = match link.info().map_err(bpf(format!("read {}", pin.display())))?.info {
        LinkTypeInfo::Xdp(xdp) => xdp.ifindex,
        LinkTypeInfo::Tcx(tcx) => tcx.ifindex,
        _ => 0,
    };
    if on != ifindex {
        // The interface was removed, or another one is configured now: the old link serves nobody.
        remove_link(&pin)?;
        return Ok(false);
    }
    link.update_prog(program).map_err(bpf(format!("replace the program of {}", pin.display())))?;
    Ok(true)
}

/// Detaches a link and removes its pin; false when there was none. Removing the pin alone detaches some time later.
pub(super) fn remove_link(pin: &Path) -> Result<bool, Error> {
    if !pins::exists(pin)? {
        return Ok(false);
    }
    let link = Link::open(pin).map_err(bpf(format!("open {}", pin.display())))?;
    if let Err(error) = link.detach() {
        // A tracing link knows no other way than losing its last reference.
        debug!(pin = %pin.display(), %error, "link not detached at once");
    }
    Ok(pins::remove(pin)?)
}

pub(super) fn check_layout(directory: &Path) -> Result<(), Error> {
    let pin = directory.join(LAYOUT);
    let key = 0u32.to_ne_bytes();
    if pins::exists(&pin)? {
        let found = layout(directory)?;
        if found != LAYOUT_VERSION {
            return Err(Error::Layout { directory: directory.to_path_buf(), found });
        }
        return Ok(());
    }
    let options = libbpf_rs::libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let mut map = MapHandle::create(MapType::Array, Some("ipos_layout"), 4, 4, 1, &options)
        .map_err(bpf("create the layout map"))?;
    map.update(&key, &LAYOUT_VERSION.to_ne_bytes(), MapFlags::ANY).map_err(bpf("write the layout"))?;
    map.pin(&pin).map_err(bpf("pin the layout map"))
}

/// The size of the endpoint table: a pinned one keeps the size that it was made with.
pub(super) fn endpoints_max(directory: &Path, configured: u32) -> Result<u32, Error> {
    if !pins::exists(&directory.join("endpoints"))? {
        return Ok(configured);
    }
    let map = open_pinned(directory, "endpoints")?;
    let pinned = map.max_entries();
    if pinned != configured {
        warn!(pinned, configured, "endpoints_max takes effect after `ipos-board detach`");
    }
    Ok(pinned)
}

/// Removes programs, maps and links. Connections that were taken over stay open but get no more forwarded packets.
///
/// # Errors
/// When a pin cannot be removed.
pub fn detach(directory: &Path) -> Result<usize, Error> {
    let mut removed = 0;
    // XDP first: nothing may be decapsulated past a guard that is gone.
    for name in LINKS {
        removed += usize::from(remove_link(&directory.join(name))?);
    }
    for name in MAPS.iter().chain(&[LAYOUT]) {
        removed += usize::from(pins::remove(&directory.join(name))?);
    }
    pins::remove_directory(directory)?;
    Ok(removed)
}
