"""A small HTTP/1.1 client side over a plain socket, for what curl cannot be made to do. Standard library only."""

import json
import socket
import sys

SERVICE = ("198.51.100.1", 80)
TIMEOUT_S = 20.0


def connect(source_port=0):
    """A connection to the service."""
    sock = socket.socket()
    sock.settimeout(TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", source_port))
    sock.connect(SERVICE)
    return sock


def head(path, method="GET", **fields):
    """A request head; underscores in field names become hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: lab"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Response:
    """Status, headers in lower case, and body."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def board(self):
        """The board that answered; None when the appliance itself did."""
        return self.headers.get("x-board")


class Reader:
    """Reads responses from a socket, one after the other."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def fill(self):
        """Takes more octets in; False at the end of the stream."""
        part = self.sock.recv(65536)
        self.buffer += part
        return bool(part)

    def response(self, bodyless=False):
        """The next response, or None when the stream ends before one starts."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.fill():
                if self.buffer:
                    raise EOFError(f"the stream ended within a head: {self.buffer[:80]!r}")
                return None
        text, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = text.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(lines[0].split()[1])
        if bodyless or status in (100, 204, 304):
            return Response(status, headers, b"")
        if "content-length" in headers:
            octets = int(headers["content-length"])
            while len(self.buffer) < octets:
                if not self.fill():
                    raise EOFError(f"the stream ended after {len(self.buffer)} of {octets} octets of a body")
            body, self.buffer = self.buffer[:octets], self.buffer[octets:]
        else:
            while self.fill():
                pass
            body, self.buffer = self.buffer, b""
        return Response(status, headers, body)

    def at_end(self):
        """Whether the server has closed (waits for it)."""
        try:
            return not self.buffer and not self.fill()
        except ConnectionResetError:
            return False


def say(**what):
    """One JSON line to the test that started this program."""
    print(json.dumps(what), flush=True)


def heard():
    """Waits for a line from the test."""
    return sys.stdin.readline().strip()
