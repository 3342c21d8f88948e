#!/usr/bin/python3
"""TLS clients that no library would be; run in the client's namespace.

    hello.py ADDRESS PORT NAME cut PIECE PAUSE_MS PROTOCOLS
    hello.py ADDRESS PORT NAME records FRAGMENT
    hello.py ADDRESS PORT - raw HEX

`cut` has the system's TLS library make a ClientHello that offers PROTOCOLS protocols, and sends it PIECE octets at a time; `records` spreads it
over records of FRAGMENT octets. Both finish the handshake and request `/`. `raw` sends these octets and nothing else. Each says what
came back, and of a hello how many octets it had.
"""

import json
import socket
import ssl
import sys
import time

PATIENCE_S = 15.0


def context(protocols):
    """A client's context that offers so many protocols, http/1.1 among them."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols([f"padding-{n:05}" for n in range(protocols - 1)] + ["http/1.1"])
    return made


def spread(octets, fragment):
    """The handshake message of one record, over records of so many octets."""
    message = octets[5:]
    parts = [message[at:at + fragment] for at in range(0, len(message), fragment)]
    return b"".join(octets[:3] + len(part).to_bytes(2, "big") + part for part in parts)


def converse(connection, name, protocols, send_hello):
    """Handshake and request; the hello's length, its records included, and the answer's head."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(protocols).wrap_bio(incoming, outgoing, server_hostname=name)
    hello = None

    def until(step):
        nonlocal hello
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            octets = outgoing.read()
            if octets and hello is None:
                hello = send_hello(octets)
            elif octets:
                connection.sendall(octets)
            if done is not None:
                return done
            received = connection.recv(65536)
            if not received:
                raise ConnectionError("the server closed")
            incoming.write(received)

    until(lambda: tls.do_handshake() or True)
    until(lambda: tls.write(b"GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"))
    answer = until(lambda: tls.read(65536)).decode("ascii", "replace")
    head = dict(line.split(": ", 1) for line in answer.split("\r\n\r\n")[0].split("\r\n")[1:])
    return hello, tls.version(), head


def main(address, port, name, how, *arguments):
    """Runs one of the three."""
    with socket.create_connection((address, port), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if how == "raw":
            connection.sendall(bytes.fromhex(arguments[0]))
            heard = b""
            try:
                while received := connection.recv(65536):
                    heard += received
                end = "fin"
            except OSError as error:
                end = type(error).__name__
            print(json.dumps({"heard": heard.hex(), "end": end}), flush=True)
            return

        def send(octets):
            if how == "records":
                octets = spread(octets, int(arguments[0]))
                connection.sendall(octets)
                return len(octets)
            piece, pause_ms = int(arguments[0]), int(arguments[1])
            for at in range(0, len(octets), piece):
                connection.sendall(octets[at:at + piece])
                time.sleep(pause_ms / 1000)
            return len(octets)

        protocols = int(arguments[2]) if how == "cut" else 1
        hello, version, head = converse(connection, name, protocols, send)
        print(json.dumps({"hello": hello, "version": version, "head": head}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
