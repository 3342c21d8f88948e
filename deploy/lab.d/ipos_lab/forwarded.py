"""Services that are merely forwarded (`up --forwarded`): nginx and iperf3 behind kind `l4`, dnsmasq behind kind `udp`."""

from . import plan
from .system import Daemon, inside, wait_until

READY_DEADLINE_S = 10.0

SERVICES = """
[[service]]
name = "web-l4"
address = "{service}"
port = {web_port}
kind = "l4"

# iperf3 has a connection for control and others for data: all of a client's must meet at one board.
[[service]]
name = "iperf3"
address = "{service}"
port = {iperf3_port}
kind = "l4"
hash = "client"

[[service]]
name = "dns"
address = "{service}"
port = {dns_port}
kind = "udp"
policy = "round-robin"
idle_ms = 2000

# Each query for itself: no flow, no question to a board.
[[service]]
name = "dns-datagram"
address = "{service}"
port = {dns_datagram_port}
kind = "udp"
flow = "datagram"

# The same address and port, by TCP.
[[service]]
name = "dns-tcp"
address = "{service}"
port = {dns_port}
kind = "l4"
"""

BOARD_SERVICES = """
[[services]]
address = "{service}"
port = {web_port}
kind = "l4"

[[services]]
address = "{service}"
port = {iperf3_port}
kind = "l4"

[[services]]
address = "{service}"
port = {dns_port}
kind = "l4"

[[services]]
address = "{service}"
kind = "udp"
"""


def _names():
    return {"service": plan.SERVICE, "web_port": plan.L4_WEB_PORT, "iperf3_port": plan.IPERF3_PORT,
            "dns_port": plan.DNS_PORT, "dns_datagram_port": plan.DNS_DATAGRAM_PORT}


def services():
    """The appliance's services."""
    return SERVICES.format(**_names())


def board_services():
    """What the boards' agents are told of them."""
    return BOARD_SERVICES.format(**_names())


def iperf3(number):
    """The board's iperf3."""
    return Daemon(f"iperf3-{number}", f"{plan.board_directory(number)}/iperf3.log")


def dnsmasq(number, port):
    """The board's dnsmasq on this port."""
    return Daemon(f"dnsmasq{number}-{port}", f"{plan.board_directory(number)}/dnsmasq-{port}.log")


def start_dnsmasq(number, port):
    """Starts it: it answers for board.lab, and says which board it is."""
    dnsmasq(number, port).start(
        plan.board_namespace(number), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
        "--no-hosts", "--user=root", f"--pid-file={plan.board_directory(number)}/dnsmasq-{port}.pid", f"--port={port}",
        f"--txt-record=board.lab,board{number}", "--local=/lab/")


def start(number):
    """Starts what is behind them, without waiting."""
    for port in (plan.DNS_PORT, plan.DNS_DATAGRAM_PORT):
        start_dnsmasq(number, port)
    iperf3(number).start(plan.board_namespace(number), "iperf3", "--server", "--port", str(plan.IPERF3_PORT))


def wait_serving(number):
    """Waits until it listens."""
    name = plan.board_namespace(number)
    wait_until(f"iperf3 of {name} listens", lambda: inside(name, "ss", "-Hltn", f"sport = :{plan.IPERF3_PORT}").strip(),
               READY_DEADLINE_S, iperf3(number))
    for port in (plan.DNS_PORT, plan.DNS_DATAGRAM_PORT):
        wait_until(f"dnsmasq of {name} listens on {port}",
                   lambda port=port: inside(name, "ss", "-Hlun", f"sport = :{port}").strip(),
                   READY_DEADLINE_S, dnsmasq(number, port))
