#!/usr/bin/python3
"""A WebSocket client (RFC 6455); run in the client's namespace.

    websocket.py ADDRESS PORT PATH MESSAGES

Upgrades a connection, sends MESSAGES messages of 0 to 100,000 octets, each once the one before has come back, and compares them.
Says which board it talked to and how many octets came back right; `go on` on standard input, then as many again on the same
connection.
"""

import base64
import hashlib
import json
import os
import random
import socket
import struct
import sys

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PATIENCE_S = 20.0
SIZES = (0, 1, 125, 126, 1_444, 65_535, 65_536, 100_000)


def upgrade(stream, address, path):
    """The handshake; returns the answer's headers."""
    key = base64.b64encode(os.urandom(16)).decode("ascii")
    stream.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode("ascii"))
    stream.flush()
    status = stream.readline().decode("ascii")
    head = {}
    while (line := stream.readline().decode("ascii").strip()):
        name, _, value = line.partition(":")
        head[name.lower()] = value.strip()
    expected = base64.b64encode(hashlib.sha1((key + MAGIC).encode("ascii")).digest()).decode("ascii")
    if not status.startswith("HTTP/1.1 101 ") or head.get("sec-websocket-accept") != expected:
        raise ValueError(f"no upgrade: {status!r} {head}")
    return head


def echo(stream, message):
    """Sends a message and reads it back; whether it is the same."""
    length = len(message)
    size = struct.pack("!BQ", 0x80 | 127, length) if length > 65535 else (
        struct.pack("!BH", 0x80 | 126, length) if length > 125 else bytes([0x80 | length]))
    mask = os.urandom(4)
    whole = (mask * (length // 4 + 1))[:length]
    masked = (int.from_bytes(message, "big") ^ int.from_bytes(whole, "big")).to_bytes(length, "big")
    stream.write(b"\x82" + size + mask + masked)
    stream.flush()
    first, second = stream.read(2)
    if second >= 126:
        second = int.from_bytes(stream.read(2 if second == 126 else 8), "big")
    return first == 0x82 and stream.read(second) == message


def main(address, port, path, count):
    """Two rounds on one connection."""
    rng = random.Random(1)
    with socket.create_connection((address, port), timeout=PATIENCE_S) as connection:
        stream = connection.makefile("rwb")
        board = upgrade(stream, address, path).get("x-board")
        for last in (False, True):
            messages = [rng.randbytes(SIZES[n % len(SIZES)]) for n in range(count)]
            right = [len(message) for message in messages if echo(stream, message)]
            print(json.dumps({"board": board, "right": len(right), "octets": sum(right)}), flush=True)
            if not last:
                sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
