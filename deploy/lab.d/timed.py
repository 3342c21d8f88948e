#!/usr/bin/python3
"""A server that takes a fixed time for each request, one at a time: a board of a known speed that burns no CPU.

    timed.py MILLISECONDS PORT...

Who comes meanwhile waits in the accept queue. Every answer ends its connection.
"""

import select
import socket
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
HEAD_MAX_OCTETS = 16384
PATIENCE_S = 5.0
"""How long a client may take for its request: it has the server for itself meanwhile."""

BACKLOG = 4096


def serve(connection, seconds):
    """Reads the head of a request, and answers when its time has passed."""
    until = time.monotonic() + seconds
    with connection:
        connection.settimeout(PATIENCE_S)
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(HEAD_MAX_OCTETS)
            head += part
            if not part or len(head) > HEAD_MAX_OCTETS:
                return
        left = until - time.monotonic()
        if left > 0:
            time.sleep(left)
        connection.sendall(ANSWER)


def main(seconds, ports):
    """Serves for ever, in the order in which clients came."""
    listeners = {}
    poll = select.poll()
    for port in ports:
        listener = socket.create_server(("0.0.0.0", port), backlog=BACKLOG)
        listener.setblocking(False)
        listeners[listener.fileno()] = listener
        poll.register(listener, select.POLLIN)
    while True:
        for number, _ in poll.poll():
            try:
                connection, _ = listeners[number].accept()
                serve(connection, seconds)
            except OSError as error:  # the client went away, or was too slow
                print(f"timed.py: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) / 1000, [int(port) for port in sys.argv[2:]])
