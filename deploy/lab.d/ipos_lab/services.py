"""What the boards run for `up --services`: real servers of protocols other than plain HTTP, behind the services of
`services.toml`."""

import os

from . import plan
from .board import nginx, wait_listening
from .system import Daemon, LabError, inside, run, wait_until

DIRECTORY = plan.ROOT + "/services"
CONFIG = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "services.toml")

SSH_PORT = 2222
TLS_PORT = 443
TLS_SESSIONS_PORT = 8443
TLS_OWN_SESSIONS_PORT = 8444
H2C_PORT = 8090
WEBSOCKET_PORT = 8091
HTTP3_PORT = 443
READY_DEADLINE_S = 10.0

TICKET_KEY_OCTETS = 80
"""Of AES-256, as nginx takes them."""
SESSIONS_PORT = 8093
ENCODED_PORT = 8094
INSERTED_PORT = 8095

CERTIFICATE_NAMES = ("a.example", "*.b.example", "c.example")

NGINX = """
    server {{
        listen 0.0.0.0:{tls} ssl http2;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/certificate.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        root {board}/www;
        add_header X-Board board{number} always;
        add_header X-Client $remote_addr:$remote_port always;
        add_header X-Server-Name $ssl_server_name always;
        add_header X-Tls $ssl_protocol always;
    }}

    # The boards share the keys of session tickets.
    server {{
        listen 0.0.0.0:{sessions} ssl;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/certificate.key;
        ssl_session_ticket_key {directory}/ticket.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        root {board}/www;
        add_header X-Board board{number} always;
    }}

    # Each board has keys of its own.
    server {{
        listen 0.0.0.0:{own_sessions} ssl;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/certificate.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        root {board}/www;
        add_header X-Board board{number} always;
    }}

    # HTTP/2 in the clear: this nginx speaks nothing else on such a port.
    server {{
        listen 0.0.0.0:{h2c} http2;
        root {board}/www;
        add_header X-Board board{number} always;
        location / {{ }}
        location /a/ {{ alias {board}/www/; }}
    }}

    # docs/services.md, "encoded".
    map $cookie_srv $set_srv {{
        "{value}" "";
        default "srv={value}; Path=/; HttpOnly; SameSite=Lax";
    }}
    server {{
        listen 0.0.0.0:{encoded} backlog=4096;
        root {board}/www;
        add_header X-Board board{number} always;
        add_header Set-Cookie $set_srv always;
    }}
    server {{
        listen 0.0.0.0:{inserted} backlog=4096;
        root {board}/www;
        add_header X-Board board{number} always;
    }}
"""

SSHD = """\
# sshd of board {number}. Written by deploy/lab.
Port {port}
ListenAddress 0.0.0.0
HostKey {directory}/ssh_host_key
AuthorizedKeysFile {directory}/ssh_client_key.pub
PidFile none
# The lab's root is the machine's; only who has the lab's own key comes in, and only from within the lab.
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
LogLevel VERBOSE
SetEnv IPOS_BOARD=board{number}
"""


def configuration():
    """The services' part of the appliance's configuration."""
    with open(CONFIG, encoding="ascii") as file:
        return "\n" + file.read()


def nginx_servers(number):
    """What nginx serves besides the lab's own service."""
    value = run(plan.binary("ipos-appliance"), "cookie", "--config", f"{plan.ROOT}/appliance/appliance.toml",
                "--service", "encoded", "--board", f"board{number}", "--value").strip()
    return NGINX.format(tls=TLS_PORT, sessions=TLS_SESSIONS_PORT, own_sessions=TLS_OWN_SESSIONS_PORT, h2c=H2C_PORT,
                        encoded=ENCODED_PORT, inserted=INSERTED_PORT, value=value, directory=DIRECTORY,
                        board=plan.board_directory(number), number=number)


def prepare(options):
    """Makes the keys that all boards share, as a farm has them, and writes the servers' configurations."""
    if not os.access(plan.PYTHON, os.X_OK):
        raise LabError(f"there is no {plan.PYTHON}, which the HTTP/3 server needs; `make setup` makes it")
    os.makedirs(DIRECTORY)
    # sshd wants it, and Debian's service makes it, which does not run here.
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    for name in ("ssh_host_key", "ssh_client_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ipos lab", "-f", f"{DIRECTORY}/{name}")
    with open(f"{DIRECTORY}/ssh_host_key.pub", encoding="ascii") as file:
        key = " ".join(file.read().split()[:2])
    with open(f"{DIRECTORY}/known_hosts", "w", encoding="ascii") as file:
        file.write(f"[{plan.SERVICE}]:{SSH_PORT} {key}\n")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
        "-subj", "/CN=ipOS lab", "-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in CERTIFICATE_NAMES),
        "-keyout", f"{DIRECTORY}/certificate.key", "-out", f"{DIRECTORY}/certificate.pem")
    with open(f"{DIRECTORY}/ticket.key", "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(os.urandom(TICKET_KEY_OCTETS))
    for number in options.board_numbers():
        with open(f"{plan.board_directory(number)}/sshd.conf", "w", encoding="ascii") as file:
            file.write(SSHD.format(number=number, port=SSH_PORT, directory=DIRECTORY))


def sshd(number):
    """The board's sshd."""
    return Daemon(f"sshd{number}", f"{plan.board_directory(number)}/sshd.log")


def start_sshd(number):
    """Starts sshd."""
    sshd(number).start(plan.board_namespace(number), "/usr/sbin/sshd", "-D", "-e",
                       "-f", f"{plan.board_directory(number)}/sshd.conf")


def websocket(number):
    """The board's WebSocket server."""
    return Daemon(f"websocket{number}", f"{plan.board_directory(number)}/websocket.log")


def start_websocket(number):
    """Starts the WebSocket server."""
    server = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "websocket.py")
    websocket(number).start(plan.board_namespace(number), "/usr/bin/python3", "-B", os.path.normpath(server),
                            str(WEBSOCKET_PORT), f"board{number}")


def server_id(number):
    """What the board's QUIC connection ids say, as services.toml has it."""
    return f"0a{number:02x}"


def http3(number):
    """The board's HTTP/3 server."""
    return Daemon(f"http3-{number}", f"{plan.board_directory(number)}/http3.log")


def start_http3(number):
    """Starts the HTTP/3 server."""
    server = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "http3.py")
    http3(number).start(plan.board_namespace(number), plan.PYTHON, "-B", os.path.normpath(server), plan.SERVICE,
                        str(HTTP3_PORT), f"board{number}", server_id(number), f"{plan.board_directory(number)}/www",
                        f"{DIRECTORY}/certificate.pem", f"{DIRECTORY}/certificate.key")


def sessions(number):
    """The board's application with sessions."""
    return Daemon(f"sessions{number}", f"{plan.board_directory(number)}/sessions.log")


def start_sessions(number):
    """Starts it."""
    server = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "sessions.py")
    sessions(number).start(plan.board_namespace(number), "/usr/bin/python3", "-B", os.path.normpath(server),
                           str(SESSIONS_PORT), f"board{number}")


def start(number):
    """Starts what a board runs for the services, without waiting. nginx is started with the board."""
    start_sshd(number)
    start_websocket(number)
    start_http3(number)
    start_sessions(number)


def wait_serving(number):
    """Waits until all of it listens."""
    wait_listening(number, SSH_PORT, sshd(number))
    wait_listening(number, WEBSOCKET_PORT, websocket(number))
    wait_listening(number, SESSIONS_PORT, sessions(number))
    for port in (TLS_PORT, TLS_SESSIONS_PORT, TLS_OWN_SESSIONS_PORT, H2C_PORT, ENCODED_PORT, INSERTED_PORT):
        wait_listening(number, port, nginx(number))
    name = plan.board_namespace(number)
    wait_until(f"the HTTP/3 server of {name} listens",
               lambda: inside(name, "ss", "-Hlun", f"sport = :{HTTP3_PORT}").strip(), READY_DEADLINE_S, http3(number))
