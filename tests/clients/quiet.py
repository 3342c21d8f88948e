#!/usr/bin/python3
"""A client that says nothing; run in the client's namespace.

    quiet.py ADDRESS PORT COUNT

Opens COUNT connections, one after the other, and sends no octet on any. Says how long each took to hear the server's first
line, in milliseconds, and the lines without repetition.
"""

import json
import socket
import sys
import time

PATIENCE_S = 10.0


def first_line(connection):
    """What the server says of its own accord, up to the end of its first line."""
    text = b""
    while not text.endswith(b"\n"):
        octet = connection.recv(1)
        if not octet:
            raise OSError(f"the server closed after {text!r}")
        text += octet
    return text.decode("ascii").strip()


def main(address, port, count):
    """Connects, listens, leaves."""
    waited, lines, failures = [], set(), []
    for _ in range(count):
        begin = time.monotonic()
        try:
            with socket.create_connection((address, port), timeout=PATIENCE_S) as connection:
                lines.add(first_line(connection))
                waited.append(round((time.monotonic() - begin) * 1000, 1))
        except OSError as error:
            failures.append(repr(error))
    print(json.dumps({"waited_ms": sorted(waited), "lines": sorted(lines), "failures": failures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
