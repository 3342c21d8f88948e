"""A connection of the soak's, and what is said of each operation on it.

A line for an operation has: `kind`; `name`, the operation's own, which servers see in the query; `boards`, the numbers of those that may serve it;
`board`, the one that did; `port` and `endpoint_port`; the client's clock at `begin` and `until`, and `since` when the connection was last
known to be well; `octets` of content that came and were right; `outcome` and `detail`; `tries`. Where a session or a connection that moves had a board before,
`before` is its number, and `before_since` when nothing had happened yet that could matter; `given`, when the request began and ended with which
the appliance gave a session its cookie. The outcome is

    right      every octet was
    stale      the server had closed a kept connection: not an octet of an answer came (a client asks again, RFC 9110 section 9.3.1)
    refused    the appliance said that no board takes it
    lost       the connection ended or fell silent before its time
    strayed    octets and status were right, but not the board: the one that had it before kept a connection that had to move on, or
               another one served a session
    wrong      octets, status or board were not what they had to be
"""

import json
import os
import socket
import ssl
import sys
import threading
import time

CLIENT = "203.0.113.10"
OTHER = "203.0.113.11"
"""A second address of the client's machine."""
SERVICE = "198.51.100.1"
CHUNK_OCTETS = 65536
HEAD_MAX_OCTETS = 65536

clock = time.monotonic
_output = threading.Lock()


def say(what):
    """One JSON line to the program that started this one."""
    with _output:
        try:
            sys.stdout.write(json.dumps(what) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # Nobody listens any more: not one thread but all have to go.
            os._exit(1)


class Wrong(Exception):
    """What came is not what had to come."""


class Refused(Exception):
    """The appliance says that nobody takes it."""


class Ports:
    """The clients' ports, one after the other: none comes again before a board has forgotten its last connection."""

    FIRST, LAST = 2_000, 31_999

    def __init__(self):
        self.lock = threading.Lock()
        self.next = self.FIRST

    def begin(self, seed):
        """Where to begin."""
        self.next = self.FIRST + seed % (self.LAST - self.FIRST)

    def bind(self, sock, address=CLIENT):
        """Binds a socket to the next one that is free."""
        for _ in range(self.FIRST, self.LAST):
            with self.lock:
                port = self.next
                self.next = port + 1 if port < self.LAST else self.FIRST
            try:
                sock.bind((address, port))
                return port
            except OSError:
                continue
        raise OSError("no port is free")


class Names:
    """A name for each operation."""

    def __init__(self):
        self.lock = threading.Lock()
        self.last = 0

    def draw(self):
        """The next."""
        with self.lock:
            self.last += 1
            return self.last


draw_port = Ports()
names = Names()


class Operation:
    """An operation under way; says what became of it."""

    def __init__(self, kind, endpoint_port, boards):
        self.row = {"kind": kind, "name": names.draw(), "boards": boards, "board": None, "port": 0, "endpoint_port": endpoint_port,
                    "begin": clock(), "since": clock(), "octets": 0, "tries": 1}

    def end(self, outcome, detail=None):
        """Says it."""
        say(self.row | {"until": clock(), "outcome": outcome, "detail": detail})


class Connection:
    """A TCP connection, with or without TLS."""

    def __init__(self, kind, endpoint_port, boards, patience_s, context=None, name=None):
        self.kind, self.endpoint_port, self.boards, self.patience_s = kind, endpoint_port, boards, patience_s
        self.context, self.name, self.address = context, name, CLIENT
        self.sock, self.port, self.board, self.since = None, 0, None, None
        self.buffer, self.heard, self.operation, self.strayed = b"", False, None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.sock is not None:
            self.sock.close()

    def do(self, act):
        """One operation; whether the connection is still good."""
        self.operation = Operation(self.kind, self.endpoint_port, self.boards)
        is_reused = self.since is not None
        if is_reused:
            self.operation.row["since"] = self.since
        self.heard, self.strayed = False, None
        try:
            if self.sock is None:
                self.open()
            act()
            outcome, detail = ("strayed", self.strayed) if self.strayed else ("right", None)
        except Refused as error:
            outcome, detail = "refused", str(error)
        except Wrong as error:
            outcome, detail = "wrong", str(error)
        except (OSError, EOFError) as error:
            outcome, detail = self._failed(error, is_reused), repr(error)
        except Exception as error:  # whatever a server's octets do to this program is wrong
            outcome, detail = "wrong", repr(error)
        self.operation.row |= {"port": self.port, "board": self.board}
        self.operation.end(outcome, detail)
        self.since = clock()
        return outcome in ("right", "strayed")

    def _failed(self, error, is_reused):
        if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return "refused" if "ALERT_INTERNAL_ERROR" in str(error) else "wrong"
        return "lost" if isinstance(error, TimeoutError) or not is_reused or self.heard else "stale"

    def open(self):
        """Connects, from a port of its own."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        sock.settimeout(self.patience_s)
        self.port = draw_port.bind(sock, self.address)
        sock.connect((SERVICE, self.endpoint_port))
        if self.context is not None:
            self.sock = self.context.wrap_socket(sock, server_hostname=self.name)

    def fill(self):
        """Takes more octets in."""
        part = self.sock.recv(CHUNK_OCTETS)
        if not part:
            raise EOFError(f"the stream ended; {len(self.buffer)} octets were left")
        self.heard = True
        self.buffer += part

    def take(self, count):
        """Exactly so many octets."""
        while len(self.buffer) < count:
            self.fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def body(self, expected, rate_octets_s=None):
        """Octets that must be these, as they come; at most at this rate."""
        begin, at = clock(), 0
        while at < len(expected):
            if not self.buffer:
                self.fill()
            part = self.buffer[:len(expected) - at]
            if part != expected[at:at + len(part)]:
                raise Wrong(f"octets {at} to {at + len(part)} of {len(expected)} differ")
            self.buffer = self.buffer[len(part):]
            at += len(part)
            self.operation.row["octets"] += len(part)
            if rate_octets_s is not None:
                time.sleep(max(0.0, begin + at / rate_octets_s - clock()))

    def ask(self, path, fields, method="GET", body=b""):
        """Sends a request of HTTP/1.1; the head of its answer, with `status`."""
        lines = [f"{method} {path}?soak={self.operation.row['name']} HTTP/1.1", f"Host: {self.name or 'lab'}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body)
        return self.head()

    def head(self):
        """The head of an answer."""
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > HEAD_MAX_OCTETS:
                raise Wrong("a head that does not end")
            self.fill()
        text, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        head = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return head | {"status": int(first.split()[1])}

    def served_by(self, board):
        """Whether this board may serve, and is the one that did before."""
        if board not in self.boards or self.board not in (None, board):
            raise Wrong(f"board {board} answered; {self.boards} may, and it was {self.board} before")

    def expect(self, head, status):
        """The answer must have this status, and come from a board that may give it, to this very client."""
        if head["status"] == 503 and "x-board" not in head:
            raise Refused("503")
        board = int(head.get("x-board", "board0").removeprefix("board"))
        if head["status"] != status:
            raise Wrong(f"status {head['status']} of board {board}")
        self.served_by(board)
        self.board = board
        seen = head.get("x-client", f"{self.address}:{self.port}")
        if seen != f"{self.address}:{self.port}":
            raise Wrong(f"the server sees {seen}, this is port {self.port}")
