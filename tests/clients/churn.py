#!/usr/bin/python3
"""Many clients at once, each with new connections one after the other, one request on each.

    churn.py PATH CLIENTS SECONDS PATIENCE

Says `started` after a hundred answers. A line on standard input is a mark. At the end: when each mark came, and every request's
client port, start (both in seconds since `started`), length, and the board that answered or what went wrong. An answer may take
PATIENCE seconds.
"""

import os
import sys
import threading
import time

import http1


class Load:
    """What the clients share."""

    def __init__(self, path, duration_s):
        self.path = path
        self.duration_s = duration_s
        self.lock = threading.Lock()
        self.rows = []
        self.marks = []
        self.begin = None

    def done(self):
        """Whether the time is over."""
        return self.begin is not None and time.monotonic() - self.begin > self.duration_s

    def mark(self):
        """Notes when lines come."""
        # Not by sys.stdin, whose lock a thread that still waits at the end would hold.
        while octets := os.read(0, 4096):
            self.marks += [time.monotonic()] * octets.count(b"\n")

    def client(self):
        """One client."""
        while not self.done():
            start = time.monotonic()
            port, outcome = request(self.path)
            row = (port, start, time.monotonic() - start, outcome)
            with self.lock:
                self.rows.append(row)
                if self.begin is None and len(self.rows) >= 100:
                    self.begin = time.monotonic()
                    http1.say(started=len(self.rows))


def request(path):
    """The client's port, and the board that answered or what went wrong."""
    port = 0
    try:
        with http1.connect() as sock:
            port = sock.getsockname()[1]
            sock.sendall(http1.head(path, Connection="close"))
            response = http1.Reader(sock).response()
    except (OSError, EOFError) as error:
        return port, f"failed: {error!r}"
    if response is None:
        return port, "failed: closed without an answer"
    return port, response.board() if response.status == 200 else f"failed: status {response.status}"


def main():
    path, clients, duration_s, http1.TIMEOUT_S = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    load = Load(path, duration_s)
    threading.Thread(target=load.mark, daemon=True).start()
    threads = [threading.Thread(target=load.client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    marks = [at - load.begin for at in load.marks]
    http1.say(marks=marks, rows=[{"port": port, "at_s": start - load.begin, "took_s": took, "outcome": outcome}
                                 for port, start, took, outcome in load.rows])


if __name__ == "__main__":
    main()
