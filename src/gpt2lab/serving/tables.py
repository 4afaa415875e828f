"""The database of accounts: SQLite in a file by default, PostgreSQL by its URL.

Its form is that of the newest of `migrations/`, which are carried out when it is opened.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gpt2lab.errors import UserError

METADATA = MetaData()
_LOCK = 20190214  # any number, the same in all servers
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up in INTEGER alone

KEYS = Table(
    "keys", METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)  # fmt: skip
# What a key has used in a day or a month, reservations included.
USAGE = Table(
    "usage", METADATA,
    Column("key", ForeignKey("keys.id"), primary_key=True),
    Column("period", String(10), primary_key=True),
    Column("tokens", _NUMBER, nullable=False),
)  # fmt: skip
# Of requests that have not ended.
RESERVATIONS = Table(
    "reservations", METADATA,
    Column("request", String(32), primary_key=True),
    Column("key", ForeignKey("keys.id"), nullable=False),
    Column("server", String(32), nullable=False, index=True),
    Column("day", String(10), nullable=False),
    Column("month", String(7), nullable=False),
    Column("model", String(200), nullable=False),
    Column("tokens", _NUMBER, nullable=False),
    Column("at", Float, nullable=False),
)  # fmt: skip
# Rows are added, and never changed: a key's sum is what it has used, reservations included.
LEDGER = Table(
    "ledger", METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("key", ForeignKey("keys.id"), nullable=False),
    Column("request", String(32), nullable=False, index=True),
    Column("kind", String(10), nullable=False),
    Column("model", String(200), nullable=False),
    Column("day", String(10), nullable=False),
    Column("tokens", _NUMBER, nullable=False),
    Column("read", _NUMBER, nullable=False),
    Column("written", _NUMBER, nullable=False),
    Column("at", Float, nullable=False),
    Index("ledger_by_key", "key", "day"),
)  # fmt: skip
# When each server was last there: reservations of one that is gone are given back.
SERVERS = Table(
    "servers", METADATA,
    Column("id", String(32), primary_key=True),
    Column("seen", Float, nullable=False),
)  # fmt: skip


def open_database(where: str) -> Engine:
    """A database by its URL or, of SQLite, its file; made if it is not there, and up to date.

    Raises:
        UserError: It cannot be reached, or is no database of accounts.
    """
    url = _url(where)
    try:
        engine = create_engine(url, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _as_a_server_would)
            event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # one server at a time; SQLite has no other way
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            config = Config()
            config.set_main_option("script_location", "gpt2lab.serving:migrations")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        reason = str(error).splitlines()[0]
        told = url.render_as_string(hide_password=True)
        raise UserError(f"cannot open the accounts at {told}: {reason}") from None
    return engine


def _url(where: str) -> URL:
    if "://" not in where:
        path = Path(where)
        if not path.parent.is_dir():
            raise UserError(f"{path.parent} is no folder, so accounts cannot be kept in {path}")
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(where)
    except ArgumentError:
        raise UserError("--accounts is neither a file nor the URL of a database") from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise UserError(
            f"--accounts names a database of kind {url.get_backend_name()}; there are "
            "sqlite and postgresql"
        )
    return url


def _as_a_server_would(connection, _) -> None:  # type: ignore[no-untyped-def]
    """Readers beside a writer, waiting instead of failing, and transactions that we begin."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
