"""A connection of the soak's that moves between boards with its requests (`migrate = "request"`)."""

from soak_connection import Connection, Wrong, clock


class Moving(Connection):
    """One TCP connection, at the board that its last request's row names."""

    def __init__(self, endpoint_port, boards, patience_s):
        super().__init__("moves", endpoint_port, boards, patience_s)
        self.all, self.begun = boards, None

    def to(self, board, act):
        """One request for a row of this board's; without one, for a row that names none: it is to stay where it is."""
        if self.begun is None:
            self.begun = clock()
        stays = [self.board] if self.board is not None else self.all
        self.boards = stays if board is None else [board]
        before = self.board

        def whole():
            self.operation.row |= {"before": before, "before_since": self.begun}
            act()

        return self.do(whole)

    def served_by(self, board):
        """The row's board; or, which needs an excuse, the one that has the connection."""
        if board in self.boards:
            return
        if board != self.board:
            raise Wrong(f"board {board} answered; {self.boards} may, and it was {self.board} before")
        self.strayed = f"it stayed at board {board}"
