"""What keys have used: reserved before a request is taken, and put right when it ends.

The most that a request can cost is reserved in one transaction, which fails if that would be more
than the key's budget of the day or the month; so however many requests and servers there are,
no budget is overspent. When the request ends the difference is given back. Each of the two is a
row of the ledger. A server that is gone cannot give back what it had reserved: another one does,
once it has not been seen for a while, and the request has cost nothing.
"""

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite

from gpt2lab.serving.tables import LEDGER, RESERVATIONS, SERVERS, USAGE

# Seconds without a sign after which a server counts as gone; it gives one every tenth of that.
GONE = 60.0


@dataclass(frozen=True)
class Budget:
    """Tokens that a key may use; None is without end."""

    day: int | None = None
    month: int | None = None


class OverBudgetError(Exception):
    """A request could cost more than is left."""

    def __init__(self, period: str, budget: int, asked: int) -> None:
        self.period, self.budget, self.asked = period, budget, asked
        super().__init__(f"{asked} tokens are more than is left of {budget} a {period}")


class Meter:
    """The ledger as one server writes it."""

    def __init__(self, database: Engine) -> None:
        self._database = database
        self.server = uuid.uuid4().hex
        self.tick()

    def reserve(self, key: str, budget: Budget, request: str, model: str, tokens: int) -> None:
        """Set aside the most that a request can cost; OverBudgetError if that is not left."""
        now = time.time()
        day = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
        month = day[:7]
        with self._database.begin() as connection:
            for period, most, name in ((day, budget.day, "day"), (month, budget.month, "month")):
                if not _add(connection, key, period, tokens, most):
                    raise OverBudgetError(name, most or 0, tokens)
            connection.execute(
                RESERVATIONS.insert().values(
                    request=request, key=key, server=self.server, day=day, month=month,
                    model=model, tokens=tokens, at=now,
                )
            )  # fmt: skip
            _write(connection, key, request, "reserve", model, day, tokens, 0, 0, now)

    def settle(self, request: str, read: int, written: int) -> None:
        """A request ended: it has cost so many tokens. Once only; a second time changes nothing."""
        with self._database.begin() as connection:
            gone = RESERVATIONS.delete().where(RESERVATIONS.c.request == request)
            for row in connection.execute(gone.returning(*RESERVATIONS.c)):
                _close(connection, row._mapping, "settle", read, written)

    def tick(self) -> None:
        """Give a sign, and give back what servers had reserved that are gone."""
        now = time.time()
        with self._database.begin() as connection:
            sign = _insert(connection, SERVERS).values(id=self.server, seen=now)
            connection.execute(
                sign.on_conflict_do_update(index_elements=["id"], set_={"seen": now})
            )
            connection.execute(SERVERS.delete().where(SERVERS.c.seen < now - GONE))
        self._void(RESERVATIONS.c.server.not_in(sa.select(SERVERS.c.id)))

    def leave(self) -> None:
        """Say that this server is gone; what it has still reserved is given back."""
        with self._database.begin() as connection:
            connection.execute(SERVERS.delete().where(SERVERS.c.id == self.server))
        self._void(RESERVATIONS.c.server == self.server)

    def _void(self, which: sa.ColumnElement[bool]) -> None:
        with self._database.connect() as connection:
            some = list(connection.execute(sa.select(RESERVATIONS.c.request).where(which)))
        for (request,) in some:
            # Each by itself: transactions that hold several keys' rows could wait for each other.
            with self._database.begin() as connection:
                gone = RESERVATIONS.delete().where(RESERVATIONS.c.request == request, which)
                for row in connection.execute(gone.returning(*RESERVATIONS.c)):
                    _close(connection, row._mapping, "void", 0, 0)

    def used(self, key: str) -> dict[str, int]:
        """Tokens by day and month, reservations included."""
        wanted = sa.select(USAGE.c.period, USAGE.c.tokens).where(USAGE.c.key == key)
        with self._database.connect() as connection:
            return {str(period): int(tokens) for period, tokens in connection.execute(wanted)}


def _insert(connection: Connection, table: sa.Table) -> Any:
    """An insertion that may meet what is there: both databases have it, in dialects of theirs."""
    made = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return made(table)


def _add(connection: Connection, key: str, period: str, tokens: int, most: int | None) -> bool:
    """Add to what a key has used in a period, unless that is more than it may."""
    empty = _insert(connection, USAGE).values(key=key, period=period, tokens=0)
    connection.execute(empty.on_conflict_do_nothing())
    more = USAGE.update().where(USAGE.c.key == key, USAGE.c.period == period)
    if most is not None:
        more = more.where(USAGE.c.tokens + tokens <= most)
    return connection.execute(more.values(tokens=USAGE.c.tokens + tokens)).rowcount == 1


def _close(connection: Connection, row: sa.RowMapping, kind: str, read: int, written: int) -> None:
    """Put a reservation right, in the day and the month that it was made in."""
    difference = read + written - row["tokens"]
    for period in (row["day"], row["month"]):
        _add(connection, row["key"], period, difference, None)
    _write(
        connection, row["key"], row["request"], kind, row["model"], row["day"], difference, read,
        written, time.time(),
    )  # fmt: skip


def _write(
    connection: Connection, key: str, request: str, kind: str, model: str, day: str, tokens: int,
    read: int, written: int, at: float,
) -> None:  # fmt: skip
    connection.execute(
        LEDGER.insert().values(
            key=key, request=request, kind=kind, model=model, day=day, tokens=tokens, read=read,
            written=written, at=at,
        )
    )  # fmt: skip
