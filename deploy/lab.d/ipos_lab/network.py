"""Namespaces, bridges, links, addresses and routes: made by `build`, unmade by `remove`."""

import os

from . import plan
from .system import LabError, inside, run

QUIET = {
    "net.ipv6.conf.all.disable_ipv6": 1,
    "net.ipv6.conf.default.disable_ipv6": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
}
"""Everywhere: no IPv6 chatter, and no reverse path filter, since replies take another way than requests."""

BOARD = {
    "net.ipv4.conf.all.arp_ignore": 1,
    "net.ipv4.conf.all.arp_announce": 2,
}
"""A board answers from the service address on its loopback, but never claims it by ARP (design: takeover.md)."""

ROUTER = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}

APPLIANCE_PEER_OFF = ("tx", "gso", "tso", "gro", "txvlan", "tx-vlan-stag-hw-insert")
"""What the peer of an appliance port must not leave to be finished by a NIC that is not there (dependencies.md)."""


def build(options):
    """Makes everything that `remove` unmakes."""
    for name in options.namespaces():
        run("ip", "netns", "add", name)
        settings = dict(QUIET)
        if "board" in name:
            settings |= BOARD
        if name == "ipos-router":
            settings |= ROUTER
        _sysctl(name, settings)
        run("ip", "-n", name, "link", "set", "lo", "up")
    for bridge in ("farm", "wan"):
        run("ip", "-n", "ipos-switch", "link", "add", bridge, "type", "bridge", "stp_state", "0",
            "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "-n", "ipos-switch", "link", "set", bridge, "up")
    _client_and_router(options)
    _appliance(options)
    for number in options.board_numbers():
        _board(number)
    if options.balancers():
        _haproxy()


def _sysctl(namespace, settings):
    inside(namespace, "sysctl", "-qw", *(f"{key}={value}" for key, value in settings.items()))


def _address(namespace, interface, address):
    run("ip", "-n", namespace, "address", "add", address, "dev", interface)


def _plug(namespace, interface, mac, bridge, plug):
    """A cable from a namespace's interface to a port of the switch; `plug` is the switch's side."""
    run("ip", "link", "add", interface, "address", mac, "netns", namespace,
        "type", "veth", "peer", "name", plug, "netns", "ipos-switch")
    run("ip", "-n", "ipos-switch", "link", "set", plug, "master", bridge, "up")
    run("ip", "-n", namespace, "link", "set", interface, "up")


def _client_and_router(options):
    run("ip", "link", "add", "eth0", "address", "02:00:00:00:00:10", "netns", "ipos-client",
        "type", "veth", "peer", "name", "client", "netns", "ipos-router")
    run("ip", "-n", "ipos-client", "link", "set", "eth0", "up")
    run("ip", "-n", "ipos-router", "link", "set", "client", "up")
    _plug("ipos-router", "farm", "02:00:00:00:00:01", "farm", "router-farm")
    _plug("ipos-router", "wan", "02:00:00:00:00:02", "wan", "router-wan")
    _address("ipos-client", "eth0", f"{plan.CLIENT}/{plan.CLIENT_PREFIX}")
    _address("ipos-router", "client", f"{plan.CLIENT_ROUTER}/{plan.CLIENT_PREFIX}")
    _address("ipos-router", "farm", f"{plan.FARM_ROUTER}/{plan.FARM_PREFIX}")
    _address("ipos-router", "wan", f"{plan.WAN_ROUTER}/{plan.FARM_PREFIX}")
    run("ip", "-n", "ipos-client", "route", "add", "default", "via", plan.CLIENT_ROUTER)
    via = plan.FARM_APPLIANCE if options.one_port else plan.WAN_APPLIANCE
    run("ip", "-n", "ipos-router", "route", "add", f"{plan.SERVICE}/32", "via", via)
    run("ip", "-n", "ipos-router", "route", "add", f"{plan.HAPROXY_SERVICE}/32", "via", plan.WAN_HAPROXY)


def _appliance(options):
    """The appliance's ports: the kernel has no address on them and stays silent, DPDK alone speaks there."""
    ports = [("farm", "02:00:00:00:00:21")]
    if not options.one_port:
        ports.append(("wan", "02:00:00:00:00:22"))
    for port, mac in ports:
        plug = f"appl-{port}"
        _plug("ipos-appliance", port, mac, port, plug)
        off = [word for feature in APPLIANCE_PEER_OFF for word in (feature, "off")]
        inside("ipos-switch", "ethtool", "-K", plug, *off)


def _board(number):
    name = plan.board_namespace(number)
    _plug(name, "eth0", f"02:00:00:00:01:{number:02x}", "farm", f"board{number}")
    _address(name, "eth0", f"{plan.board_address(number)}/{plan.FARM_PREFIX}")
    _address(name, "lo", f"{plan.SERVICE}/32")
    run("ip", "-n", name, "route", "add", "default", "via", plan.FARM_ROUTER)


def _haproxy():
    _plug("ipos-haproxy", "farm", "02:00:00:00:00:31", "farm", "haproxy-farm")
    _plug("ipos-haproxy", "wan", "02:00:00:00:00:32", "wan", "haproxy-wan")
    _address("ipos-haproxy", "farm", f"{plan.FARM_HAPROXY}/{plan.FARM_PREFIX}")
    _address("ipos-haproxy", "wan", f"{plan.WAN_HAPROXY}/{plan.FARM_PREFIX}")
    _address("ipos-haproxy", "lo", f"{plan.HAPROXY_SERVICE}/32")
    run("ip", "-n", "ipos-haproxy", "route", "add", "default", "via", plan.WAN_ROUTER)


def link(number, state):
    """Pulls a board's cable out of the switch, or puts it in again."""
    run("ip", "-n", "ipos-switch", "link", "set", f"board{number}", state)


LOSSY_CABLES = {"farm": ("ipos-switch", "appl-farm"), "client": ("ipos-router", "client")}
"""Cables that can lose frames: that between the appliance's farm port and the switch, and the client's; by one of their ends."""


def lose(percent, cable):
    """Lets a cable lose so many of all frames, each way; 0: none."""
    namespace, interface = LOSSY_CABLES[cable]
    run("tc", "-n", namespace, "qdisc", "del", "dev", interface, "clsact", check=False)
    if not percent:
        return
    run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "clsact")
    for way in ("ingress", "egress"):
        # Netem and its like are not in every kernel; this is classic BPF, which is. 2 drops a frame (TC_ACT_SHOT).
        draw, jump, end = "32 0 0 4294963256", f"53 0 1 {percent * 2**32 // 100}", "6 0 0"
        run("tc", "-n", namespace, "filter", "add", "dev", interface, way, "bpf", "da",
            "bytecode", f"4,{draw},{jump},{end} 0,{end} 2")


def existing():
    """The lab's namespaces that exist, complete lab or not."""
    try:
        names = os.listdir("/run/netns")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if plan.NAMESPACE.fullmatch(name))


def processes():
    """(pid, command, namespace) of every process in the lab's namespaces."""
    found = []
    for name in existing():
        for word in run("ip", "netns", "pids", name, check=False).split():
            try:
                with open(f"/proc/{word}/cmdline", encoding="utf-8", errors="replace") as file:
                    found.append((int(word), file.read().replace("\0", " ").strip(), name))
            except OSError:
                continue  # it ended meanwhile
    return found


def remove():
    """Removes the lab's namespaces and with them every link, address and route. Mounts go first: they hold programs."""
    unmount_all()
    for name in existing():
        run("ip", "netns", "delete", name)


def unmount_all():
    """Unmounts everything below the lab's directory, the deepest first."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        points = [line.split()[1] for line in file]
    for point in sorted((p for p in points if p.startswith(plan.ROOT + "/")), reverse=True):
        run("umount", point)


def reserve_hugepages(needed, options):
    """Raises the kernel's pool of huge pages when too few are free; `options` remembers what it was."""
    total, free, size_kb = _hugepages()
    if free >= needed:
        return
    options.hugepages_before = total
    options.save()
    _set_hugepages(total + needed - free)
    _, free, _ = _hugepages()
    if free < needed:
        raise LabError(
            f"{needed} huge pages of {size_kb} kB are needed, the kernel could free only {free}: "
            "memory is short or fragmented; use `--memory no-huge`, or reserve them at boot (hugepages=...)")
    print(f"reserved {needed} huge pages (vm.nr_hugepages was {total}; `down` restores it)", flush=True)


def restore_hugepages(options):
    """Gives back what `reserve_hugepages` took."""
    if options is not None and options.hugepages_before is not None:
        _set_hugepages(options.hugepages_before)


def _set_hugepages(count):
    with open("/proc/sys/vm/nr_hugepages", "w", encoding="ascii") as file:
        file.write(str(count))


def _hugepages():
    """Total, free and unreserved, and size in kB."""
    with open("/proc/meminfo", encoding="ascii") as file:
        rows = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return rows["HugePages_Total"], rows["HugePages_Free"] - rows["HugePages_Rsvd"], rows["Hugepagesize"]


