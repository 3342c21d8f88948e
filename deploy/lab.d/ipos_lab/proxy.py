"""nginx as a proxy in the appliance's place: the same boards behind another service address, for comparison."""

import os

from . import board, plan
from .system import Daemon, inside, wait_until

DIRECTORY = plan.ROOT + "/nginx-proxy"
CONFIG = DIRECTORY + "/nginx.conf"
READY_DEADLINE_S = 10.0

TEXT = """\
# nginx with the lab's boards behind it. Written by deploy/lab.
user {user};
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;

events {{
    worker_connections 8192;
}}

http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/tmp/body;
    proxy_temp_path {directory}/tmp/proxy;
    fastcgi_temp_path {directory}/tmp/fastcgi;
    uwsgi_temp_path {directory}/tmp/uwsgi;
    scgi_temp_path {directory}/tmp/scgi;

    upstream boards {{
{servers}
        keepalive 128;
        keepalive_requests 1000000;
    }}

    server {{
        listen {address}:{port};
        location / {{
            proxy_pass http://boards;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # A body that the client takes slowly waits in the board, not on the proxy's disk.
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""


def prepare(options):
    """Writes the configuration."""
    os.makedirs(DIRECTORY + "/tmp")
    user = board.web_user()
    os.chown(DIRECTORY + "/tmp", user.pw_uid, user.pw_gid)
    servers = [f"        server {plan.board_address(n)}:{plan.SERVICE_PORT};" for n in options.board_numbers()]
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write(TEXT.format(user=user.pw_name, directory=DIRECTORY, servers="\n".join(servers),
                               address=plan.HAPROXY_SERVICE, port=plan.NGINX_PROXY_PORT))


def daemon():
    """The proxy's process."""
    return Daemon("nginx-proxy")


def start():
    """Starts it and waits until it listens."""
    daemon().start("ipos-haproxy", "nginx", "-e", DIRECTORY + "/error.log", "-c", CONFIG, "-g", "daemon off;")
    wait_until("nginx listens as a proxy",
               lambda: inside("ipos-haproxy", "ss", "-Hltn", f"sport = :{plan.NGINX_PROXY_PORT}").strip(),
               READY_DEADLINE_S, daemon())
