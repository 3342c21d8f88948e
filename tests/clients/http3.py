#!/usr/bin/python3
"""A client of HTTP/3 that changes its address while a response is on its way, with aioquic.

    http3.py ADDRESS PORT CERTIFICATE PATH CHANGES [ANOTHER_ADDRESS | slowly]

Fetches PATH on one connection. Each time that a part of the response has come, it goes on from a new socket: another port, and
at last another address if one is given. Says the status, the board, the body's octets and SHA-256, the addresses that it had, and the
board that answers one more request at the end. With `slowly` it says when the connection is there, and waits for a line before it asks.
"""

import asyncio
import hashlib
import json
import sys

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated

PATIENCE_S = 60
SERVER_NAME = "a.example"


class Response:
    """What has come of a response."""

    def __init__(self, part):
        self.headers, self.octets, self.sha256 = {}, 0, hashlib.sha256()
        self.part, self.parts = part, asyncio.Queue()
        self.ended = asyncio.get_running_loop().create_future()

    def takes(self, data):
        """More of its body."""
        before = self.octets // self.part
        self.octets += len(data)
        self.sha256.update(data)
        if self.octets // self.part > before:
            self.parts.put_nowait(self.octets)


class Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http, self.responses = H3Connection(self._quic), {}

    def get(self, authority, path, part):
        """Sends a request; its response comes by and by."""
        stream = self._quic.get_next_available_stream_id()
        response = self.responses[stream] = Response(part)
        self.http.send_headers(stream, [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", authority.encode()),
                                        (b":path", path.encode())], end_stream=True)
        self.transmit()
        return response

    def poke(self):
        """Sends what has to be acknowledged, as a client that hears nothing does (RFC 9000, section 10.1.2): a server that has not proven a new
        address yet may send three times what came from there, and an acknowledgement that is lost comes from nobody else."""
        self._quic.send_ping(id(self))
        self.transmit()

    def quic_event_received(self, event):
        """Takes what comes."""
        if isinstance(event, ConnectionTerminated):
            for response in self.responses.values():
                if not response.ended.done():
                    response.ended.set_exception(OSError(f"closed: {event.error_code} {event.reason_phrase}"))
        for event in self.http.handle_event(event):
            response = self.responses.get(event.stream_id) if hasattr(event, "stream_id") else None
            if response is None:
                continue
            if isinstance(event, HeadersReceived):
                response.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, DataReceived):
                response.takes(event.data)
            if getattr(event, "stream_ended", False) and not response.ended.done():
                response.ended.set_result(None)


async def fetch(address, port, certificate, path, changes, another):
    """The whole of it."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=SERVER_NAME)
    configuration.load_verify_locations(certificate)
    loop, addresses, old = asyncio.get_running_loop(), [], []

    async def from_new_socket(client, host):
        transport, _ = await loop.create_datagram_endpoint(lambda: client, local_addr=(host, 0))
        addresses.append("%s:%d" % transport.get_extra_info("sockname")[:2])
        old.append(transport)

    client = Client(QuicConnection(configuration=configuration))
    await from_new_socket(client, "0.0.0.0")
    client.connect((address, int(port)))
    await client.wait_connected()
    if another == "slowly":
        await client.ping()
        print(json.dumps({"begun": True}), flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
    response = client.get(SERVER_NAME, path, 1 << 20)
    for change in range(changes):
        await response.parts.get()
        last = change + 1 == changes
        await from_new_socket(client, another if another and last else "0.0.0.0")
        client.transmit()
    await response.ended
    after = client.get(SERVER_NAME, "/1k", 1 << 20)
    await after.ended
    print(json.dumps({"status": response.headers.get(":status"), "board": response.headers.get("x-board"),
                      "octets": response.octets, "sha256": response.sha256.hexdigest(), "addresses": addresses,
                      "board_after": after.headers.get("x-board"), "octets_after": after.octets}), flush=True)
    client.close()


if __name__ == "__main__":
    arguments = sys.argv[1:5]
    another = sys.argv[6] if len(sys.argv) > 6 else None
    asyncio.run(asyncio.wait_for(fetch(*arguments, int(sys.argv[5]), another), PATIENCE_S))
