#!/usr/bin/python3
"""A server that does nothing but burn CPU, in a child of its own; run in a board's namespace.

    burn.py PORT

Listens, starts a child that computes without end, says both process ids, and ends with it when a line comes.
"""

import os
import signal
import socket
import sys

import http1


def main():
    with socket.create_server(("0.0.0.0", int(sys.argv[1]))):
        child = os.fork()
        if child == 0:
            while True:
                pass
        http1.say(pid=os.getpid(), child=child)
        # Nothing to hear is an end too.
        sys.stdin.readline()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
