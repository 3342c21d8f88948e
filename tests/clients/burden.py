#!/usr/bin/python3
"""Many listening sockets and many connections in one board; run in the board's namespace.

    burden.py LISTENERS CONNECTIONS PROCESSES

Opens LISTENERS listening sockets on the loopback, which belong to so many PROCESSES, and CONNECTIONS connections. Says
so, and keeps all of it until a line comes.
"""

import os
import signal
import socket
import sys
import time

import http1

# Descriptors that a process may have without asking anybody: both ends of a connection take two.
CONNECTIONS_PER_PROCESS = 400


def listeners(count):
    """Listening sockets, each on a port that the kernel chooses."""
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def connections(count):
    """Established connections, both ends of each."""
    made = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(count):
            client = socket.create_connection(server.getsockname())
            made += [client, server.accept()[0]]
    return made


def in_child(make, count):
    """A process that has made something and keeps it until it is killed, or its parent has gone; its id."""
    ready, told = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        kept = make(count)
        os.write(told, b"+")
        while kept and os.getppid() == parent:
            time.sleep(1)
        os._exit(0)
    os.close(told)
    try:
        if os.read(ready, 1) != b"+":
            raise RuntimeError(f"{make.__name__}: the process could not make {count}")
    finally:
        os.close(ready)
    return child


def main():
    count, crowd, processes = (int(word) for word in sys.argv[1:])
    children = [in_child(listeners, count // processes) for _ in range(processes)]
    children += [in_child(connections, CONNECTIONS_PER_PROCESS) for _ in range(crowd // CONNECTIONS_PER_PROCESS)]
    http1.say(connections=crowd // CONNECTIONS_PER_PROCESS * CONNECTIONS_PER_PROCESS, listeners=count)
    http1.heard()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    http1.say(ended=True)


if __name__ == "__main__":
    main()
