"""The commands of `deploy/lab`."""

import argparse
import contextlib
import os
import shutil
import signal
import sys

from . import appliance, balancer, board, forwarded, network, plan, proxy, services
from .system import Daemon, LabError, end_processes, lock, log_tail

NEEDED = ("ip", "tc", "ethtool", "sysctl", "nginx", "ss", "mount", "umount")

BALANCERS = ("haproxy", "nginx-proxy", "appliance")

TRY = """\
The lab is up: {shape}. Try

  deploy/lab exec client -- curl -i http://{service}/a/1k -o /dev/null -D -
  deploy/lab exec client -- wrk -t1 -c64 -d5 http://{service}/1k
  deploy/lab exec appliance -- curl -s http://{metrics}/metrics
  deploy/lab status
  {appliance} status flows --socket {socket}
  deploy/lab exec switch -- tcpdump -ni appl-farm
  deploy/lab stop-nginx 1   (start-nginx, link 1 down|up, kill-agent 1, start-agent 1, kill-appliance, start-appliance)
  deploy/lab down
"""


def main(arguments):
    """Runs one command; returns the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    options = _parser().parse_args(arguments)
    try:
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces: run it as root (sudo deploy/lab ...)")
        options.run(options)
        return 0
    except LabError as error:
        print(f"deploy/lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("deploy/lab: interrupted", file=sys.stderr)
        return 130


def _terminated(_number, _frame):
    raise KeyboardInterrupt


def _parser():
    parser = argparse.ArgumentParser(prog="deploy/lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="build the lab and start everything")
    up.add_argument("--boards", type=int, default=2, metavar="N", help=f"1 to {plan.BOARDS_MAX}, default 2")
    up.add_argument("--port", choices=("af_packet", "af_xdp"), default="af_packet", help="DPDK driver of the ports")
    up.add_argument("--ethertype", choices=("0x88b5", "0x0007"), default="0x88b5", help="EtherType of ipOS frames")
    up.add_argument("--haproxy", action="store_true", help=f"HAProxy with the same boards on {plan.HAPROXY_SERVICE}")
    up.add_argument("--nginx-proxy", action="store_true",
                    help=f"nginx as a proxy with the same boards on {plan.HAPROXY_SERVICE}:{plan.NGINX_PROXY_PORT}")
    up.add_argument("--memory", choices=("hugepages", "no-huge"), default="hugepages", help="DPDK's memory")
    up.add_argument("--workers", type=int, default=1, metavar="N", help="workers of the appliance, default 1")
    up.add_argument("--cpus", metavar="C,W..", help="CPUs of the appliance's control core and of its workers")
    up.add_argument("--after-polls", metavar="C,W", help="empty polls before control core and workers sleep")
    up.add_argument("--sleep-us", type=int, metavar="N", help="how long control core and workers sleep")
    up.add_argument("--one-port", action="store_true", help="one port that faces clients and farm")
    up.add_argument("--check", metavar="PATH", help="health checks of the boards: /health, which is 503 while a board's "
                    "directory has a file `unhealthy`")
    up.add_argument("--spawn", action="store_true", help="the boards' agents start nginx, on demand")
    up.add_argument("--forwarded", action="store_true", help="services that are merely forwarded: nginx on port "
                    f"{plan.L4_WEB_PORT} and iperf3 behind kind l4, dnsmasq behind kind udp")
    up.add_argument("--service-ms", metavar="MS,MS..",
                    help="a server on each board that takes so long for a request, one at a time; one service for each "
                         f"policy, ports {min(plan.TIMED_PORTS.values())} to {plan.WEIGHTED_PORT}")
    up.add_argument("--moves", action="store_true",
                    help="requests move their connections: /a/ belongs to board1, /b/ to board2")
    up.add_argument("--services", action="store_true",
                    help="a service of each kind (deploy/lab.d/services.toml), with a real server on each board")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="end and remove all of it, whatever state it is in")
    down.set_defaults(run=_down)

    run = commands.add_parser("exec", help="run a command in a namespace: exec client -- curl ...")
    run.add_argument("name", help="client, router, switch, appliance, haproxy, board1 ...")
    run.add_argument("command", nargs=argparse.REMAINDER)
    run.set_defaults(run=_exec)

    status = commands.add_parser("status", help="what runs, and the appliance's own tables")
    status.set_defaults(run=_status)

    for name, action, text in (
            ("stop-nginx", lambda n: board.nginx(n).stop(), "end a board's nginx"),
            ("kill-nginx", board.kill_nginx, "SIGKILL a board's nginx, all its processes at once"),
            ("start-nginx", _start_nginx, "start a board's nginx"),
            ("stop-sshd", lambda n: services.sshd(n).stop(), "end a board's sshd"),
            ("start-sshd", services.start_sshd, "start a board's sshd"),
            ("kill-agent", board.kill_agent, "SIGKILL a board's agent"),
            ("stop-agent", lambda n: board.agent(n).stop(), "SIGTERM a board's agent"),
            ("start-agent", board.start_agent, "start a board's agent"),
            ("stop-dnsmasq", lambda n: forwarded.dnsmasq(n, plan.DNS_PORT).stop(), "end a board's dnsmasq on port 53"),
            ("start-dnsmasq", _start_dnsmasq, "start it again")):
        verb = commands.add_parser(name, help=text)
        verb.add_argument("board", type=int)
        verb.set_defaults(run=_board_verb(action))
    link = commands.add_parser("link", help="pull a board's cable, or plug it in")
    link.add_argument("board", type=int)
    link.add_argument("state", choices=("up", "down"))
    link.set_defaults(run=lambda options: _board_verb(lambda n: network.link(n, options.state))(options))
    loss = commands.add_parser("loss", help="let a cable lose frames, each way; 0: none")
    loss.add_argument("percent", type=int)
    loss.add_argument("--cable", choices=tuple(network.LOSSY_CABLES), default="farm",
                      help="farm: between appliance and boards (the default); client: the client's")
    loss.set_defaults(run=_loss)
    for name, action, text in (
            ("kill-appliance", lambda _: _when_up(appliance.kill), "SIGKILL the appliance"),
            ("stop-appliance", lambda _: _when_up(_stop_appliance), "SIGTERM the appliance; says how long it took"),
            ("start-appliance", lambda _: _when_up(_start_appliance), "start the appliance, wait until it answers")):
        commands.add_parser(name, help=text).set_defaults(run=action)
    return parser


def _up(options):
    wanted = plan.Options(boards=options.boards, port=options.port, ethertype=options.ethertype,
                          haproxy=options.haproxy, nginx_proxy=options.nginx_proxy, memory=options.memory,
                          workers=options.workers, one_port=options.one_port, spawn=options.spawn, cpus=_cpus(options),
                          after_polls=_after_polls(options), sleep_us=options.sleep_us,
                          service_ms=_service_ms(options), check=options.check, services=options.services,
                          forwarded=options.forwarded, moves=options.moves)
    if not 1 <= wanted.boards <= plan.BOARDS_MAX:
        raise LabError(f"--boards {wanted.boards}: 1 to {plan.BOARDS_MAX} are possible")
    if wanted.workers < 1:
        raise LabError(f"--workers {wanted.workers}: at least 1 is needed")
    if wanted.port == "af_xdp" and wanted.workers > 1:
        raise LabError("--port af_xdp has one queue on veth and so one worker; use --port af_packet for more")
    _need_programs(wanted)
    with lock():
        before = plan.Options.load()
        if before is not None and before.ready:
            raise LabError(f"a lab is up already ({_shape(before)}); take it down first: deploy/lab down")
        if before is not None or network.existing():
            print("removing what is left of an earlier lab", flush=True)
            _take_down()
        try:
            _build(wanted)
        except BaseException:
            # Also on Ctrl-C: half a lab is of no use, and what it said has been read into the error.
            with contextlib.suppress(LabError):
                _take_down()
            raise
    print(TRY.format(shape=_shape(wanted), service=plan.SERVICE, metrics=plan.METRICS, socket=plan.ADMIN_SOCKET,
                     appliance=_shortest(plan.binary("ipos-appliance"))), end="", flush=True)


def _numbers(text):
    """The numbers of a list such as `1,2`; none when it is no such list."""
    words = text.split(",")
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else []


def _after_polls(options):
    if options.after_polls is None:
        return None
    polls = _numbers(options.after_polls)
    if len(polls) != 2:
        raise LabError(f"--after-polls {options.after_polls}: expected two numbers, control core's and workers'")
    return polls


def _service_ms(options):
    """The list in `--service-ms`: milliseconds for each board."""
    if options.service_ms is None:
        return None
    milliseconds = _numbers(options.service_ms)
    if len(milliseconds) != options.boards or not all(1 <= ms <= 10_000 for ms in milliseconds):
        raise LabError(f"--service-ms {options.service_ms}: expected a number of milliseconds, 1 to 10000, for each of "
                       f"the {options.boards} boards")
    return milliseconds


def _cpus(options):
    """The list in `--cpus`; as many CPUs as control core and workers, all of them ours."""
    if options.cpus is None:
        return None
    cpus = _numbers(options.cpus)
    ours = os.sched_getaffinity(0)
    if len(cpus) != options.workers + 1 or not ours.issuperset(cpus):
        raise LabError(f"--cpus {options.cpus}: expected the control core's CPU and one for each worker, "
                       f"{options.workers + 1} numbers out of {sorted(ours)}")
    return cpus


def _shortest(path):
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _need_programs(options):
    needed = NEEDED + (("haproxy",) if options.haproxy else ())
    needed += ("sshd", "ssh", "ssh-keygen", "openssl") if options.services else ()
    needed += ("iperf3", "dnsmasq") if options.forwarded else ()
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}; `make setup` installs them")
    for name in ("ipos-appliance", "ipos-board"):
        if not os.access(plan.binary(name), os.X_OK):
            raise LabError(f"there is no program {plan.binary(name)}: `make build` builds it "
                           "(or set IPOS_BIN_DIR to where it is)")


def _build(options):
    os.makedirs(plan.PIDS)
    options.save()
    board.make_files()
    network.build(options)
    if options.memory == "hugepages":
        network.reserve_hugepages(appliance.hugepages(), options)
    appliance.prepare(options)
    for number in options.board_numbers():
        board.prepare(number, options, services.nginx_servers(number) if options.services else "")
    if options.services:
        services.prepare(options)
    if options.haproxy:
        balancer.prepare(options)
    if options.nginx_proxy:
        proxy.prepare(options)
    appliance.start()
    for number in options.board_numbers():
        board.start(number, options)
        if options.services:
            services.start(number)
    if options.haproxy:
        balancer.start()
    if options.nginx_proxy:
        proxy.start()
    for number in options.board_numbers():
        board.wait_serving(number, options)
        if options.services:
            services.wait_serving(number)
    appliance.wait_ready(options.boards)
    options.ready = True
    options.save()


def _shape(options):
    text = f"{options.boards} boards, {options.port}, EtherType {options.ethertype}, {options.memory}"
    text += ", nginx on demand" if options.spawn else ""
    text += ", a service of each kind" if options.services else ""
    text += ", forwarded services" if options.forwarded else ""
    text += ", requests move" if options.moves else ""
    if options.service_ms is not None:
        text += ", requests take " + ", ".join(map(str, options.service_ms)) + " ms"
    return text + (", one port" if options.one_port else "") + "".join(", " + name for name in options.balancers())


def _down(_options):
    with lock():
        if plan.Options.load() is None and not network.existing():
            print("no lab is up")
            return
        _take_down()


def _take_down():
    """Ends and removes everything, in an order in which each step can be repeated."""
    state = plan.Options.load()
    for daemon in _daemons():
        daemon.stop(deadline_s=appliance.STOP_DEADLINE_S)
    # What `exec` started lives in the lab's namespaces and would keep them alive without a name.
    left = network.processes()
    if left:
        for pid, command, name in left:
            print(f"ending what still runs in {name}: {command} (pid {pid})", flush=True)
        end_processes([pid for pid, _, _ in left])
    board.remove_cgroups()
    network.remove()
    network.restore_hugepages(state)
    if os.path.isdir(plan.ROOT):
        shutil.rmtree(plan.ROOT)


def _daemons():
    """Every daemon with a pid file: load balancers first, so that nobody logs that its servers went away."""
    try:
        names = [entry.removesuffix(".pid") for entry in os.listdir(plan.PIDS) if entry.endswith(".pid")]
    except FileNotFoundError:
        return []
    return [Daemon(name) for name in sorted(names, key=lambda name: (name not in BALANCERS, name))]


def _current():
    state = plan.Options.load()
    if state is None or not state.ready:
        raise LabError("no lab is up: deploy/lab up")
    return state


def _when_up(action):
    with lock():
        _current()
        action()


def _board_verb(action):
    def verb(options):
        with lock():
            state = _current()
            if options.board not in state.board_numbers():
                raise LabError(f"there is no board {options.board}: this lab has 1 to {state.boards}")
            action(options.board)
    return verb


def _loss(options):
    if not 0 <= options.percent < 100:
        raise LabError(f"loss {options.percent}: 0 to 99 percent are possible")
    _when_up(lambda: network.lose(options.percent, options.cable))


def _start_nginx(number):
    board.start_nginx(number)
    board.wait_listening(number, plan.SERVICE_PORT, board.nginx(number))


def _start_dnsmasq(number):
    forwarded.start_dnsmasq(number, plan.DNS_PORT)
    forwarded.wait_serving(number)


def _stop_appliance():
    seconds, willing = appliance.daemon().stop(deadline_s=appliance.STOP_DEADLINE_S)
    if not willing:
        raise LabError(f"the appliance did not end within {appliance.STOP_DEADLINE_S:.0f} s of SIGTERM; "
                       + log_tail(appliance.daemon().log))
    print(f"the appliance ended {seconds * 1000:.0f} ms after SIGTERM")


def _start_appliance():
    appliance.start()
    appliance.wait_ready(0)


def _exec(options):
    _current()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("exec what? deploy/lab exec client -- curl http://198.51.100.1/")
    name = plan.namespace(options.name)
    if name not in network.existing():
        raise LabError(f"there is no {options.name}: {', '.join(n.removeprefix('ipos-') for n in network.existing())}")
    os.execvp("ip", ["ip", "netns", "exec", name, *command])


def _status(_options):
    state = plan.Options.load()
    if state is None:
        print("no lab is up")
        return
    print(f"lab: {_shape(state)}{'' if state.ready else ' (NOT complete)'}")
    for daemon in _daemons():
        pid = daemon.pid()
        print(f"  {daemon.name:14} {'pid ' + str(pid) if pid else 'not running'}")
    for what in ("servers", "tables"):
        print(appliance.table(what), end="", flush=True)
