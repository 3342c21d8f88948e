"""What the lab looks like: names, addresses, files and the options of `up`. Nothing here does anything.

    client 203.0.113.10 --- 203.0.113.1 router 192.0.2.1   --- [farm bridge] --- 192.0.2.2   appliance
                                               192.0.2.129 --- [wan bridge]  --- 192.0.2.130 appliance
                                                               [farm bridge] --- 192.0.2.11.. boards
                                                               [both]        --- haproxy (192.0.2.3, 192.0.2.131)

The service address 198.51.100.1 is routed to the appliance and sits on every board's loopback; boards answer through
192.0.2.1, past the appliance.
"""

import dataclasses
import ipaddress
import json
import os
import re

ROOT = "/run/ipos-lab"
STATE = ROOT + "/state.json"
PIDS = ROOT + "/pids"
FILES = ROOT + "/files"
PYTHON = "/usr/local/lib/ipos-lab/bin/python3"
"""Python with what Debian has no package of; `make setup` makes it."""

REPOSITORY = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", ".."))

SERVICE = "198.51.100.1"
HAPROXY_SERVICE = "198.51.100.2"
SERVICE_PORT = 80
HAPROXY_TCP_PORT = 81
NGINX_PROXY_PORT = 82
HAPROXY_REUSE_PORT = 83

TIMED_PORTS = {"round-robin": 8001, "least-connections": 8002, "least-load": 8003, "consistent-hash": 8004}
"""With --service-ms: the port of the service address at which each policy serves, with equal weights."""

L4_WEB_PORT = 84
IPERF3_PORT = 5201
DNS_PORT = 53
DNS_DATAGRAM_PORT = 5353
"""With --forwarded: nginx and iperf3 behind kind `l4`, dnsmasq behind `udp`, in both modes of flows."""

WEIGHTED_PORT = 8005
"""And round-robin with weights in proportion to the boards' speeds."""

CLIENT = "203.0.113.10"
CLIENT_ROUTER = "203.0.113.1"
FARM_ROUTER = "192.0.2.1"
WAN_ROUTER = "192.0.2.129"
FARM_APPLIANCE = "192.0.2.2"
WAN_APPLIANCE = "192.0.2.130"
FARM_HAPROXY = "192.0.2.3"
WAN_HAPROXY = "192.0.2.131"
FARM_PREFIX = 25
CLIENT_PREFIX = 24

BOARDS_MAX = 64
"""Boards get 192.0.2.11 and up: this keeps them inside the farm's /25."""

METRICS = "127.0.0.1:9464"
ADMIN_SOCKET = ROOT + "/appliance/admin.sock"

NAMESPACE = re.compile(r"ipos-(client|router|switch|appliance|haproxy|board([1-9][0-9]?))")
"""Exactly the namespaces that the lab makes, and so exactly those that `down` removes."""


@dataclasses.dataclass
class Options:
    """The options of `up`, and what `down` must know."""

    boards: int = 2
    port: str = "af_packet"
    ethertype: str = "0x88b5"
    haproxy: bool = False
    nginx_proxy: bool = False
    memory: str = "hugepages"
    workers: int = 1
    cpus: list[int] | None = None
    """The CPUs of control core and workers; None chooses."""
    after_polls: list[int] | None = None
    """Empty polls before control core and workers sleep; None leaves it to the appliance."""
    sleep_us: int | None = None
    """How long they sleep; None leaves it to the appliance."""
    one_port: bool = False
    check: str | None = None
    """The path that the appliance checks its boards by; None leaves them unchecked."""
    spawn: bool = False
    """Whether the boards' agents start nginx when a request needs it."""
    forwarded: bool = False
    """Whether there are services that are merely forwarded."""
    service_ms: list[int] | None = None
    """What each board takes for a request to the timed services; None: there are none."""
    moves: bool = False
    """Whether requests of the service that all labs have move their connections."""
    services: bool = False
    """Whether there is a service of each kind, with a real server on each board."""
    ready: bool = False
    """Whether `up` came to its end."""
    hugepages_before: int | None = None
    """/proc/sys/vm/nr_hugepages before `up` raised it."""

    def save(self):
        """Writes the state file, whole or not at all."""
        draft = STATE + ".new"
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self), file)
        os.replace(draft, STATE)

    @staticmethod
    def load():
        """The options of the lab that is up, or None. An unreadable file counts as a lab that is half up."""
        try:
            with open(STATE, encoding="utf-8") as file:
                return Options(**json.load(file))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return Options(boards=BOARDS_MAX)

    def board_numbers(self):
        """1 to the number of boards."""
        return range(1, self.boards + 1)

    def balancers(self):
        """The balancers in the namespace `haproxy`, in words."""
        return (["HAProxy"] if self.haproxy else []) + (["nginx as proxy"] if self.nginx_proxy else [])

    def namespaces(self):
        """Every namespace of this lab."""
        names = ["ipos-client", "ipos-router", "ipos-switch", "ipos-appliance"]
        if self.balancers():
            names.append("ipos-haproxy")
        return names + [board_namespace(n) for n in self.board_numbers()]


def namespace(name):
    """The namespace that a user means by `client`, `board1` or `ipos-board1`."""
    return name if name.startswith("ipos-") else "ipos-" + name


def board_namespace(number):
    """The namespace of a board."""
    return f"ipos-board{number}"


def board_address(number):
    """The board's own address on the farm network."""
    return str(ipaddress.IPv4Address("192.0.2.10") + number)


def board_directory(number):
    """Where the board's files are."""
    return f"{ROOT}/board{number}"


def binary(name):
    """The path of one of the project's programs: $IPOS_BIN_DIR, or where `make build` puts them."""
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(REPOSITORY, "target")
    return os.path.join(os.environ.get("IPOS_BIN_DIR") or os.path.join(target, "release"), name)
