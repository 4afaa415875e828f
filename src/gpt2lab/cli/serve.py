"""`gpt2lab serve MODEL ...`"""

import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from gpt2lab.errors import UserError

if TYPE_CHECKING:
    from gpt2lab.serving.app import Served


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Offer models over HTTP, in the form of OpenAI's API: /v1/completions and its kin."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, published sizes such as gpt2-xl, or hf:owner/name; each is offered by its
    last name, or as NAME=MODEL."""
    host: str = "127.0.0.1"
    """The address that is listened on: one of this machine's own, which nobody else reaches."""
    port: int = 8000
    """Port; 0 takes a free one."""
    dtype: Literal["float32", "bfloat16", "int8", "int8-weight", "int4"] | None = None
    """Number format of the weights: the checkpoint's own if not given, float32 for float ones."""
    device: str | None = None
    """cpu or cuda; a CUDA card if there is one."""
    slots: int = 16
    """Texts of a model that are decoded together."""
    waiting: int = 256
    """Most requests of a model that wait for a slot."""
    timeout: float = 600
    """Seconds until a request is given up."""
    drain: float = 30
    """Seconds that requests have to end after SIGTERM or ctrl-C."""
    json: bool = False
    """Print the address and the models as one JSON object, once they are read."""


def run(argv: Sequence[str]) -> None:
    """Offer models until a signal comes."""
    command = tyro.cli(Serve, args=argv, prog="gpt2lab serve")
    _require_loopback(command.host)
    if not 0 <= command.port < 2**16:
        raise UserError(f"--port is {command.port}; it must be from 0 to 65535")
    if not command.models:
        raise UserError("no model is named; give a checkpoint folder or a published size")
    try:
        from gpt2lab.progress import console
        from gpt2lab.serving.app import Setup, create
        from gpt2lab.serving.server import Server
    except ImportError as error:
        raise UserError(f"serving needs {error.name}; pip install 'gpt2lab[serve]'") from None
    setup = Setup(
        slots=command.slots, waiting=command.waiting, timeout=command.timeout, drain=command.drain
    )
    with _listening(command) as listening:
        app = create(_served(command), setup)
        host, port = listening.getsockname()[:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = list(app.state.service.models)
        if command.json:
            print(json.dumps({"base_url": f"{where}/v1", "models": names}), flush=True)
        console().print(f"serving {', '.join(names)} on {where}/v1")
        Server(app).run(sockets=[listening])


def _listening(command: Serve) -> socket.socket:
    """Taken before models are read, which can be long."""
    family = socket.AF_INET6 if ":" in command.host else socket.AF_INET
    try:
        return socket.create_server((command.host, command.port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen on {command.host}, port {command.port}: {error.strerror}; choose "
            "another --port"
        ) from None


def _require_loopback(host: str) -> None:
    try:
        fine = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        fine = False
    if not fine:
        raise UserError(
            f"--host is {host}; without keys only this machine may ask: 127.0.0.1, ::1 or localhost"
        )


def _served(command: Serve) -> "dict[str, Served]":
    import gpt2lab
    from gpt2lab.doctor import named_or_best_device
    from gpt2lab.evaluation.store import weights_digest
    from gpt2lab.progress import step
    from gpt2lab.serving.app import Served

    found: dict[str, Served] = {}
    for told in command.models:
        name, equals, source = told.partition("=")
        if not equals:
            name, source = Path(told).name, told
        if name in found:
            raise UserError(f"two models are named {name}; name one as NAME=MODEL")
        with step(f"reading {name}"):
            made = gpt2lab.load(source, command.dtype, named_or_best_device(command.device))
            tokenizer, digest = made.require_tokenizer(source), weights_digest(made.model)
        found[name] = Served(made.model, tokenizer, digest, int(time.time()))
    return found
