"""A small web on loopback addresses, with sites that behave and sites that do not."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = tuple[int, dict[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]
WORDS = """the people of this town have often said that in winter light falls differently on water
and that whoever walks along the river will remember what they once forgot about their own house
and garden while others think of trade and weather"""
ADDRESS, TRAP = "127.0.0.2", "127.0.0.9"
NETWORKS = ("127.0.0.2/32",)


class Web:
    """Serves `pages[host, path]` at ADDRESS; TRAP must never be connected to."""

    def __init__(self, folder: Path) -> None:
        self.pages: dict[tuple[str, str], Answer] = {}
        self.names: dict[str, list[str]] = {}
        self.asked: list[tuple[float, str, str, str]] = []
        self.trapped: list[str] = []
        self.delay = 0.0
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                host = (self.headers["Host"] or "").split(":")[0]
                web.asked.append((time.time(), host, self.path, self.headers["User-Agent"] or ""))
                time.sleep(web.delay)
                answer = web.pages.get((host, self.path), (404, {}, b"not here"))
                try:
                    if callable(answer):
                        answer(self)
                        return
                    status, headers, body = answer
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value.replace("PORT", str(web.port)))
                    if "Content-Length" not in headers:
                        self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_):
                pass

        class Trap(Handler):
            def do_GET(self):
                web.trapped.append(self.path)
                self.send_response(200)
                self.end_headers()

            def handle(self):
                web.trapped.append("connected")

        self._server = ThreadingHTTPServer((ADDRESS, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._trap = ThreadingHTTPServer((TRAP, self.port), Trap)
        for server in (self._server, self._trap):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self._dns = folder / "dns.json"
        self._dns.write_text("{}")

    def page(self, host: str, path: str, body: str | bytes, status: int = 200, **headers: str):
        """Serve a page; header names have _ for -. Returns its URL."""
        data = body.encode() if isinstance(body, str) else body
        named = {"Content-Type": "text/html; charset=utf-8"}
        named |= {n.replace("_", "-"): v for n, v in headers.items()}
        self.pages[host, path] = (status, named, data)
        self.name(host)
        return self.url(host, path)

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"

    def name(self, host: str, *answers: str) -> None:
        """Let a host name resolve, to the answers in turn."""
        if answers or host not in self.names:
            self.names[host] = list(answers or (ADDRESS,))
            self._dns.write_text(json.dumps(self.names))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to see these names."""
        return {
            "FAKE_DNS": str(self._dns),
            "PYTHONPATH": str(Path(__file__).parent / "hooks"),
        }

    def requests(self, host: str | None = None) -> list[str]:
        """Paths asked for, in order."""
        return [path for _, h, path, _ in self.asked if host in (None, h)]

    def close(self) -> None:
        for server in (self._server, self._trap):
            server.shutdown()
            server.server_close()


def article(topic: str, words: int = 220) -> str:
    """A page with a text of its own about `topic`."""
    vocabulary = WORDS.split()
    text, seed = [], sum(map(ord, topic))
    for i in range(words):
        seed = (seed * 1103515245 + 12345 + i) % 2**31
        text.append(vocabulary[seed % len(vocabulary)] if i % 7 else topic)
    body = "".join(
        f"<p>{' '.join(text[i : i + 40]).capitalize()}.</p>" for i in range(0, words, 40)
    )
    return (
        f"<!doctype html><html lang=en><head><title>About {topic}</title></head><body>"
        f"<nav><a href=/>Home</a></nav><article><h1>About {topic}</h1>{body}</article>"
        "<footer>Imprint and contact</footer></body></html>"
    )
