"""Names for the crawler's tests: with FAKE_DNS set to a JSON file {host: [answer, ...]}, hosts
resolve to its answers in turn (the last one for ever), and no other name resolves.
"""

import json
import os
import pathlib
import socket

if "FAKE_DNS" in os.environ:
    _real = socket.getaddrinfo
    _asked = {}

    def _fake(host, *arguments, **keywords):
        table = json.loads(pathlib.Path(os.environ["FAKE_DNS"]).read_text())
        name = host.decode() if isinstance(host, bytes) else host
        if name in table:
            turn = _asked.get(name, 0)
            _asked[name] = turn + 1
            answers = table[name]
            return _real(answers[min(turn, len(answers) - 1)], *arguments, **keywords)
        if name.replace(".", "").replace(":", "").isalnum() and name[-1:].isdigit():
            return _real(host, *arguments, **keywords)  # a literal address
        raise socket.gaierror(socket.EAI_NONAME, "no such name in this test")

    socket.getaddrinfo = _fake
