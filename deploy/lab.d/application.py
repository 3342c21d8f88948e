#!/usr/bin/python3
"""The application behind a board's nginx: says what it got, and when asked, says it late.

    POST or PUT /app/upload          octets and SHA-256 of the body
    GET /app/slow?ms=MILLISECONDS    an answer after that time
"""

import hashlib
import http.server
import json
import sys
import time
import urllib.parse

CHUNK_OCTETS = 65536


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Reads the body and says what it was."""
        digest = hashlib.sha256()
        octets = 0
        left = int(self.headers.get("Content-Length", 0))
        while left:
            part = self.rfile.read(min(left, CHUNK_OCTETS))
            if not part:
                break
            digest.update(part)
            octets += len(part)
            left -= len(part)
        self._answer(200, {"method": self.command, "octets": octets, "sha256": digest.hexdigest()})

    do_PUT = do_POST

    def do_GET(self):
        """Answers, at once or late."""
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/app/slow":
            delay_ms = int(urllib.parse.parse_qs(url.query).get("ms", ["0"])[0])
            time.sleep(delay_ms / 1000)
            self._answer(200, {"delay_ms": delay_ms})
        else:
            self._answer(404, {"path": url.path})

    def _answer(self, status, content):
        body = (json.dumps(content) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """nginx keeps the log."""


class Server(http.server.ThreadingHTTPServer):
    """A thread per connection, and room for a burst of them."""

    request_queue_size = 512
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
