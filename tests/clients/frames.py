#!/usr/bin/python3
"""Random and mutated frames into one of the appliance's ports; run in the switch's namespace.

    frames.py PLUG MAC COUNT SEED ETHERTYPE BOARD_MAC

PLUG is the switch's side of the port's cable, MAC the port's address. A quarter of the frames are random octets; the
rest are valid frames of every kind with octets changed, cut or appended, half of them with their checksums mended, so
that they get past the first check. The same seed sends the same frames.
"""

import random
import socket
import struct
import sys
import time

import http1

BURST = 64
PAUSE_S = 0.001

CLIENT = socket.inet_aton("203.0.113.10")
SERVICE = socket.inet_aton("198.51.100.1")
BOARD = socket.inet_aton("192.0.2.11")
APPLIANCE = socket.inet_aton("192.0.2.2")


def checksum(octets):
    """RFC 1071."""
    if len(octets) % 2:
        octets += b"\0"
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol, payload, source=CLIENT, destination=SERVICE, flags=0x4000):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, flags, 64, protocol, 0, source, destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def tcp(rng, flags, options=b"", payload=b""):
    head = struct.pack("!HHIIBBHHH", rng.randrange(1024, 65536), 80, rng.getrandbits(32), rng.getrandbits(32),
                       (5 + len(options) // 4) << 4, flags, 64240, 0, 0) + options + payload
    return ipv4(6, mend_tcp(head, CLIENT, SERVICE))


def mend_tcp(segment, source, destination):
    """A TCP segment with its checksum right."""
    zeroed = segment[:16] + b"\0\0" + segment[18:]
    pseudo = source + destination + struct.pack("!BBH", 0, 6, len(segment))
    return zeroed[:16] + struct.pack("!H", checksum(pseudo + zeroed)) + zeroed[18:]


SYN_OPTIONS = bytes.fromhex("020405b4" "0402" "080a0000000100000000" "01" "030307")


def ipos(rng, kind, body, protocol=1):
    """An ipOS message about a random flow; `mend` computes its checksum."""
    return CLIENT + struct.pack("!H", rng.randrange(1024, 65536)) + SERVICE + struct.pack("!HBBH", 80, kind, protocol, 0) + body


def client_frames(rng):
    """(EtherType, payload) of every kind that clients and routers send."""
    request = b"GET /%d HTTP/1.1\r\nHost: lab\r\n\r\n" % rng.getrandbits(16)
    unreachable = struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + tcp(rng, 0x10)[:28]
    return [
        (0x0806, bytes.fromhex("0001080006040001") + rng.randbytes(6) + CLIENT + bytes(6) + APPLIANCE),
        (0x0800, tcp(rng, 0x02, SYN_OPTIONS)),
        (0x0800, tcp(rng, 0x10)),
        (0x0800, tcp(rng, 0x18, payload=request)),
        (0x0800, tcp(rng, 0x11)),
        (0x0800, tcp(rng, 0x04)),
        (0x0800, tcp(rng, 0x03)),
        (0x0800, ipv4(1, b"\x08\0" + struct.pack("!H", checksum(b"\x08\0\0\0\0\1\0\1")) + b"\0\1\0\1")),
        (0x0800, ipv4(1, unreachable[:2] + struct.pack("!H", checksum(unreachable)) + unreachable[4:])),
        (0x0800, ipv4(17, struct.pack("!HHHH", 53, 53, 12, 0) + b"ipos")),
        (0x0800, ipv4(6, b"fragment" * 8, flags=0x2000)),
        (0x8100, struct.pack("!HH", 5, 0x0800) + tcp(rng, 0x02, SYN_OPTIONS)),
        (0x86DD, rng.randbytes(60)),
    ]


def board_frames(rng, ethertype):
    """(EtherType, payload) of every kind that boards send, and of those that they never send."""
    trailer = rng.randbytes(8) + bytes(16)
    block = bytes([1, 4]) + rng.randbytes(138)
    messages = [
        ipos(rng, 0x01, BOARD + struct.pack("!H", 80) + block),
        ipos(rng, 0x02, tcp(rng, 0x10)),
        ipos(rng, 0x03, b""),
        ipos(rng, 0x03, trailer),
        ipos(rng, 0x04, bytes([rng.randrange(12), 0, 0, 0]) + trailer),
        ipos(rng, 0x05, bytes(4) + rng.randbytes(8) + trailer),
        ipos(rng, 0x06, bytes([rng.randrange(5), 0, 0, 0]) + rng.randbytes(8) + trailer),
        ipos(rng, 0x07, bytes([rng.randrange(5), 0, 0, 0]) + trailer),
        ipos(rng, 0x08, trailer),
        ipos(rng, 0x09, bytes([rng.randrange(4), 0, 0, 0]) + trailer),
        BOARD + b"\0\0" + APPLIANCE + bytes([0, 0, 0x10, 0, 0, 0]) + bytes([1]) + rng.randbytes(79),
        BOARD + b"\0\0" + APPLIANCE + bytes([0, 0, 0x11, 0, 0, 0]) + bytes([1, 0, 1, 1]) + rng.randbytes(60),
        ipos(rng, rng.randrange(0x20, 0x100), rng.randbytes(40)),
    ]
    return [(ethertype, message) for message in messages]


def mutate(rng, octets):
    """A few octets changed, and sometimes the end cut off or something appended."""
    changed = bytearray(octets)
    for _ in range(rng.randrange(0, 6)):
        changed[rng.randrange(len(changed))] = rng.choice((0, 0xFF, rng.randrange(256)))
    shape = rng.randrange(6)
    if shape == 0:
        del changed[rng.randrange(len(changed)):]
    elif shape == 1:
        changed += rng.randbytes(rng.randrange(1, 200))
    return bytes(changed)


def mend(ethertype, ipos_ethertype, octets):
    """The same with the outer checksums right, as far as its lengths allow."""
    if ethertype == 0x0800 and len(octets) >= 40 and octets[0] == 0x45:
        header = octets[:10] + b"\0\0" + octets[12:20]
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        total = struct.unpack("!H", octets[2:4])[0]
        payload = octets[20:total] if 40 <= total <= len(octets) else octets[20:]
        if octets[9] == 6 and len(payload) >= 20:
            payload = mend_tcp(payload, octets[12:16], octets[16:20])
        return header + payload
    if ethertype == ipos_ethertype and len(octets) >= 16:
        zeroed = octets[:14] + b"\0\0" + octets[16:]
        covered = {0x01: 162, 0x02: 16}.get(octets[12], len(zeroed))
        return zeroed[:14] + struct.pack("!H", checksum(zeroed[:covered])) + zeroed[16:]
    return octets


def frame(rng, mac, board_mac, ethertype):
    """One frame."""
    source = rng.choice((board_mac, board_mac, bytes.fromhex("020000000002"), b"\x02" + rng.randbytes(5)))
    destination = mac if rng.randrange(10) else rng.choice((b"\xff" * 6, rng.randbytes(6)))
    if rng.randrange(4) == 0:
        kind = rng.choice((0x0800, 0x0806, ethertype, rng.getrandbits(16)))
        return destination + source + struct.pack("!H", kind) + rng.randbytes(rng.randrange(0, 1487))
    kind, payload = rng.choice(client_frames(rng) + board_frames(rng, ethertype))
    payload = mutate(rng, payload)
    if rng.randrange(2):
        payload = mend(kind, ethertype, payload)
    return (destination + source + struct.pack("!H", kind) + payload)[:1514]


def main():
    plug, mac, count, seed, ethertype, board_mac = sys.argv[1:]
    mac, board_mac = (bytes.fromhex(text.replace(":", "")) for text in (mac, board_mac))
    rng = random.Random(int(seed))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((plug, 0))
    octets = 0
    for number in range(int(count)):
        one = frame(rng, mac, board_mac, int(ethertype, 0))
        octets += sock.send(one)
        if number % BURST == BURST - 1:
            time.sleep(PAUSE_S)
    http1.say(sent=int(count), octets=octets)


if __name__ == "__main__":
    main()
