"""Keys: who may ask for what, and how much of it.

A key is `sk-ID-SECRET`. The secret is 256 bits drawn at random and shown once; what is kept is its
SHA-256, which a slow hash would not make safer, for nobody can try 2^256 of them.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import Engine

from gpt2lab.errors import UserError
from gpt2lab.serving.metering import Budget
from gpt2lab.serving.tables import KEYS

SCOPES = ("completions", "tokenize", "detect", "analyze", "metrics", "admin")
PUBLIC = "public"
_KEY = re.compile("sk-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
_UNKNOWN = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Limits:
    """What a key may do. Numbers that are None have no end."""

    tier: str = "default"
    """What the bundle is called, for people."""
    stages: tuple[str, ...] = (PUBLIC,)
    """Of which stages of release models may be asked for."""
    scopes: tuple[str, ...] = ("completions", "tokenize", "detect", "analyze")
    """What may be asked of them."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    """Requests at once."""
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise UserError(f"no scope {scope!r}; there are {', '.join(SCOPES)}")
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, int) and not 0 < value < 2**62:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {value}; it must be 1 or above, or left out")

    @property
    def budget(self) -> Budget:
        """Of tokens."""
        return Budget(self.tokens_per_day, self.tokens_per_month)

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> Self:
        """What was kept as JSON."""
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        return cls(**told)


@dataclass(frozen=True)
class Account:
    """A key without its secret."""

    id: str
    name: str
    limits: Limits
    created: float
    expires: float | None = None
    revoked: float | None = None
    _digest: str = field(default="", repr=False)

    def state(self, now: float | None = None) -> str:
        """Whether it is active, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        now = time.time() if now is None else now
        return "expired" if self.expires is not None and self.expires <= now else "active"


class Accounts:
    """The keys of a database."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def create(self, name: str, limits: Limits, expires: float | None = None) -> tuple[str, str]:
        """A new key: its id, and the whole of it, which is kept nowhere.

        expires: seconds since 1970. Raises UserError for a name that is none, or a time gone by.
        """
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise UserError(
                f"a key's name must be 1 to 200 printable characters, not {name[:50]!r}"
            )
        now = time.time()
        if expires is not None and expires <= now:
            raise UserError("the key would have expired already; give a later time")
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with self._database.begin() as connection:
            connection.execute(
                KEYS.insert().values(
                    id=number, name=name, digest=_digest(secret), limits=asdict(limits),
                    created=now, expires=expires,
                )
            )  # fmt: skip
        return number, f"sk-{number}-{secret}"

    def find(self, key: str) -> Account | None:
        """The account of a whole key, expired or revoked ones too; None if there is none."""
        parts = _KEY.fullmatch(key)
        if parts is None:
            return None
        number, secret = parts.groups()
        found = self.get(number)
        # As much is compared where there is no such id, so that time does not tell which there are.
        same = hmac.compare_digest(_digest(secret), found._digest if found else _UNKNOWN)
        return found if same else None

    def get(self, number: str) -> Account | None:
        """An account by its id."""
        found = self._select(KEYS.c.id == number)
        return found[0] if found else None

    def all(self) -> list[Account]:
        """Every account, the oldest first."""
        return self._select(sa.true())

    def revoke(self, number: str) -> None:
        """End a key for good; UserError if there is none of that id, or it has been."""
        with self._database.begin() as connection:
            which = sa.and_(KEYS.c.id == number, KEYS.c.revoked.is_(None))
            ended = connection.execute(KEYS.update().where(which).values(revoked=time.time()))
        if not ended.rowcount:
            raise UserError(f"there is no key {number!r} to be revoked; see: gpt2lab keys list")

    def _select(self, which: sa.ColumnElement[bool]) -> list[Account]:
        wanted = sa.select(KEYS).where(which).order_by(KEYS.c.created)
        with self._database.connect() as connection:
            return [
                Account(
                    row.id, row.name, Limits.of_table(row.limits), row.created, row.expires,
                    row.revoked, row.digest,
                )
                for row in connection.execute(wanted)
            ]  # fmt: skip


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
