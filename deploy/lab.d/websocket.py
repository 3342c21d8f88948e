#!/usr/bin/python3
"""A WebSocket server (RFC 6455) that sends every message back.

    websocket.py PORT BOARD

Says in its handshake which board it is. Messages come in one frame each, of at most a megabyte.
"""

import base64
import hashlib
import socketserver
import struct
import sys

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD_MAX_OCTETS = 16384
MESSAGE_MAX_OCTETS = 1 << 20
OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG = 8, 9, 10


class Echo(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self):
        head = {}
        if not self.rfile.readline(HEAD_MAX_OCTETS).startswith(b"GET "):
            return
        while (line := self.rfile.readline(HEAD_MAX_OCTETS)) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            head[name.strip().lower()] = value.strip()
        key = head.get(b"sec-websocket-key")
        if key is None:
            self.wfile.write(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
            return
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest()).decode("ascii")
        self.wfile.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         f"Sec-WebSocket-Accept: {accept}\r\nX-Board: {self.server.board}\r\n\r\n".encode("ascii"))
        while self.echo():
            pass

    def read(self, count):
        """Exactly so many octets."""
        octets = self.rfile.read(count)
        if len(octets) < count:
            raise ConnectionError("the client went away within a frame")
        return octets

    def echo(self):
        """Answers one frame; False after the last."""
        try:
            first, second = self.read(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(self.read(2 if length == 126 else 8), "big")
            if length > MESSAGE_MAX_OCTETS or not second & 0x80:
                return False
            mask = self.read(4)
            masked = self.read(length)
        except ConnectionError:
            return False
        opcode = first & 0x0F
        whole = (mask * (length // 4 + 1))[:length]
        message = (int.from_bytes(masked, "big") ^ int.from_bytes(whole, "big")).to_bytes(length, "big")
        reply = OPCODE_PONG if opcode == OPCODE_PING else opcode
        size = struct.pack("!BQ", 127, length) if length > 65535 else (
            struct.pack("!BH", 126, length) if length > 125 else bytes([length]))
        self.wfile.write(bytes([0x80 | reply]) + size + message)
        return opcode != OPCODE_CLOSE


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, board):
        self.board = board
        super().__init__(("0.0.0.0", port), Echo)


if __name__ == "__main__":
    Server(int(sys.argv[1]), sys.argv[2]).serve_forever()
