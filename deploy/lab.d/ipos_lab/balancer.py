"""HAProxy in the appliance's place: the same boards behind another service address, for comparison."""

from . import plan
from .system import Daemon, inside, wait_until

CONFIG = plan.ROOT + "/haproxy.cfg"
READY_DEADLINE_S = 10.0

TEXT = """\
# HAProxy with the lab's boards behind it. Written by deploy/lab.
global
    maxconn 8000
    nbthread 1

defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s

frontend http
    bind {address}:{http_port}
    use_backend a if {{ path_beg /a/ }}
    use_backend b if {{ path_beg /b/ }}
    default_backend any

# The same with connections to the boards that any client's request may use: cheaper, and not the default, since a board
# that closes one under a request makes the request fail.
listen reuse
    bind {address}:{reuse_port}
    http-reuse always
    balance leastconn
{all_boards}

listen tcp
    mode tcp
    bind {address}:{tcp_port}
    balance leastconn
{all_boards}

backend any
    balance leastconn
{all_boards}

backend a
{board_a}

backend b
{board_b}
"""


def prepare(options):
    """Writes the configuration."""
    servers = [f"    server board{n} {plan.board_address(n)}:{plan.SERVICE_PORT}" for n in options.board_numbers()]
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write(TEXT.format(address=plan.HAPROXY_SERVICE, http_port=plan.SERVICE_PORT,
                               tcp_port=plan.HAPROXY_TCP_PORT, reuse_port=plan.HAPROXY_REUSE_PORT,
                               all_boards="\n".join(servers), board_a=servers[0],
                               board_b=servers[min(1, len(servers) - 1)]))


def daemon():
    """HAProxy's process."""
    return Daemon("haproxy")


def start():
    """Starts it and waits until it listens."""
    daemon().start("ipos-haproxy", "haproxy", "-db", "-f", CONFIG)
    wait_until("HAProxy listens", lambda: inside("ipos-haproxy", "ss", "-Hltn", f"sport = :{plan.SERVICE_PORT}").strip(),
               READY_DEADLINE_S, daemon())
