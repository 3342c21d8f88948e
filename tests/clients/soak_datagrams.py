"""DNS queries of the soak's: each is asked again when no answer comes, as resolvers do."""

import socket
import struct
import time

from soak_connection import SERVICE, Operation, draw_port

NAME = b"\x05board\x03lab\x00"
TXT, IN = 16, 1
TRIES = 5
PATIENCE_S = 2.0
REFUSED_S = 0.5
FLOW_PORT, DATAGRAM_PORT = 53, 5353


def answered(sock, number):
    """The text of the answer to a query; None when it does not come in time."""
    try:
        sock.send(struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + NAME + struct.pack("!HH", TXT, IN))
        while True:
            answer = sock.recv(512)
            if answer[:2] == struct.pack("!H", number):
                return answer
    except TimeoutError:
        return None
    except ConnectionError:
        # Whoever says at once that nobody is there is not asked again at once.
        time.sleep(REFUSED_S)
        return None


def query(sock, kind, port, source, rng):
    """One query: whose TXT record it is says which board answered."""
    operation = Operation(kind, port, [1, 2, 3])
    operation.row["port"] = source
    number = rng.randrange(1 << 16)
    for tries in range(1, TRIES + 1):
        operation.row["tries"] = tries
        answer = answered(sock, number)
        if answer is None:
            number = (number + 1) & 0xFFFF
            continue
        at = answer.find(b"\x06board", 12 + len(NAME))
        board = answer[at + 6:at + 7]
        if at < 0 or board not in (b"1", b"2", b"3"):
            return operation.end("wrong", f"an answer of {answer.hex()}")
        operation.row |= {"board": int(board), "octets": len(answer)}
        return operation.end("right")
    return operation.end("lost", f"no answer to {TRIES} queries")


def session(kind, port, queries, rng, stop):
    """Some queries from one port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        source = draw_port.bind(sock)
        sock.connect((SERVICE, port))
        for _ in range(queries):
            if stop.is_set():
                return
            query(sock, kind, port, source, rng)
            stop.wait(rng.uniform(0.0, 0.3) if rng.random() < 0.95 else rng.uniform(1.0, 5.0))


def flow(rng, stop):
    """Queries that follow the first to its board."""
    session("udp-flow", FLOW_PORT, rng.randrange(1, 12), rng, stop)


def datagrams(rng, stop):
    """Queries each for itself."""
    session("udp-datagram", DATAGRAM_PORT, rng.randrange(1, 12), rng, stop)
