"""What the soak says to servers that speak other protocols than HTTP/1.1."""

import base64
import hashlib
import os
import struct

from soak_connection import Refused, Wrong

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEXINIT = 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
WINDOW_OCTETS = 1 << 24


def upgrade(connection):
    """The WebSocket's handshake (RFC 6455)."""
    key = base64.b64encode(os.urandom(16)).decode("ascii")
    head = connection.ask("/chat", {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key,
                                    "Sec-WebSocket-Version": "13"})
    connection.expect(head, 101)
    expected = base64.b64encode(hashlib.sha1((key + MAGIC).encode("ascii")).digest()).decode("ascii")
    if head.get("sec-websocket-accept") != expected:
        raise Wrong(f"another key was accepted: {head}")


def echo(connection, message):
    """A message that must come back as it is."""
    length = len(message)
    size = struct.pack("!BQ", 0x80 | 127, length) if length > 65535 else (
        struct.pack("!BH", 0x80 | 126, length) if length > 125 else bytes([0x80 | length]))
    mask = os.urandom(4)
    whole = (mask * (length // 4 + 1))[:length]
    masked = (int.from_bytes(message, "big") ^ int.from_bytes(whole, "big")).to_bytes(length, "big")
    connection.sock.sendall(b"\x82" + size + mask + masked)
    first, second = connection.take(2)
    if second >= 126:
        second = int.from_bytes(connection.take(2 if second == 126 else 8), "big")
    if (first, second) != (0x82, length):
        raise Wrong(f"a frame of type {first:#x} with {second} octets for {length}")
    connection.body(message)


def websocket(connection, rng, stop):
    """Upgrade, and messages for a while."""
    if not connection.do(lambda: upgrade(connection)):
        return
    for _ in range(rng.randrange(1, 60)):
        message = rng.randbytes(rng.choice([0, 1, 125, 126, 1_444, 65_535, 65_536]))
        if stop.is_set() or not connection.do(lambda: echo(connection, message)):
            return
        stop.wait(rng.uniform(0.0, 0.5) if rng.random() < 0.95 else rng.uniform(2.0, 20.0))


def hear_banner(connection):
    """The server's first line."""
    text = b""
    while not text.endswith(b"\n"):
        text += connection.take(1)
    if not text.startswith(b"SSH-2.0-OpenSSH"):
        raise Wrong(f"the server's first line: {text!r}")
    connection.operation.row["octets"] += len(text)


def exchange_keys(connection):
    """The client's line, and the beginning of the key exchange (RFC 4253, section 7.1)."""
    connection.sock.sendall(b"SSH-2.0-soak\r\n")
    length, padding, kind = struct.unpack("!IBB", connection.take(6))
    if kind != KEXINIT or not padding + 2 <= length <= 35_000:
        raise Wrong(f"a packet of type {kind} with {length} octets")
    connection.take(length - 2)
    connection.operation.row["octets"] += length + 4


def banner(connection, rng, stop):
    """Listens, waits a little, speaks."""
    if connection.do(lambda: hear_banner(connection)):
        stop.wait(rng.uniform(0.0, 0.2) if rng.random() < 0.9 else rng.uniform(2.0, 20.0))
        connection.do(lambda: exchange_keys(connection))


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2: length 3, type 1, flags 1, stream 4."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def ask(stream, path):
    """GET, as HPACK has it (RFC 7541): two entries of its static table, and two of its names with literal values."""
    literal = [bytes([name, len(value)]) + value for name, value in ((4, path.encode()), (1, b"lab"))]
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, b"\x82\x86" + b"".join(literal))


def is_ok(block):
    """Whether a block of headers begins with status 200; changes of the table's size may come before."""
    while block and block[0] & 0xE0 == 0x20:
        block = block[1:]
    return block[:1] == b"\x88"


def http2(connection, rng, content):
    """Some requests at once on one connection (RFC 9113), without asking whether the server speaks it."""
    wanted = {1 + 2 * n: content[rng.choice(["1k", "100k"])] for n in range(rng.randrange(1, 5))}
    names = {len(content[name]): name for name in ("1k", "100k")}
    settings = struct.pack("!HI", INITIAL_WINDOW_SIZE, WINDOW_OCTETS)
    # Each stream has a name of its own: none may be served twice.
    own = connection.operation.row["name"]
    asked = b"".join(ask(stream, f"/{names[len(body)]}?soak={own}.{stream}") for stream, body in wanted.items())
    connection.sock.sendall(PREFACE + frame(SETTINGS, 0, 0, settings)
                            + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", WINDOW_OCTETS)) + asked)
    came = dict.fromkeys(wanted, 0)
    while wanted:
        head = connection.take(9)
        if head.startswith(b"HTTP/1.1 "):
            raise Refused(head.decode("ascii"))
        payload = connection.take(int.from_bytes(head[:3], "big"))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if kind in (GOAWAY, RST_STREAM):
            raise ConnectionError(f"frame of type {kind}: {payload.hex()}")
        if kind in (SETTINGS, PING) and not flags & ACK:
            connection.sock.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
        if kind == HEADERS and not is_ok(payload):
            raise Wrong(f"headers {payload.hex()}")
        if kind == DATA:
            at = came[stream]
            if payload != wanted[stream][at:at + len(payload)]:
                raise Wrong(f"octets {at} to {at + len(payload)} of stream {stream} differ")
            came[stream] = at + len(payload)
            connection.operation.row["octets"] += len(payload)
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            if came[stream] != len(wanted.pop(stream)):
                raise Wrong(f"stream {stream} ended after {came[stream]} octets")
    connection.board = 2
