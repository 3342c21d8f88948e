#!/usr/bin/python3
"""Many clients with a cookie jar each, and every request on a connection of its own; run in the client's namespace.

    jars.py PORT CLIENTS PATH LOGIN ADDRESS...

Reads lines: each is a number of requests that every client makes, one after the other; an empty line ends it. A client whose jar
is empty requests LOGIN first, where that is not "-". A 307 is followed once, and a 404 is answered with a login. The request after a login comes from the
login's address, as a client's would; all others come from the ADDRESSes in turn, as if their clients moved.

After each line it says how many requests were answered 200, by board; how many clients were at another board than before
("moved"), how many 307 came ("given") and how many 404 ("strange"); and what went wrong.
"""

import asyncio
import collections
import json
import sys

SERVICE = "198.51.100.1"
TIMEOUT_S = 20.0
AT_ONCE = 32


class Client:
    """A jar, and what a client has seen."""

    def __init__(self, number, load):
        self.load = load
        self.number = number
        self.turn = number
        self.jar = {}
        self.board = None
        self.stays = False

    def _source(self):
        """Where the next request comes from."""
        if not self.stays:
            self.turn += 1
        self.stays = False
        return self.load.addresses[self.turn % len(self.load.addresses)]

    async def _exchange(self, path):
        """One request; the status."""
        lines = [f"GET {path} HTTP/1.1", "Host: lab", f"User-Agent: client/{self.number}", "Connection: close"]
        if self.jar:
            lines.append("Cookie: theme=dark; " + "; ".join(f"{name}={value}" for name, value in self.jar.items()))
        reader, writer = await asyncio.open_connection(SERVICE, self.load.port, local_addr=(self._source(), 0))
        try:
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            answer = await reader.read()
            while part := await reader.read():
                answer += part
        finally:
            writer.close()
        head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        fields = collections.defaultdict(list)
        for line in head[1:]:
            name, _, value = line.partition(":")
            fields[name.lower()].append(value.strip())
        for cookie in fields["set-cookie"]:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.jar[name] = value
        status = int(head[0].split()[1])
        if status == 200:
            self._served(fields["x-board"][0])
        elif status == 307 and fields["location"] != [path]:
            raise OSError(f"redirected to {fields['location']}")
        return status

    def _served(self, board):
        self.load.boards[board] += 1
        self.load.moved += self.board not in (None, board)
        self.board = board

    async def _login(self):
        self.jar.clear()
        status = await self._exchange(self.load.login)
        if status != 200:
            raise OSError(f"a login was answered {status}")
        self.stays = True

    async def request(self):
        """One request that is answered in the end."""
        if not self.jar and self.load.login != "-":
            await self._login()
        status = await self._exchange(self.load.path)
        if status == 307:
            self.load.given += 1
            status = await self._exchange(self.load.path)
        elif status == 404 and self.load.login != "-":
            self.load.strange += 1
            await self._login()
            return
        if status != 200:
            raise OSError(f"answered {status}")


class Load:
    """All clients, and what came of a round."""

    def __init__(self, port, count, path, login, addresses):
        self.port, self.path, self.login, self.addresses = port, path, login, addresses
        self.clients = [Client(number, self) for number in range(count)]
        self._clear()

    def _clear(self):
        self.boards = collections.Counter()
        self.moved = self.given = self.strange = 0
        self.failures = []

    async def round(self, requests):
        """Every client makes so many requests."""
        self._clear()
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(client):
            async with gate:
                try:
                    for _ in range(requests):
                        await asyncio.wait_for(client.request(), TIMEOUT_S)
                except (OSError, asyncio.TimeoutError, IndexError, ValueError) as error:
                    self.failures.append(f"client {client.number}: {error!r}")

        await asyncio.gather(*map(one, self.clients))
        print(json.dumps({"boards": self.boards, "moved": self.moved, "given": self.given, "strange": self.strange,
                          "clients": collections.Counter(client.board for client in self.clients),
                          "failures": self.failures[:5]}), flush=True)


def main(port, count, path, login, *addresses):
    """Rounds, as they are asked for."""
    load = Load(int(port), int(count), path, login, addresses)
    for line in sys.stdin:
        if not line.strip():
            break
        asyncio.run(load.round(int(line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
