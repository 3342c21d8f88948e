"""Keeps one connection: asks for /1k, says its own port and the board that answered, and closes when told to go on."""

import json
import sys

import http1

with http1.connect() as sock:
    sock.sendall(http1.head("/1k"))
    response = http1.Reader(sock).response()
    print(json.dumps({"port": sock.getsockname()[1], "status": response.status, "board": response.board()}), flush=True)
    sys.stdin.readline()
