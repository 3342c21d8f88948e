#!/usr/bin/python3
"""HTTP/3 of the soak's: connections that change their address while a response is on its way, until the input ends.

    soak_quic.py SEED

Run with the Python that has aioquic, by soak.py; says lines as soak_connection.py describes them. A connection's `port` is its first.
"""

import asyncio
import functools
import hashlib
import random
import sys

from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from http3 import SERVER_NAME, Client
from soak_connection import CLIENT, OTHER, SERVICE, Operation, Wrong, say

FILES = "/run/ipos-lab/files"
CERTIFICATE = "/run/ipos-lab/services/certificate.pem"
KIND, PORT, BOARDS = "udp-http3", 443, [1, 2]
PATIENCE_S = 60.0
SILENCE_S = 2.0
PART_OCTETS = 16384
CONNECTIONS = 2

CONTENT = {}


class Connection:
    """One connection of QUIC, from whatever address."""

    def __init__(self, rng):
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=SERVER_NAME)
        configuration.load_verify_locations(CERTIFICATE)
        self.client = Client(QuicConnection(configuration=configuration))
        self.rng, self.transports, self.addresses, self.board = rng, [], [], None
        self.name, self.response = None, None

    async def from_new_socket(self):
        """Goes on from another port, and perhaps from another address."""
        host = self.rng.choice([CLIENT, OTHER])
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self.client, local_addr=(host, 0))
        self.transports.append(transport)
        self.addresses.append("%s:%d" % transport.get_extra_info("sockname")[:2])

    async def connect(self):
        """Up to the handshake's end."""
        await self.from_new_socket()
        self.client.connect((SERVICE, PORT))
        await self.client.wait_connected()

    async def hear(self, operation, *futures):
        """Waits for the first of these; whenever none has come for a while, asks whether the server is there."""
        while not (await asyncio.wait(futures, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED))[0]:
            operation.row["tries"] += 1
            self.client.poke()

    async def fetch(self, name, changes, operation):
        """GET of a file, from a new socket with each part that has come."""
        response = self.client.get(SERVER_NAME, f"/{name}", PART_OCTETS)
        self.name, self.response = name, response
        for _ in range(changes):
            part = asyncio.ensure_future(response.parts.get())
            await self.hear(operation, part, response.ended)
            part.cancel()
            await self.from_new_socket()
            self.client.transmit()
        await self.hear(operation, response.ended)
        await response.ended
        head = response.headers
        board = int(head.get("x-board", "board0").removeprefix("board"))
        if head.get(":status") != "200" or board not in BOARDS or self.board not in (None, board):
            raise Wrong(f"{head}; it was board {self.board} before")
        self.board = board
        if response.sha256.digest() != CONTENT[name]:
            raise Wrong(f"{response.octets} octets of {name} are others")
        if head.get("x-client") not in self.addresses:
            raise Wrong(f"the server sees {head.get('x-client')}, its addresses are {self.addresses}")
        operation.row["octets"] += response.octets

    def came(self):
        """What has come of the last response."""
        octets = self.response.octets if self.response else 0
        return f"{octets} octets of {self.name} came, from {self.addresses}"

    def close(self):
        """The end of it."""
        self.client.close()
        for transport in self.transports:
            transport.close()


async def operate(connection, act):
    """One operation; whether the connection is still good."""
    operation = Operation(KIND, PORT, BOARDS)
    outcome, detail = "right", None
    try:
        await asyncio.wait_for(act(operation), PATIENCE_S)
    except Wrong as error:
        outcome, detail = "wrong", str(error)
    except (OSError, asyncio.TimeoutError) as error:
        outcome, detail = "lost", f"{error!r}, {connection.came()}"
    except Exception as error:  # whatever a server's octets do to this program is wrong
        outcome, detail = "wrong", repr(error)
    operation.row["board"] = connection.board
    if connection.addresses:
        operation.row["port"] = int(connection.addresses[0].rpartition(":")[2])
    operation.end(outcome, detail)
    return outcome == "right"


async def session(rng, stop):
    """A connection for some requests."""
    connection = Connection(rng)
    try:
        if not await operate(connection, lambda _: connection.connect()):
            return
        for _ in range(rng.randrange(1, 12)):
            name = rng.choice(["1k", "100k", "100k"]) if rng.random() < 0.95 else "10m"
            fetch = functools.partial(connection.fetch, name, rng.choice([0, 0, 1, 2]))
            if stop.is_set() or not await operate(connection, fetch):
                return
            await pause(stop, rng.uniform(0.0, 0.5) if rng.random() < 0.9 else rng.uniform(1.0, 10.0))
    finally:
        connection.close()


async def pause(stop, seconds):
    """So long, or until the end."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except asyncio.TimeoutError:
        pass


async def one(seed, stop):
    """One client: connections, one after the other."""
    rng = random.Random(seed)
    while not stop.is_set():
        try:
            await session(rng, stop)
        except Exception as error:  # it would be missed by nobody
            say({"mistake": f"http3: {error!r}"})
        await pause(stop, 0.3)


async def main(seed):
    """All clients at once, until the input ends."""
    for name in ("1k", "100k", "10m"):
        with open(f"{FILES}/{name}", "rb") as file:
            CONTENT[name] = hashlib.sha256(file.read()).digest()
    stop = asyncio.Event()
    clients = [asyncio.ensure_future(one(seed * 1000 + n, stop)) for n in range(CONNECTIONS)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    stop.set()
    await asyncio.gather(*clients)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
