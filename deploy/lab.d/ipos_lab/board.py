"""A board: the distribution's nginx with the test files, a small application behind it, and the ipOS agent."""

import contextlib
import glob
import hashlib
import os
import pwd
import shutil
import signal

from . import forwarded, plan
from .system import Daemon, LabError, inside, run, wait_until

SIZES = {"1k": 1024, "100k": 100 * 1024, "10m": 10 * 1024 * 1024}
"""The test files and their octets."""

APPLICATION_PORT = 8080
READY_DEADLINE_S = 10.0

NGINX = """\
# nginx of board {number}, as the distribution ships it. Written by deploy/lab.
user {user};
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log info;

events {{
    worker_connections 2048;
}}

http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    client_max_body_size 64m;
    client_body_temp_path {directory}/tmp/body;
    proxy_temp_path {directory}/tmp/proxy;
    fastcgi_temp_path {directory}/tmp/fastcgi;
    uwsgi_temp_path {directory}/tmp/uwsgi;
    scgi_temp_path {directory}/tmp/scgi;

    log_format lab '$msec $remote_addr:$remote_port "$request" $status $body_bytes_sent $connection $connection_requests';
    access_log {directory}/nginx-access.log lab;

    server {{
        listen 0.0.0.0:80;
{listen}        root {directory}/www;
        add_header X-Board board{number} always;
        add_header X-Client $remote_addr:$remote_port always;
        # The path as nginx reads it.
        add_header X-Uri $uri always;

        location / {{ }}
        location = /health {{
            if (-f {directory}/unhealthy) {{ return 503; }}
            return 200 "fine\\n";
        }}
        location /a/ {{ alias {directory}/www/; }}
        location /b/ {{ alias {directory}/www/; }}
        # The server closes first.
        location /close/ {{ alias {directory}/www/; keepalive_timeout 0; }}
        # Bodies and delays: nginx hands the request on once it has all of it.
        location /app/ {{
            proxy_pass http://127.0.0.1:{application};
            proxy_read_timeout 120s;
            # Without it nginx takes a client that has closed its half for one that went away.
            proxy_ignore_client_abort on;
        }}
        location ~ ^/[ab]/app/ {{ rewrite ^/[ab](/app/.*)$ $1 last; }}
    }}
{servers}}}
"""

AGENT = """\
# Agent of board {number}. Written by deploy/lab.
interface = "eth0"
address = "{address}"
ethertype = {ethertype}
appliances = ["{appliance}"]
pin_directory = "{directory}/bpf"
xdp_mode = "auto"
report_interval_ms = 100

[[services]]
address = "{service}"
kind = "http"
"""


APPLICATION = """
run_directory = "{directory}/run"
cgroup = "{directory}/cgroup/ipos-lab-board{number}"

[[application]]
name = "web"
command = ["{nginx}", "-e", "{directory}/nginx-error.log", "-c", "{directory}/nginx.conf", "-g", "daemon off;"]
user = "root"
listen = "0.0.0.0:80"
memory_mb = 16
stop_timeout_ms = 2000
"""


def make_files():
    """The test files, the same on every machine and at every `up`, with their SHA-256 beside them."""
    os.makedirs(plan.FILES)
    sums = []
    for name, octets in SIZES.items():
        content = hashlib.shake_256(f"ipos lab {name}".encode()).digest(octets)
        with open(f"{plan.FILES}/{name}", "wb") as file:
            file.write(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    with open(f"{plan.FILES}/SHA256SUMS", "w", encoding="ascii") as file:
        file.writelines(sums)


def prepare(number, options, servers):
    """Writes a board's files and mounts its bpffs. `servers` are further ones of nginx's configuration.

    The bpffs is outside /sys because `ip netns exec` mounts a new /sys for every program; this one they all see, and it
    outlives the agent.
    """
    directory = plan.board_directory(number)
    for part in ("www", "tmp", "bpf"):
        os.makedirs(f"{directory}/{part}")
    for name in os.listdir(plan.FILES):
        os.link(f"{plan.FILES}/{name}", f"{directory}/www/{name}")
    with open(f"{directory}/www/index.html", "w", encoding="ascii") as file:
        file.write(f"board{number}\n")
    user = web_user()
    os.chown(f"{directory}/tmp", user.pw_uid, user.pw_gid)
    with open(f"{directory}/nginx.conf", "w", encoding="ascii") as file:
        file.write(NGINX.format(number=number, user=user.pw_name, directory=directory, application=APPLICATION_PORT,
                                servers=servers,
                                listen=f"        listen 0.0.0.0:{plan.L4_WEB_PORT};\n" if options.forwarded else ""))
    with open(f"{directory}/board.toml", "w", encoding="ascii") as file:
        head, services = AGENT.format(
            number=number, address=plan.board_address(number), ethertype=options.ethertype,
            appliance=plan.FARM_APPLIANCE, directory=directory, service=plan.SERVICE).split("[[services]]")
        application = APPLICATION.format(number=number, directory=directory, nginx=shutil.which("nginx"))
        keys, application = application.split("[[application]]")
        file.write(head + (keys if options.spawn else "") + "[[services]]" + services
                   + (forwarded.board_services() if options.forwarded else "")
                   + ("\n[[application]]" + application if options.spawn else ""))
    if options.spawn:
        os.makedirs(f"{directory}/cgroup")
        run("mount", "-t", "cgroup2", f"ipos-board{number}", f"{directory}/cgroup")
    run("mount", "-t", "bpf", "-o", "mode=0700", f"ipos-board{number}", f"{directory}/bpf")


def web_user():
    """The user that nginx runs as."""
    for name in ("www-data", "nginx", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LabError("there is no user www-data, nginx or nobody for nginx to run as; `make setup` installs nginx")


def nginx(number):
    """The board's nginx."""
    return Daemon(f"nginx{number}", f"{plan.board_directory(number)}/nginx.log")


def application(number):
    """The application behind the board's nginx."""
    return Daemon(f"application{number}", f"{plan.board_directory(number)}/application.log")


def agent(number):
    """The board's ipOS agent."""
    return Daemon(f"agent{number}", f"{plan.board_directory(number)}/agent.log")


def start_application(number):
    """Starts the application that answers below /app/."""
    server = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "application.py")
    application(number).start(plan.board_namespace(number), "/usr/bin/python3", "-B", os.path.normpath(server),
                              str(APPLICATION_PORT))


def timed(number):
    """The server of a known speed, in a lab that has them."""
    return Daemon(f"timed{number}", f"{plan.board_directory(number)}/timed.log")


def timed_ports():
    """Where it listens."""
    return [*plan.TIMED_PORTS.values(), plan.WEIGHTED_PORT]


def start_timed(number, milliseconds):
    """Starts the server that takes so long for each request, one at a time."""
    server = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "timed.py")
    timed(number).start(plan.board_namespace(number), "/usr/bin/python3", "-B", os.path.normpath(server),
                        str(milliseconds), *map(str, timed_ports()))


def start_nginx(number):
    """Starts nginx."""
    directory = plan.board_directory(number)
    nginx(number).start(plan.board_namespace(number), "nginx", "-e", f"{directory}/nginx-error.log",
                        "-c", f"{directory}/nginx.conf", "-g", "daemon off;")


def start_agent(number):
    """Starts the agent."""
    agent(number).start(plan.board_namespace(number), plan.binary("ipos-board"), "run",
                        "--config", f"{plan.board_directory(number)}/board.toml")


def kill_agent(number):
    """Ends the agent the hard way."""
    agent(number).stop(signal.SIGKILL)


def kill_nginx(number):
    """Ends nginx the hard way, master and worker at once."""
    nginx(number).stop(signal.SIGKILL)


def wait_listening(number, port, daemon):
    """Waits until a board's program listens."""
    name = plan.board_namespace(number)
    wait_until(f"{name} listens on port {port}",
               lambda: inside(name, "ss", "-Hltn", f"sport = :{port}").strip(), READY_DEADLINE_S, daemon)


def start(number, options):
    """Starts all that a board runs, without waiting. What its agent starts is left to it."""
    start_application(number)
    if options.service_ms is not None:
        start_timed(number, options.service_ms[number - 1])
    if options.forwarded:
        forwarded.start(number)
    if not options.spawn:
        start_nginx(number)
    start_agent(number)


def wait_serving(number, options):
    """Waits until nginx, the application and the timed server listen."""
    if options.service_ms is not None:
        for port in timed_ports():
            wait_listening(number, port, timed(number))
    if options.forwarded:
        forwarded.wait_serving(number)
    wait_listening(number, APPLICATION_PORT, application(number))
    if not options.spawn:
        wait_listening(number, plan.SERVICE_PORT, nginx(number))


def remove_cgroups():
    """Removes the cgroups that the agents have made, once nothing is in them. The kernel keeps them, mounted or not."""
    for group in glob.glob(f"{plan.ROOT}/board*/cgroup/ipos-lab-board*"):
        for path in [*glob.glob(f"{group}/*/"), group]:
            # What is still in one is on its way out; the next lab uses it again.
            with contextlib.suppress(OSError):
                os.rmdir(path)
