#!/usr/bin/python3
"""A transfer at a limited rate that says when it is a quarter done, and its SHA-256 at the end.

    transfer.py download PATH OCTETS_PER_SECOND [PORT]
    transfer.py upload OCTETS OCTETS_PER_SECOND [PORT]
"""

import hashlib
import json
import socket
import sys
import time

import http1

CHUNK_OCTETS = 32768


class Pace:
    """Keeps the rate, and says once that a quarter is done."""

    def __init__(self, total, rate):
        self.total = total
        self.rate = rate
        self.done = 0
        self.said = False
        self.board = None
        self.begin = time.monotonic()

    def count(self, octets):
        self.done += octets
        if not self.said and self.done * 4 >= self.total:
            self.said = True
            http1.say(quarter=True, octets=self.done, board=self.board)
        ahead_s = self.begin + self.done / self.rate - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)


def download(path, rate):
    sock = socket.socket()
    # A small window keeps the transfer in the network instead of in this socket's buffer.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(60)
    sock.connect(http1.SERVICE)
    sock.sendall(http1.head(path, Connection="close"))
    octets = b""
    while b"\r\n\r\n" not in octets:
        octets += sock.recv(1)
    fields = [line.split(": ", 1) for line in octets.decode("latin-1").split("\r\n")[1:] if line]
    total = next(int(value) for name, value in fields if name.lower() == "content-length")
    digest = hashlib.sha256()
    pace = Pace(total, rate)
    pace.board = next(value for name, value in fields if name.lower() == "x-board")
    while True:
        part = sock.recv(CHUNK_OCTETS)
        if not part:
            break
        digest.update(part)
        pace.count(len(part))
    http1.say(octets=pace.done, sha256=digest.hexdigest(), seconds=time.monotonic() - pace.begin)


def upload(total, rate):
    content = hashlib.shake_256(b"upload").digest(total)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sock.settimeout(60)
    sock.connect(http1.SERVICE)
    sock.sendall(http1.head("/app/upload", "POST", Content_Length=total, Connection="close"))
    pace = Pace(total, rate)
    for at in range(0, total, CHUNK_OCTETS):
        part = content[at:at + CHUNK_OCTETS]
        sock.sendall(part)
        pace.count(len(part))
    response = http1.Reader(sock).response()
    answer = json.loads(response.body) if response.status == 200 else {}
    http1.say(status=response.status, sent=hashlib.sha256(content).hexdigest(), octets=answer.get("octets"),
              sha256=answer.get("sha256"), seconds=time.monotonic() - pace.begin)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        http1.SERVICE = (http1.SERVICE[0], int(sys.argv[4]))
    if sys.argv[1] == "download":
        download(sys.argv[2], float(sys.argv[3]))
    else:
        upload(int(sys.argv[2]), float(sys.argv[3]))
