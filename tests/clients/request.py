#!/usr/bin/python3
"""Requests sent in unusual ways; prints what came back as one JSON line.

    request.py one-byte          every octet of a GET in a packet of its own
    request.py long-head         a head of 9 KB in 40 segments
    request.py pipelined         five requests in one write
    request.py half-close        FIN right after the request, then the answer is read
    request.py half-close-later  a request, its answer, a second request with FIN, answered 400 ms later
    request.py server-closes     a request whose answer the server ends with FIN
    request.py client-closes     a request, its answer, FIN
    request.py client-resets     a request, then RST
    request.py reused-port       a connection that board 1 closes, then one of the same port to board 2; after a line, again
    request.py no-request        handshake and FIN, as a health check does it
    request.py garbage           octets that are no HTTP
    request.py endless           a head that never ends, within bounds
    request.py slow              a head of one octet a second
    request.py too-long          a head of more than 16 KB
    request.py cookie            a head with a cookie of 16 KB
    request.py headers           a head of 100 headers of 8 KB each
    request.py cut               half a head, then FIN
"""

import errno
import hashlib
import select
import socket
import struct
import sys
import time

import http1


def result(sock, response, **more):
    """Says what came back."""
    http1.say(port=sock.getsockname()[1], status=response.status, board=response.board(), octets=len(response.body),
              sha256=hashlib.sha256(response.body).hexdigest(), **more)


def one_byte():
    sock = http1.connect()
    sent = 0
    for octet in http1.head("/a/100k"):
        sock.sendall(bytes([octet]))
        sent += 1
        time.sleep(0.002)  # without it the kernel would join octets that wait for room
    result(sock, http1.Reader(sock).response(), segments=sent)


def long_head():
    sock = http1.connect()
    request = http1.head("/b/100k", **{f"X_Filler_{n}": "f" * 190 for n in range(44)})
    step = -(-len(request) // 40)
    segments = 0
    for at in range(0, len(request), step):
        sock.sendall(request[at:at + step])
        segments += 1
        time.sleep(0.002)
    result(sock, http1.Reader(sock).response(), segments=segments, head=len(request))


def pipelined():
    sock = http1.connect()
    paths = ["/1k", "/100k", "/1k", "/a/1k", "/100k"]
    sock.sendall(b"".join(http1.head(path) for path in paths))
    reader = http1.Reader(sock)
    answers = [reader.response() for _ in paths]
    http1.say(statuses=[a.status for a in answers], octets=[len(a.body) for a in answers],
              boards=[a.board() for a in answers])


def half_close():
    # nginx drops an answer that does not fit into its socket's buffer once the client has closed its half: a small one.
    sock = http1.connect()
    sock.sendall(http1.head("/1k"))
    sock.shutdown(socket.SHUT_WR)
    reader = http1.Reader(sock)
    response = reader.response()
    result(sock, response, ended=reader.at_end())


def half_close_later():
    sock = http1.connect()
    reader = http1.Reader(sock)
    sock.sendall(http1.head("/1k"))
    first = reader.response()
    begin = time.monotonic()
    sock.sendall(http1.head("/app/slow?ms=400", Connection="close"))
    sock.shutdown(socket.SHUT_WR)
    response = reader.response()
    result(sock, response, ended=reader.at_end(), first=first.status, seconds=time.monotonic() - begin)


def server_closes():
    sock = http1.connect()
    sock.sendall(http1.head("/close/100k"))
    reader = http1.Reader(sock)
    response = reader.response()
    result(sock, response, ended=reader.at_end(), connection=response.headers.get("connection"))


def client_closes():
    sock = http1.connect()
    sock.sendall(http1.head("/1k"))
    response = http1.Reader(sock).response()
    result(sock, response)
    sock.close()


def client_resets():
    sock = http1.connect()
    sock.sendall(http1.head("/1k"))
    response = http1.Reader(sock).response()
    result(sock, response)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def connect_again(port):
    """A connection from a port whose last one may still wait for the ACK of its FIN: until then the kernel refuses."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return http1.connect(port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def reused_port():
    port = 20123  # below those that the kernel gives to other clients
    first = http1.connect(port)
    first.sendall(http1.head("/a/1k", Connection="close"))
    reader = http1.Reader(first)
    before = reader.response()
    reader.at_end()
    first.close()
    second = connect_again(port)
    reader = http1.Reader(second)
    second.sendall(http1.head("/b/1k"))
    result(second, reader.response(), before=before.board())
    http1.heard()
    second.sendall(http1.head("/1k"))
    result(second, reader.response())


def no_request():
    sock = http1.connect()
    sock.shutdown(socket.SHUT_WR)
    begin = time.monotonic()
    ended = http1.Reader(sock).at_end()
    http1.say(ended=ended, seconds=time.monotonic() - begin)


def answered(octets, then_fin=False):
    """What the appliance itself answers to these octets."""
    sock = http1.connect()
    begin = time.monotonic()
    sock.sendall(octets)
    if then_fin:
        sock.shutdown(socket.SHUT_WR)
    reader = http1.Reader(sock)
    response = reader.response()
    result(sock, response, ended=reader.at_end(), seconds=time.monotonic() - begin)


def slow():
    sock = http1.connect()
    begin = time.monotonic()
    for octet in http1.head("/a/1k"):
        sock.sendall(bytes([octet]))
        if select.select([sock], [], [], 1.0)[0]:
            break
    reader = http1.Reader(sock)
    response = reader.response()
    result(sock, response, ended=reader.at_end(), seconds=time.monotonic() - begin)


MODES = {
    "slow": slow,
    "cookie": lambda: answered(http1.head("/a/1k", Cookie="c" * 16384)[:16384]),
    "headers": lambda: answered(http1.head("/a/1k", **{f"X-{n}": "f" * 8192 for n in range(100)})[:16384]),
    "one-byte": one_byte,
    "long-head": long_head,
    "pipelined": pipelined,
    "half-close": half_close,
    "half-close-later": half_close_later,
    "server-closes": server_closes,
    "client-closes": client_closes,
    "client-resets": client_resets,
    "reused-port": reused_port,
    "no-request": no_request,
    "garbage": lambda: answered(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all\r\n\r\n"),
    "endless": lambda: answered(b"GET / HTTP/1.1\r\nHost: lab\r\nX-Never: ends"),
    "too-long": lambda: answered(b"GET / HTTP/1.1\r\nX-Long: " + b"f" * 17000 + b"\r\n\r\n"),
    "cut": lambda: answered(b"GET / HTTP/1.1\r\nHost: l", then_fin=True),
}

if __name__ == "__main__":
    MODES[sys.argv[1]]()
