#!/usr/bin/python3
"""An application that keeps its sessions in its own memory, as many do; run on each board.

    sessions.py PORT BOARD

GET or POST /login makes a session and sets its cookie `sid`. GET of anything else answers 200 to a session that this board knows
and 404 to one that it does not, with the number of requests that the session has had. Every answer says the board (X-Board).
"""

import http.server
import secrets
import sys

SESSIONS_MAX = 100_000


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; the sessions are the server's."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Makes a session, or looks for the client's."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sessions = self.server.sessions
        if self.path.partition("?")[0] == "/login":
            if len(sessions) >= SESSIONS_MAX:
                sessions.clear()
            session = secrets.token_urlsafe(24)
            sessions[session] = 0
            self._answer(200, "0", session)
            return
        session = self._cookie("sid")
        if session not in sessions:
            self._answer(404, "no such session")
            return
        sessions[session] += 1
        self._answer(200, str(sessions[session]))

    do_POST = do_GET

    def _cookie(self, name):
        for pair in self.headers.get("Cookie", "").split(";"):
            known, _, value = pair.strip().partition("=")
            if known == name:
                return value
        return None

    def _answer(self, status, text, session=None):
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("X-Board", self.server.board)
        if session is not None:
            self.send_header("Set-Cookie", f"sid={session}; Path=/; HttpOnly")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    """A thread for each connection, and a long queue."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, port, board):
        super().__init__(("0.0.0.0", port), Handler)
        self.board = board
        self.sessions = {}


if __name__ == "__main__":
    Server(int(sys.argv[1]), sys.argv[2]).serve_forever()
