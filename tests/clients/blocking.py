#!/usr/bin/python3
"""An upload that reads nothing before all of it is sent; prints the answer.

    blocking.py PATH OCTETS
"""

import sys

import http1


def main(path, octets):
    """One request."""
    sock = http1.connect()
    sock.sendall(http1.head(path, "POST", Content_Length=octets) + bytes(octets))
    reader = http1.Reader(sock)
    response = reader.response()
    http1.say(status=response.status, board=response.board(), body=response.body.decode("latin-1"), ended=reader.at_end())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
