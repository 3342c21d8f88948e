#!/usr/bin/python3
"""Connections that are opened, kept and closed one by one.

    several.py ADDRESS PORT

Does what each line says, and says what came of it: `open` opens a connection and asks for /1k on it; `again` asks on the oldest one;
`close` closes the oldest one (FIN), `abort` resets it (RST). The outcome is the answer's status, or the name of what went wrong.
"""

import socket
import struct
import sys

import http1


def connect(address, port):
    """A connection, and who reads from it."""
    sock = socket.create_connection((address, port), timeout=http1.TIMEOUT_S)
    return sock, http1.Reader(sock)


def ask(sock, reader):
    """The status that a request gets."""
    sock.sendall(http1.head("/1k"))
    response = reader.response()
    return response.status if response else "closed"


def act(what, connections, address, port):
    """Does it; what came of it."""
    if what == "open":
        connection = connect(address, port)
        status = ask(*connection)
        connections.append(connection)
        return status
    if what == "again":
        return ask(*connections[0])
    sock, _ = connections.pop(0)
    if what == "abort":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    return what


def main(address, port):
    """One line after the other."""
    connections = []
    for line in sys.stdin:
        try:
            outcome = act(line.strip(), connections, address, port)
        except OSError as error:
            outcome = type(error).__name__
        http1.say(outcome=outcome, connections=len(connections))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
