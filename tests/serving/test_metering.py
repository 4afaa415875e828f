"""The ledger: budgets hold however many ask at once, and the sum is the usage after any crash."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gpt2lab import UserError
from gpt2lab.serving import metering
from gpt2lab.serving.metering import Budget, Meter, OverBudgetError
from gpt2lab.serving.tables import KEYS, LEDGER, METADATA, RESERVATIONS, USAGE, open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def where(tmp_path, request):
    if request.param == "sqlite":
        return str(tmp_path / "accounts.sqlite")
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def database(where):
    made = open_database(where)
    with made.begin() as connection:
        for key in ("a", "b"):
            connection.execute(
                KEYS.insert().values(id=key, name=key, digest="", limits={}, created=0)
            )
    yield made
    made.dispose()


def by_key(connection, column):
    """Sums of the ledger."""
    wanted = sa.select(LEDGER.c.key, sa.func.sum(column)).group_by(LEDGER.c.key)
    return {key: int(total) for key, total in connection.execute(wanted)}


def sums(database):
    """Per key: the ledger's sum, the usage of days, that of months; and what is reserved."""
    with database.connect() as c:
        ledger = dict(
            map(
                tuple,
                c.execute(sa.select(LEDGER.c.key, sa.func.sum(LEDGER.c.tokens)).group_by("key")),
            )
        )
        days, months = {}, {}
        for key, period, tokens in c.execute(sa.select(USAGE)):
            kept = days if len(period) == 10 else months
            kept[key] = kept.get(key, 0) + tokens
        open_ = c.execute(sa.select(sa.func.coalesce(sa.func.sum(RESERVATIONS.c.tokens), 0)))
        return ledger, days, months, open_.scalar()


def test_the_form_is_that_of_the_migrations(database, where):
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    again = open_database(where)
    assert sums(again)[0] == {}


def test_what_was_reserved_is_put_right(database):
    meter = Meter(database)
    meter.reserve("a", Budget(), "r1", "m", 100)
    assert set(meter.used("a").values()) == {100} and len(meter.used("a")) == 2
    meter.settle("r1", 10, 20)
    meter.settle("r1", 10, 20)
    meter.settle("nothing", 10, 20)
    assert set(meter.used("a").values()) == {30} and meter.used("b") == {}
    with database.connect() as connection:
        rows = connection.execute(sa.select(LEDGER.c.kind, LEDGER.c.tokens, LEDGER.c.written))
        assert [tuple(row) for row in rows] == [("reserve", 100, 0), ("settle", -70, 20)]


@pytest.mark.parametrize(
    ("budget", "period"), [(Budget(day=99), "day"), (Budget(month=99), "month")]
)
def test_more_than_is_left_is_refused_and_leaves_no_trace(database, budget, period):
    meter = Meter(database)
    meter.reserve("a", budget, "r1", "m", 60)
    with pytest.raises(OverBudgetError, match=f"40 tokens are more than is left of 99 a {period}"):
        meter.reserve("a", budget, "r2", "m", 40)
    meter.reserve("b", budget, "r3", "m", 40)
    meter.settle("r1", 1, 1)
    meter.reserve("a", budget, "r2", "m", 40)
    assert set(meter.used("a").values()) == {42} and sums(database)[3] == 80


def test_many_at_once_do_not_overspend(database):
    meters, budget = [Meter(database) for _ in range(2)], Budget(day=1000)

    def ask(n):
        try:
            meters[n % 2].reserve("a", budget, f"r{n}", "m", 30)
        except OverBudgetError:
            return 0
        return 30

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(ask, range(100)))
    ledger, days, months, reserved = sums(database)
    assert taken == 990 == ledger["a"] == days["a"] == months["a"] == reserved


def test_a_server_that_is_gone_owes_nothing(database, monkeypatch):
    gone, other = Meter(database), Meter(database)
    gone.reserve("a", Budget(), "r1", "m", 50)
    other.reserve("a", Budget(), "r2", "m", 70)
    other.tick()
    assert set(other.used("a").values()) == {120}
    later = time.time() + metering.GONE + 1
    monkeypatch.setattr(metering.time, "time", lambda: later)
    other.tick()
    assert set(other.used("a").values()) == {70}
    gone.settle("r1", 5, 5)  # it was not gone after all: what was given back stays so
    assert set(other.used("a").values()) == {70}
    other.leave()
    assert set(gone.used("a").values()) == {0} and sums(database)[3] == 0


SERVER = """
import random, sys, uuid
from gpt2lab.serving.metering import Budget, Meter, OverBudgetError
from gpt2lab.serving.tables import open_database
meter, rng = Meter(open_database(sys.argv[1])), random.Random(int(sys.argv[2]))
print("ready", flush=True)
for _ in range(100_000):
    request, tokens = uuid.uuid4().hex, rng.randint(1, 50)
    try:
        meter.reserve(rng.choice("ab"), Budget(day=3000), request, "m", tokens)
    except OverBudgetError:
        continue
    meter.settle(request, rng.randint(0, tokens // 8), 0)
"""


def killed_at_random(where, rounds):
    rng = random.Random(0)
    for n in range(rounds):
        servers = [
            subprocess.Popen([sys.executable, "-c", SERVER, where, str(2 * n + i)],
                             stdout=subprocess.PIPE)
            for i in range(2)
        ]  # fmt: skip
        for server in servers:
            assert server.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.01, 0.3))
        for server in servers:
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            server.stdout.close()
        yield


def test_the_sum_is_the_usage_after_every_crash(database, where, monkeypatch):
    for _ in killed_at_random(where, 6):
        ledger, days, months, _ = sums(database)
        assert ledger == days == months and ledger
        assert max(ledger.values()) <= 3000
    later = time.time() + metering.GONE + 1
    monkeypatch.setattr(metering.time, "time", lambda: later)
    Meter(database)
    ledger, days, months, reserved = sums(database)
    assert ledger == days == months and reserved == 0
    with database.connect() as connection:
        assert by_key(connection, LEDGER.c.read) == ledger


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{tmp}/no/accounts", "no is no folder, so accounts cannot be kept in"),
        ("{tmp}/text", "file is not a database"),
        ("mysql://a/b", "names a database of kind mysql; there are sqlite and postgresql"),
        ("://", "is neither a file nor the URL of a database"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot open the accounts at postgresql"),
    ],
)
def test_what_is_no_database(tmp_path, name, message):
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(UserError, match=message) as caught:
        open_database(name.format(tmp=tmp_path))
    assert "secret" not in str(caught.value)
