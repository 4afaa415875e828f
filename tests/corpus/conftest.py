"""A small web for the tests that crawl."""

import pytest

from web import Web


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Sites on loopback addresses, whose names this process and its children resolve."""
    web = Web(tmp_path)
    for name, value in web.environment.items():
        monkeypatch.setenv(name, value)
    yield web
    web.close()
