#!/usr/bin/python3
"""Traffic of every kind at once, until told to stop; run in the client's namespace.

    soak.py SEED

One JSON line for each operation, as `soak_connection.py` describes it. On standard input: `time` is answered by this program's clock,
`stop` lets every session end, after which `done` is said. Who closes the input stops it as well.
"""

import functools
import hashlib
import json
import os
import random
import ssl
import subprocess
import sys
import threading

from soak_connection import Connection, Wrong, clock, draw_port, say
from soak_datagrams import datagrams, flow
from soak_moves import Moving
from soak_sessions import ENCODED, INSERTED, LEARNED, sessions
from soak_speech import banner, http2, websocket

FILES = "/run/ipos-lab/files"
CERTIFICATE = "/run/ipos-lab/services/certificate.pem"
PYTHON = "/usr/local/lib/ipos-lab/bin/python3"
"""With aioquic; `make setup` makes it."""
CONTENT = {}
HTTP, HTTPS, L4 = 80, 443, 84
ALL = [1, 2, 3]
PATIENCE_S = 30.0
RATE_OCTETS_S = 1_500_000

stop = threading.Event()


def request(connection, rng, prefix="", close=False, file=None, paced=False):
    """GET of a file or of a part of it: every octet is compared."""
    name = file or rng.choice(["1k", "100k", "10m", "10m"])
    content = CONTENT[name]
    first, last = 0, len(content) - 1
    fields = {"Connection": "close"} if close else {}
    if file is None and name != "1k":
        length = min(len(content), int(2 ** rng.uniform(0, 18)))
        first = rng.randrange(len(content) - length + 1)
        last = first + length - 1
        fields["Range"] = f"bytes={first}-{last}"
    head = connection.ask(f"{prefix}/{name}", fields)
    connection.expect(head, 206 if "Range" in fields else 200)
    if int(head.get("content-length", -1)) != last - first + 1:
        raise Wrong(f"Content-Length {head.get('content-length')} for octets {first} to {last}")
    connection.body(content[first:last + 1], RATE_OCTETS_S if paced else None)


def upload(connection, rng, prefix=""):
    """POST of random octets: the application says what came."""
    content = rng.randbytes(int(2 ** rng.uniform(0, 20)))
    head = connection.ask(f"{prefix}/app/upload", {"Content-Length": len(content)}, "POST", content)
    connection.expect(head, 200)
    answer = json.loads(connection.take(int(head["content-length"])))
    if (answer["octets"], answer["sha256"]) != (len(content), hashlib.sha256(content).hexdigest()):
        raise Wrong(f"{len(content)} octets were sent, the server has {answer}")
    connection.operation.row["octets"] += len(content)


def pause(rng):
    """Between two requests: mostly short, now and then longer than an idle connection is left alone."""
    stop.wait(rng.uniform(0.0, 0.3) if rng.random() < 0.9 else rng.uniform(1.0, 20.0))


def short(rng):
    """A connection for one request."""
    prefix, boards = rng.choice([("", ALL), ("", ALL), ("/a", [1]), ("/b", [2])])
    with Connection("http-short", HTTP, boards, PATIENCE_S) as connection:
        connection.do(lambda: request(connection, rng, prefix, close=True))


def kept(rng):
    """A connection for many requests."""
    prefix, boards = rng.choice([("", ALL), ("/a", [1]), ("/b", [2])])
    with Connection("http-kept", HTTP, boards, PATIENCE_S) as connection:
        for _ in range(rng.randrange(2, 30)):
            if stop.is_set() or not connection.do(lambda: request(connection, rng, prefix)):
                return
            pause(rng)


def long(rng):
    """10 MB, taken slowly."""
    kind, port = rng.choice([("http-long", HTTP), ("l4-long", L4)])
    with Connection(kind, port, ALL, PATIENCE_S) as connection:
        connection.do(lambda: request(connection, rng, close=True, file="10m", paced=True))


def uploads(rng):
    """A few uploads on one connection."""
    with Connection("upload", HTTP, ALL, PATIENCE_S) as connection:
        for _ in range(rng.randrange(1, 5)):
            if stop.is_set() or not connection.do(lambda: upload(connection, rng)):
                return
            stop.wait(rng.uniform(0.0, 0.5))


def to_and_fro(rng):
    """A connection that moves between boards with its requests."""
    with Moving(HTTP, ALL, PATIENCE_S) as connection:
        for _ in range(rng.randrange(2, 60)):
            row, board = rng.choice([("/a", 1), ("/b", 2), ("/a", 1), ("/b", 2), ("", None)])
            whole = "10m" if rng.random() < 0.02 else None
            send = upload if rng.random() < 0.3 else functools.partial(request, file=whole)
            if stop.is_set() or not connection.to(board, lambda send=send, row=row: send(connection, rng, row)):
                return
            # Mostly at once, as a browser that reads a page.
            if rng.random() < 0.2:
                pause(rng)


def layer4(rng):
    """A forwarded connection for some requests."""
    with Connection("l4", L4, ALL, PATIENCE_S) as connection:
        for _ in range(rng.randrange(1, 10)):
            if stop.is_set() or not connection.do(lambda: request(connection, rng)):
                return
            stop.wait(rng.uniform(0.0, 0.5))


def tls(rng):
    """HTTPS by name, in both versions."""
    name, boards = rng.choice([("a.example", [1]), ("x.b.example", [2])])
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.set_alpn_protocols(["http/1.1"])
    context.maximum_version = rng.choice([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    with Connection("tls", HTTPS, boards, PATIENCE_S, context, name) as connection:
        for _ in range(rng.randrange(1, 8)):
            if stop.is_set() or not connection.do(lambda: request(connection, rng)):
                return
            pause(rng)


def of_cookie(kind):
    """Sessions of one kind."""
    return lambda rng: sessions(kind, ALL, PATIENCE_S, CONTENT["1k"], rng, stop)


def messages(rng):
    """A WebSocket for a while."""
    with Connection("websocket", 8091, ALL, PATIENCE_S) as connection:
        websocket(connection, rng, stop)


def banners(rng):
    """A server that speaks first."""
    with Connection("tcp", 2222, ALL, PATIENCE_S) as connection:
        banner(connection, rng, stop)
    stop.wait(0.3)


def streams(rng):
    """HTTP/2 in the clear."""
    with Connection("h2c", 8090, [2], PATIENCE_S) as connection:
        connection.do(lambda: http2(connection, rng, CONTENT))


SESSIONS = [(short, 3), (kept, 3), (long, 1), (uploads, 1), (to_and_fro, 3), (layer4, 2), (tls, 2), (messages, 2), (banners, 1), (streams, 1),
            (of_cookie(LEARNED), 2), (of_cookie(ENCODED), 2), (of_cookie(INSERTED), 2), (lambda rng: flow(rng, stop), 1), (lambda rng: datagrams(rng, stop), 1)]


def client(session, seed):
    """One client: sessions, one after the other."""
    rng = random.Random(seed)
    while not stop.is_set():
        try:
            session(rng)
        except Exception as error:  # it would be missed by nobody
            say({"mistake": f"{session}: {error!r}"})
        stop.wait(rng.uniform(0.0, 0.3))


def main(seed):
    """All clients at once."""
    for name in ("1k", "100k", "10m"):
        with open(f"{FILES}/{name}", "rb") as file:
            CONTENT[name] = file.read()
    draw_port.begin(seed)
    sessions = [session for session, clients in SESSIONS for _ in range(clients)]
    clients = [threading.Thread(target=client, args=(session, seed * 1000 + n)) for n, session in enumerate(sessions)]
    for each in clients:
        each.start()
    http3 = subprocess.Popen([PYTHON, "-B", os.path.join(os.path.dirname(__file__), "soak_quic.py"), str(seed)], stdin=subprocess.PIPE)
    for line in sys.stdin:
        if line.strip() == "time":
            say({"now": clock()})
        elif line.strip() == "stop":
            break
    stop.set()
    http3.stdin.close()
    if http3.wait() != 0:
        say({"mistake": f"the clients of HTTP/3 ended with {http3.returncode}"})
    for each in clients:
        each.join()
    say({"done": True})


if __name__ == "__main__":
    main(int(sys.argv[1]))
