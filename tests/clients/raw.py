#!/usr/bin/python3
"""Sends octets as they are, each argument (hexadecimal) on a connection of its own; prints what came back as one JSON line.

    raw.py 474554...             status, board, path as nginx read it, and whether the connection ended, for each
"""

import sys

import http1


def answer(octets):
    """What comes back for these octets."""
    sock = http1.connect()
    sock.sendall(octets)
    reader = http1.Reader(sock)
    response = reader.response()
    told = {"status": response.status, "board": response.board(), "uri": response.headers.get("x-uri"),
            "location": response.headers.get("location"), "body": response.body.decode("latin-1")}
    if response.board() is None:
        told["ended"] = reader.at_end()
    sock.close()
    return told


if __name__ == "__main__":
    http1.say(answers=[answer(bytes.fromhex(text)) for text in sys.argv[1:]])
