#!/usr/bin/python3
"""An HTTP/3 server of one board, with aioquic: serves files, and says which board it is.

    http3.py ADDRESS PORT BOARD SERVER_ID DIRECTORY CERTIFICATE KEY

Its connection ids carry the board's server id (hexadecimal) in plaintext behind their first octet, as QUIC-LB has it
(draft-ietf-quic-load-balancers), so that whoever stands in front of it knows the board of every packet.
"""

import asyncio
import os
import sys

import aioquic.quic.connection
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

CONNECTION_ID_OCTETS = 12
"""Nothing else that aioquic takes from `os.urandom` is as long."""

CHALLENGE_S = 1.0
"""aioquic knows the last few challenges only: no more often."""


class Random:
    """In place of the module `os` within aioquic, which draws its connection ids there."""

    def __init__(self, server_id):
        self.server_id = server_id

    def __getattr__(self, name):
        return getattr(os, name)

    def urandom(self, octets):
        """Random octets; in a connection id the server id behind the first."""
        random = os.urandom(octets)
        if octets == CONNECTION_ID_OCTETS:
            return random[:1] + self.server_id + random[1 + len(self.server_id):]
        return random


class Server(QuicConnectionProtocol):
    """One connection."""

    board, directory = "", ""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http, self.challenged = None, 0.0

    def datagram_received(self, data, addr):
        """Challenges an address again that has not answered yet.

        aioquic asks each once: when that is lost, it never sends the address more than three times what came from there.
        """
        now = self._loop.time()
        if now - self.challenged >= CHALLENGE_S:
            self.challenged = now
            for path in self._quic._network_paths:
                path.local_challenge_sent = path.is_validated
        super().datagram_received(data, addr)

    def quic_event_received(self, event):
        """Answers requests as they come."""
        if self.http is None:
            self.http = H3Connection(self._quic)
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                self.answer(event.stream_id, dict(event.headers).get(b":path", b"/").decode())

    def answer(self, stream, path):
        """A file of the directory, or 404."""
        try:
            with open(os.path.join(self.directory, os.path.basename(path)), "rb") as file:
                status, body = b"200", file.read()
        except OSError:
            status, body = b"404", b""
        host, port = self._quic._network_paths[0].addr[:2]
        self.http.send_headers(stream, [(b":status", status), (b"x-board", self.board.encode()),
                                        (b"x-client", f"{host}:{port}".encode())])
        self.http.send_data(stream, body, end_stream=True)
        self.transmit()


async def main(address, port, board, server_id, directory, certificate, key):
    """Serves until it is killed."""
    aioquic.quic.connection.os = Random(bytes.fromhex(server_id))
    Server.board, Server.directory = board, directory
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN,
                                      connection_id_length=CONNECTION_ID_OCTETS)
    configuration.load_cert_chain(certificate, key)
    # The very address: of a socket that is bound to none, the kernel sends answers from the board's own.
    await serve(address, int(port), configuration=configuration, create_protocol=Server)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
