#!/usr/bin/python3
"""Reports that cannot be, in a board's name; run in the switch's namespace.

    absurd.py PLUG MAC ETHERTYPE BOARD BOARD_MAC REPEATS

Sends every kind of nonsense that docs/wire.md names ("What a report cannot say") REPEATS times, and says how many
reports that were.
"""

import socket
import struct
import sys

import frames
import http1

APPLIANCE = socket.inet_aton("192.0.2.2")
# Later than any report of the board itself, so that none of these is stale.
EPOCH = 0xFFFFFFFF


def message(board, kind, body):
    """A report with its checksum right."""
    head = board + b"\0\0" + APPLIANCE + struct.pack("!HBBH", 0, kind, 0, 0)
    whole = head + body + bytes(16)
    return whole[:14] + struct.pack("!H", frames.checksum(whole)) + whole[16:]


def state(board, **changed):
    """0x10 of a board that would draw every connection, but for what is changed."""
    field = dict(flags=2, interval=100, sequence=1, cores=64, cpu=0, cpu_pressure=0, connections=0, memory=1 << 40,
                 free=1 << 40, link=10**11, bandwidth=10**11, endpoints=0, memory_pressure=0) | changed
    return message(board, 0x10, struct.pack(
        "!BBHIIHHHHIQQQQIHH", 1, field["flags"], field["interval"], EPOCH, field["sequence"], 0xF, field["cores"],
        field["cpu"], field["cpu_pressure"], field["connections"], field["memory"], field["free"], field["link"],
        field["bandwidth"], field["endpoints"], field["memory_pressure"], 0))


def listed(board, kind, *rows):
    """0x11 or 0x12 in one part."""
    return message(board, kind, struct.pack("!BBBBIII", 1, 0, 1, len(rows), EPOCH, 1, 0) + b"".join(rows))


def listener(address="0.0.0.0", port=80, flags=0, queue=0, limit=511, pid=7, name=b"nginx"):
    """A row of 0x11."""
    return struct.pack("!4sHHIII12s", socket.inet_aton(address), port, flags, queue, limit, pid, name)


def application(pid=7, processes=1, interval=1000, memory=1 << 20, cpu=1):
    """A row of 0x12."""
    return struct.pack("!IHHQI12s", pid, processes, interval, memory, cpu, b"nginx")


def nonsense(board):
    """Each report that cannot be."""
    states = [dict(sequence=0), dict(interval=0), dict(interval=60_001), dict(cores=0), dict(cpu=10_001),
              dict(cpu_pressure=10_001), dict(memory_pressure=10_001), dict(connections=(1 << 30) + 1),
              dict(endpoints=(1 << 30) + 1), dict(memory=0, free=0), dict(free=(1 << 40) + 1),
              dict(bandwidth=10**11 + 1), dict(link=0)]
    sockets = [dict(port=0), dict(address="224.0.0.1"), dict(address="255.255.255.255"),
               dict(address="127.0.0.1", flags=1), dict(pid=0), dict(pid=1 << 22), dict(queue=(1 << 30) + 1),
               dict(limit=1 << 31)]
    applications = [dict(pid=0), dict(pid=1 << 22), dict(processes=0), dict(interval=0), dict(cpu=1 << 31),
                    dict(memory=1 << 60)]
    return ([state(board, **it) for it in states]
            + [listed(board, 0x11, listener(port=81), listener(**it)) for it in sockets]
            + [listed(board, 0x12, application(pid=8), application(**it)) for it in applications]
            + [listed(board, 0x12, application(), application())])


def main():
    plug, mac, ethertype, board, board_mac, repeats = sys.argv[1:]
    mac, board_mac = (bytes.fromhex(text.replace(":", "")) for text in (mac, board_mac))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((plug, 0))
    reports = nonsense(socket.inet_aton(board)) * int(repeats)
    for report in reports:
        sock.send(mac + board_mac + struct.pack("!H", int(ethertype, 0)) + report)
    http1.say(sent=len(reports))


if __name__ == "__main__":
    main()
