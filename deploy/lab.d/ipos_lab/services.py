"""What the boards run for `up --services`: real servers of protocols other than plain HTTP, behind the services of
`services.toml`."""

import os

from . import plan
from .board import wait_listening
from .system import Daemon, run

DIRECTORY = plan.ROOT + "/services"
CONFIG = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "services.toml")

SSH_PORT = 2222

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


def prepare(options):
    """Makes the keys that all boards share, as a farm has them, and writes the servers' configurations."""
    os.makedirs(DIRECTORY)
    # sshd wants it, and Debian's service makes it, which does not run here.
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    for name in ("ssh_host_key", "ssh_client_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ipos lab", "-f", f"{DIRECTORY}/{name}")
    with open(f"{DIRECTORY}/ssh_host_key.pub", encoding="ascii") as file:
        key = " ".join(file.read().split()[:2])
    with open(f"{DIRECTORY}/known_hosts", "w", encoding="ascii") as file:
        file.write(f"[{plan.SERVICE}]:{SSH_PORT} {key}\n")
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


def start(number):
    """Starts what a board runs for the services, without waiting."""
    start_sshd(number)


def wait_serving(number):
    """Waits until all of it listens."""
    wait_listening(number, SSH_PORT, sshd(number))
