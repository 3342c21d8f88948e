#!/usr/bin/python3
"""A client that speaks HTTP/2 in the clear without asking (RFC 9113, section 3.3); run in the client's namespace.

    h2c.py ADDRESS PORT PATH...

Requests every path on one connection, each as a stream of its own, and says what their bodies were. (curl 7.88 makes a second
request on such a connection into an error of its own, whoever serves it.)
"""

import json
import socket
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE_S = 15.0
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, payload=b""):
    """A frame: length 3, type 1, flags 1, stream 4."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def request(stream, address, path):
    """GET, as HPACK has it (RFC 7541): two entries of its static table, and two of its names with literal values."""
    literal = [bytes([name, len(value)]) + value for name, value in ((4, path.encode()), (1, address.encode()))]
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, b"\x82\x86" + b"".join(literal))


def main(address, port, paths):
    """Sends all requests, reads all bodies."""
    bodies = {1 + 2 * place: b"" for place in range(len(paths))}
    waiting = set(bodies)
    with socket.create_connection((address, port), timeout=PATIENCE_S) as connection:
        stream = connection.makefile("rb")
        requests = b"".join(request(number, address, path) for number, path in zip(bodies, paths))
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + requests)
        while waiting:
            head = stream.read(9)
            if len(head) < 9:
                raise ConnectionError("the server closed")
            payload = stream.read(int.from_bytes(head[:3], "big"))
            kind, flags, number = head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            if kind in (GOAWAY, RST_STREAM):
                raise ConnectionError(f"frame of type {kind}: {payload.hex()}")
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            if kind == DATA:
                bodies[number] += payload
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                waiting.discard(number)
    print(json.dumps({"bodies": [body.decode("ascii", "replace") for body in bodies.values()]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
