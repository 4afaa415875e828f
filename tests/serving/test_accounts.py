"""Keys: shown once, kept as digests, found, ended."""

import time

import pytest

from gpt2lab import UserError
from gpt2lab.serving.accounts import Accounts, Limits
from gpt2lab.serving.metering import Budget
from gpt2lab.serving.tables import open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def accounts(tmp_path, request):
    if request.param == "sqlite":
        where = str(tmp_path / "accounts.sqlite")
    else:
        where = request.getfixturevalue("postgresql")()
    database = open_database(where)
    yield Accounts(database)
    database.dispose()


def test_a_key_is_found_whole_and_in_no_other_way(accounts):
    limits = Limits("lab", ("public", "research"), ("completions",), 10, 1000, 2, 5000, 9000)
    number, key = accounts.create("a lab", limits)
    found = accounts.find(key)
    assert (found.id, found.name, found.limits, found.state()) == (
        number,
        "a lab",
        limits,
        "active",
    )
    assert found.limits.budget == Budget(5000, 9000)
    assert key.startswith(f"sk-{number}-") and len(key) == 3 + 12 + 1 + 43
    secret = key.rpartition(f"{number}-")[2]
    wrong = ["", "sk", "sk-", number, secret, f"sk-{number}", f"sk-{number}-", f"sk-{number}-x",
             key[:-1], key + "a", key.upper(), f"sk-{'0' * 12}-{secret}", "\ud800", "sk-\ud800-a",
             f" {key}", f"Bearer {key}", f"sk-%-{secret}", "sk-\0-a"]  # fmt: skip
    for one in wrong:
        assert accounts.find(one) is None, one
    assert secret not in repr(found) and found._digest not in repr(found)


def test_the_secret_is_kept_nowhere(tmp_path):
    database = open_database(str(tmp_path / "accounts.sqlite"))
    _, key = Accounts(database).create("x", Limits())
    database.dispose()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key[-43:].encode() not in kept


def test_keys_end(accounts):
    number, key = accounts.create("one", Limits())
    _, other = accounts.create("other", Limits(), expires=time.time() + 0.05)
    accounts.revoke(number)
    time.sleep(0.1)
    assert accounts.find(key).state() == "revoked" and accounts.find(other).state() == "expired"
    assert [one.name for one in accounts.all()] == ["one", "other"]
    for gone in (number, "none"):
        with pytest.raises(UserError, match=f"there is no key '{gone}' to be revoked"):
            accounts.revoke(gone)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: Limits(scopes=("fly",)), "no scope 'fly'; there are completions, tokenize"),
        (lambda a: Limits(tokens_per_day=0), "--tokens-per-day is 0; it must be 1 or above"),
        (lambda a: a.create(" ", Limits()), "a key's name must be 1 to 200 printable characters"),
        (lambda a: a.create("a\nb", Limits()), "a key's name must be 1 to 200 printable"),
        (lambda a: a.create("a", Limits(), 5.0), "the key would have expired already"),
    ],
)
def test_what_is_no_key(accounts, make, message):
    with pytest.raises(UserError, match=message):
        make(accounts)
    assert accounts.all() == []
