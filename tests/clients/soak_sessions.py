"""Sessions of the soak's that stay at their board by a cookie, each request on a connection of its own."""

from soak_connection import CLIENT, OTHER, Connection, Wrong, clock

LEARNED, ENCODED, INSERTED = ("session-learned", 8093), ("session-encoded", 8094), ("session-inserted", 8095)
THEME = "theme=dark; "
PROVEN_S = 10.0


class Session:
    """What a client knows of its session."""

    def __init__(self, name, rng):
        self.name, self.rng = name, rng
        self.clear()

    def clear(self):
        """It has no session any more."""
        self.cookie = self.board = self.since = self.count = self.given = None
        self.is_shown, self.address = False, self.rng.choice([CLIENT, OTHER])

    def take(self, head):
        """Keeps the cookie that an answer sets."""
        name, _, value = head["set-cookie"].partition(";")[0].partition("=")
        if name != self.name or not value:
            raise Wrong(f"a cookie {head['set-cookie']!r}")
        self.cookie = f"{name}={value}"


class Visit(Connection):
    """One request of a session."""

    def __init__(self, kind, boards, patience_s, session):
        super().__init__(*kind, boards, patience_s)
        self.session = session
        # Once its cookie was seen, its client may be anywhere.
        self.address = session.rng.choice([CLIENT, OTHER]) if session.is_shown else session.address

    def served_by(self, board):
        """The session's own board; another one needs an excuse."""
        super().served_by(board)
        if self.session.board not in (None, board):
            self.strayed = f"the session was at board {self.session.board}, board {board} answered"

    def request(self, path):
        """Asks with the session's cookie, if it has one; the head of the answer."""
        fields = {"Connection": "close"}
        if self.session.cookie is not None:
            fields["Cookie"] = THEME + self.session.cookie
        return self.ask(path, fields)

    def visit(self, act):
        """One request, whole; whether the session is as it was."""
        session = self.session

        def whole():
            if session.board is not None:
                self.operation.row |= {"before": session.board, "before_since": session.since, "shown": session.is_shown}
                if session.given is not None:
                    self.operation.row["given"] = session.given
            begin = clock()
            cookie = session.cookie
            had_cookie = cookie is not None
            act()
            session.is_shown = had_cookie
            # Its board was silent and the request served elsewhere: the cookie names that board still.
            if self.strayed is None or session.cookie != cookie:
                session.board, session.since = self.board, begin
            if had_cookie and self.strayed is None and session.given is not None and begin > session.given[0] + PROVEN_S:
                # It names this board: no other would be out for so long without the appliance's knowing.
                session.given = None

        return self.do(whole)

    def text(self, head):
        """A short body."""
        text = self.take(int(head["content-length"]))
        self.operation.row["octets"] += len(text)
        return text

    def learned(self):
        """The application's own cookie: it counts the session's requests, and knows no session of another board."""
        session = self.session
        if session.cookie is None:
            head = self.request("/login")
            self.expect(head, 200)
            session.take(head)
            if self.text(head) != b"0\n":
                raise Wrong("a login is no beginning")
            session.count = 0
            return
        head = self.request("/page")
        if head["status"] == 404:
            self.expect(head, 404)
            if self.strayed is None:
                raise Wrong(f"board {self.board} does not know its own session")
            self.text(head)
            session.cookie = None
            return
        self.expect(head, 200)
        count = int(self.text(head))
        # A request whose answer was lost may have counted.
        if self.strayed is not None or session.count not in (None, count - 1):
            raise Wrong(f"request {count} of the session after {session.count}; {self.strayed}")
        session.count = count

    def encoded(self, content):
        """A cookie that the board sets and that names it."""
        head = self.request("/1k")
        self.expect(head, 200)
        self.body(content)
        if "set-cookie" in head:
            if self.session.cookie is not None and self.strayed is None:
                raise Wrong("its own board sets the cookie anew")
            self.session.take(head)
        elif self.session.cookie is None or self.strayed is not None:
            raise Wrong("no cookie is set")

    def inserted(self, content):
        """A cookie that the appliance gives, with a redirect to the same URL."""
        begin = clock()
        head = self.request("/1k")
        is_given = head["status"] == 307
        if is_given:
            if head.get("location") != f"/1k?soak={self.operation.row['name']}":
                raise Wrong(f"redirected to {head.get('location')}")
            if self.session.cookie is not None:
                self.strayed = "it is given another cookie"
            self.session.take(head)
            self.session.given = None
            self.sock.close()
            self.buffer = b""
            self.open()
            head = self.request("/1k")
        elif self.session.cookie is None:
            raise Wrong("it is given no cookie")
        self.expect(head, 200)
        self.body(content)
        if is_given:
            # The board that it names may have been silent, and another one served the request.
            self.session.given = [begin, clock()]


def sessions(kind, boards, patience_s, content, rng, stop):
    """A session, from its beginning on."""
    session = Session("sid" if kind is LEARNED else "srv", rng)
    for _ in range(rng.randrange(5, 60)):
        if stop.is_set():
            return
        with Visit(kind, boards, patience_s, session) as visit:
            act = visit.learned if kind is LEARNED else lambda visit=visit: (visit.encoded if kind is ENCODED else visit.inserted)(content)
            if not visit.visit(act):
                # Whether it was counted is not known.
                session.count = None
        if session.cookie is None:
            session.clear()
        stop.wait(rng.uniform(0.0, 0.5) if rng.random() < 0.95 else rng.uniform(1.0, 10.0))
