"""The appliance in the lab: its configuration, its start, its end, and what it says about itself."""

import json
import os
import signal
import subprocess

from . import forwarded, plan, services
from .system import Daemon, LabError, run, wait_until

DIRECTORY = plan.ROOT + "/appliance"
CONFIG = DIRECTORY + "/appliance.toml"
READY_DEADLINE_S = 20.0
STOP_DEADLINE_S = 2.0
"""What issue and operators expect of SIGTERM."""

MEMORY_MB = 512
SPARE_HUGEPAGES = 4

GENERAL = """\
# The lab's appliance. Written by deploy/lab.
[appliance]
id = 1
ethertype = {ethertype}
admin_socket = "{admin_socket}"
metrics = "{metrics}"
state_directory = "{directory}/state"

[dpdk]
memory = "{memory}"
memory_mb = {memory_mb}
control_cpu = {control_cpu}
worker_cpus = {worker_cpus}
{control_idle}file_prefix = "ipos-lab"

[worker]
entries = 65536
pending = 2048
idle = "sleep"
{idle}
# Short, so that a head that never ends can be watched timing out.
[timeouts]
request_ms = 3000
"""

PORT = """
[[port]]
name = "{name}"
device = "{device}"
role = "{role}"
address = "{address}"
"""

SERVICE = """
[[service]]
name = "{name}"
address = "{address}"
port = {port}
kind = "http"
policy = "{policy}"
"""

CHECK = """\
check = {{ http = "{path}", interval_ms = 200, timeout_ms = 500 }}
"""

# Short, so that both ends of a wait can be watched.
SPAWN = """\
application = "web"
start_wait_s = 4
idle_stop_s = 2
"""

WEIGHTS = """\
boards = {boards}
weights = {weights}
"""

WEIGHT_MAX = 1000

MAP = """
[[service.map]]
path = "{path}"
boards = ["{board}"]
"""

BOARD = """
[[board]]
name = "{name}"
address = "{address}"
"""


def prepare(options):
    """Writes the configuration."""
    os.makedirs(DIRECTORY + "/state")
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write(configuration(options))


def configuration(options):
    """The configuration file of a lab with these options."""
    cpus = len(os.sched_getaffinity(0))
    # The control core takes CPU 0; workers share what is left, and on a small machine all of it.
    worker_cpus = [1 + n % (cpus - 1) if cpus > 1 else 0 for n in range(options.workers)]
    control_cpu, *worker_cpus = options.cpus or [0, *worker_cpus]
    control_idle, idle = "", ""
    if options.after_polls is not None:
        control_idle, idle = (f"{key}after_polls = {polls}\n"
                              for key, polls in zip(("control_", ""), options.after_polls))
    if options.sleep_us is not None:
        control_idle, idle = (f"{text}{key}sleep_us = {options.sleep_us}\n"
                              for key, text in zip(("control_", ""), (control_idle, idle)))
    text = GENERAL.format(ethertype=options.ethertype, admin_socket=plan.ADMIN_SOCKET, metrics=plan.METRICS,
                          directory=DIRECTORY, memory=options.memory, memory_mb=MEMORY_MB, control_cpu=control_cpu,
                          worker_cpus=worker_cpus, idle=idle, control_idle=control_idle)
    ports = [("farm", "farm", plan.FARM_APPLIANCE), ("wan", "wan", plan.WAN_APPLIANCE)]
    if options.one_port:
        ports = [("farm", "both", plan.FARM_APPLIANCE)]
    for number, (name, role, address) in enumerate(ports):
        text += PORT.format(name=name, device=_device(options, number, name), role=role,
                            address=f"{address}/{plan.FARM_PREFIX}")
    text += SERVICE.format(name="web", address=plan.SERVICE, port=plan.SERVICE_PORT, policy="least-connections")
    if options.check is not None:
        text += CHECK.format(path=options.check)
    if options.spawn:
        text += SPAWN
    if options.moves:
        text += 'migrate = "request"\n'
    for path, number in (("/a/", 1), ("/b/", 2)):
        if number <= options.boards:
            text += MAP.format(path=path, board=f"board{number}")
    if options.service_ms is not None:
        text += _timed(options)
    if options.services:
        text += services.configuration()
    if options.forwarded:
        text += forwarded.services()
    for number in options.board_numbers():
        text += BOARD.format(name=f"board{number}", address=plan.board_address(number))
    return text


def _timed(options):
    """The timed services: one of each policy, and one whose weights are the best there are for these speeds."""
    services = [SERVICE.format(name=f"timed-{policy}", address=plan.SERVICE, port=port, policy=policy)
                for policy, port in plan.TIMED_PORTS.items()]
    boards = ", ".join(f'"board{number}"' for number in options.board_numbers())
    fastest = min(options.service_ms)
    weights = [max(1, round(WEIGHT_MAX * fastest / ms)) for ms in options.service_ms]
    services.append(SERVICE.format(name="timed-weights", address=plan.SERVICE, port=plan.WEIGHTED_PORT,
                                   policy="round-robin") + WEIGHTS.format(boards=f"[{boards}]", weights=weights))
    return "".join(services)


def _device(options, number, interface):
    queues = f",qpairs={options.workers}" if options.port == "af_packet" and options.workers > 1 else ""
    return f"net_{options.port}{number},iface={interface}{queues}"


def daemon():
    """The appliance's process."""
    return Daemon("appliance", DIRECTORY + "/appliance.log")


def start():
    """Starts it, without waiting. DPDK's runtime files stay inside the lab's directory."""
    return daemon().start("ipos-appliance", plan.binary("ipos-appliance"), "run", "--config", CONFIG,
                          env={"RUNTIME_DIRECTORY": DIRECTORY})


def kill():
    """Ends it the hard way."""
    daemon().stop(signal.SIGKILL)


def status(what):
    """What `ipos-appliance status WHAT --json` says, or None when it does not answer."""
    done = subprocess.run([plan.binary("ipos-appliance"), "status", what, "--json", "--socket", plan.ADMIN_SOCKET],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise LabError(f"`ipos-appliance status {what} --json` did not print JSON: {error}") from error


def alive_boards():
    """The names of the boards that the appliance believes alive; None while it does not answer."""
    servers = status("servers")
    if servers is None:
        return None
    return [row["name"] for row in servers if row["alive"]]


def wait_ready(boards):
    """Waits until the appliance answers and has heard of so many boards."""
    wait_until("the appliance's admin socket answers", lambda: alive_boards() is not None, READY_DEADLINE_S, daemon())
    wait_until(f"{boards} boards report to the appliance", lambda: len(alive_boards() or []) >= boards,
               READY_DEADLINE_S, daemon())


def check():
    """Lets the appliance check its configuration."""
    return run(plan.binary("ipos-appliance"), "check", "--config", CONFIG)


def table(what):
    """What `ipos-appliance status WHAT` prints for people, or a line that says why not."""
    try:
        done = subprocess.run([plan.binary("ipos-appliance"), "status", what, "--socket", plan.ADMIN_SOCKET],
                              capture_output=True, text=True, check=False)
    except OSError as error:
        return f"  (no answer about {what}: {error})\n"
    return done.stdout if done.returncode == 0 else f"  (no answer about {what}: {done.stderr.strip()})\n"


def hugepages():
    """How many huge pages the appliance needs: its memory, and what EAL takes beside it."""
    with open("/proc/meminfo", encoding="ascii") as file:
        size_kb = next(int(line.split()[1]) for line in file if line.startswith("Hugepagesize"))
    return -(-MEMORY_MB * 1024 // size_kb) + SPARE_HUGEPAGES
