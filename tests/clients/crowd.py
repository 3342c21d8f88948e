#!/usr/bin/python3
"""Many connections that exist at once.

    crowd.py COUNT PATH [REUSE]

Opens COUNT connections, then sends one request on each, reads all answers and says so, with the connections' ports. With
REUSE it waits for a line, sends another request on every connection, and says what came back.
"""

import collections
import sys

import http1


def ask(connections, path):
    """One request on each connection, all sent before the first answer is read; returns what went wrong, and boards."""
    failures = []
    boards = collections.Counter()
    for sock, _ in connections:
        try:
            sock.sendall(http1.head(path))
        except OSError as error:
            failures.append(f"send: {error}")
    for sock, reader in connections:
        try:
            response = reader.response()
            if response is None:
                failures.append("closed without an answer")
            elif response.status != 200:
                failures.append(f"status {response.status}")
            else:
                boards[response.board()] += 1
        except (OSError, EOFError) as error:
            failures.append(f"port {sock.getsockname()[1]}: {error!r}")
    return failures, boards


def main():
    count, path = int(sys.argv[1]), sys.argv[2]
    connections = []
    failures = []
    for _ in range(count):
        try:
            sock = http1.connect()
            connections.append((sock, http1.Reader(sock)))
        except OSError as error:
            failures.append(f"connect: {error}")
    more, boards = ask(connections, path)
    http1.say(connections=len(connections), failures=failures + more, boards=boards,
              ports=[sock.getsockname()[1] for sock, _ in connections])
    if len(sys.argv) > 3:
        http1.heard()
        failures, boards = ask(connections, path)
        http1.say(connections=len(connections), failures=failures, boards=boards)


if __name__ == "__main__":
    main()
