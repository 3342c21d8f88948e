#!/usr/bin/python3
"""New connections one after the other, for a time or until told to stop; each has one request.

    stream.py PATH SECONDS

Says `started` after the first answer. At the end: every request's start (seconds since `started`), length, and the board
that answered or what went wrong.
"""

import sys
import time

import http1


def request(path):
    """The board that answered, or what went wrong."""
    try:
        sock = http1.connect()
        with sock:
            sock.sendall(http1.head(path, Connection="close"))
            response = http1.Reader(sock).response()
    except (OSError, EOFError) as error:
        return f"failed: {error!r}"
    if response is None:
        return "failed: closed without an answer"
    return response.board() if response.status == 200 else f"failed: status {response.status}"


def main():
    path, duration_s = sys.argv[1], float(sys.argv[2])
    first = request(path)
    begin = time.monotonic()
    http1.say(started=first)
    rows = []
    while time.monotonic() - begin < duration_s:
        start = time.monotonic()
        outcome = request(path)
        rows.append({"at_s": start - begin, "took_s": time.monotonic() - start, "outcome": outcome})
        time.sleep(0.005)
    http1.say(rows=rows)


if __name__ == "__main__":
    main()
