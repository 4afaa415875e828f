"""The service: models over HTTP, in the form of OpenAI's API."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2lab import __version__
from gpt2lab.errors import UserError
from gpt2lab.generation import Generation
from gpt2lab.generation.engine import SLOTS
from gpt2lab.model.transformer import GPT2
from gpt2lab.serving import completions
from gpt2lab.serving.body import read, schema
from gpt2lab.serving.completions import Asked, Told
from gpt2lab.serving.errors import ApiError, overloaded, shown
from gpt2lab.serving.schema import Choice, Completion, CompletionBody, DetokenizeBody, TokenizeBody
from gpt2lab.serving.worker import ClosedError, FullError, Job, Worker
from gpt2lab.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Served:
    """A model as it is offered."""

    model: GPT2
    tokenizer: Tokenizer
    weights: str
    """Digest."""
    created: int
    """Seconds since 1970."""


@dataclass(frozen=True)
class Setup:
    """How the service runs."""

    slots: int = SLOTS
    """Texts of a model that are decoded together."""
    waiting: int = 256
    """Most requests of a model that wait for a slot."""
    timeout: float = 600
    """Seconds until a request is given up."""
    drain: float = 30
    """Seconds that requests have to end when the service stops."""

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("waiting", 0), ("timeout", 0.001), ("drain", 0)):
            value = getattr(self, name)
            if not least <= value <= 1e6:
                raise UserError(f"--{name} is {value}; it must be from {least} to 1,000,000")


class Service:
    """Models with their workers."""

    def __init__(self, models: Mapping[str, Served], setup: Setup) -> None:
        self.models, self.setup = dict(models), setup
        self.workers: dict[str, Worker] = {}

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Workers from the service's beginning to its end, which waits for what runs."""
        for name, served in self.models.items():
            self.workers[name] = Worker(
                served.model, served.tokenizer, slots=self.setup.slots, waiting=self.setup.waiting
            )
        yield
        await self.drain()
        await asyncio.gather(*(w.close() for w in self.workers.values()))

    async def drain(self) -> None:
        """Take no more requests; wait for those there are, and cancel what takes too long."""
        await asyncio.gather(*(w.drain(self.setup.drain) for w in self.workers.values()))

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return bool(self.workers) and all(w.open for w in self.workers.values())

    def served(self, name: str) -> Served:
        """A model; ApiError if there is none of that name."""
        if name not in self.models:
            there = ", ".join(self.models)
            raise ApiError(
                404, "model_not_found", f"there is no model {shown(name)}; there are {there}",
                param="model",
            )  # fmt: skip
        return self.models[name]

    @property
    def first(self) -> Served:
        """The model of requests that name none."""
        return next(iter(self.models.values()))

    def submit(self, name: str, asked: Asked) -> list[Job]:
        """All of a body's requests, or none of them."""
        worker, jobs = self.workers[name], list[Job]()
        try:
            for request in asked.requests:
                jobs.append(worker.submit(request))
        except FullError:
            self.cancel(name, jobs)
            raise overloaded("as many requests wait as may; try again", 1) from None
        except ClosedError:
            raise overloaded("the service is stopping; try another", 5) from None
        return jobs

    def cancel(self, name: str, jobs: Sequence[Job]) -> None:
        """End what is asked for no longer."""
        for job in jobs:
            self.workers[name].cancel(job)


def create(models: Mapping[str, Served], setup: Setup = Setup()) -> FastAPI:
    """The service of some models, by the names they are asked for."""
    service = Service(models, setup)
    app = FastAPI(
        title="gpt2lab", version=__version__, lifespan=service.running, docs_url=None,
        redoc_url=None,
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(Numbered)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(UserError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(Exception, _broken)

    @app.post("/v1/completions", openapi_extra=schema(CompletionBody))
    async def complete(request: Request) -> Response:
        body = await read(request, CompletionBody)
        served = service.served(body.model)
        asked = completions.asked(body, served.tokenizer, served.model.config)
        jobs = service.submit(body.model, asked)
        answer = Completion(
            id=f"cmpl-{uuid.uuid4().hex}", created=int(time.time()), model=body.model,
            system_fingerprint=f"fp_{served.weights[:12]}_{__version__}", choices=[],
        )  # fmt: skip
        if body.stream:
            parts = _stream(service, asked, jobs, answer, served.tokenizer)
            return StreamingResponse(parts, media_type="text/event-stream")
        texts = await _whole(service, request, body.model, jobs)
        answer.choices = completions.choices(asked, texts, served.tokenizer)
        answer.usage = completions.usage(asked, texts)
        return JSONResponse(answer.model_dump(mode="json"))

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(n, s) for n, s in service.models.items()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return _described(name, service.served(name))

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        made = service.first.tokenizer
        end = made.decode([made.end_of_text])
        return {"eos_token": end, "bos_token": end, "vocab_size": made.size}

    @app.post("/tokenize", openapi_extra=schema(TokenizeBody))
    async def tokenize(request: Request) -> dict[str, Any]:
        body = await read(request, TokenizeBody)
        served = service.first if body.model is None else service.served(body.model)
        ids = completions.encoded(body.prompt, served.tokenizer, specials=True)
        context = served.model.config.n_positions
        return {"tokens": ids, "count": len(ids), "max_model_len": context}

    @app.post("/detokenize", openapi_extra=schema(DetokenizeBody))
    async def detokenize(request: Request) -> dict[str, Any]:
        body = await read(request, DetokenizeBody)
        served = service.first if body.model is None else service.served(body.model)
        completions.require_known(body.tokens, served.tokenizer, "tokens")
        return {"prompt": served.tokenizer.decode(body.tokens)}

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    return app


def _described(name: str, served: Served) -> dict[str, Any]:
    return {
        "id": name, "object": "model", "created": served.created, "owned_by": "gpt2lab",
        "max_model_len": served.model.config.n_positions, "weights": served.weights,
        "parameters": served.model.config.n_params,
    }  # fmt: skip


async def _whole(
    service: Service, request: Request, name: str, jobs: Sequence[Job]
) -> list[Generation]:
    """All texts; they are cancelled if the client goes away, or it takes too long."""
    texts = asyncio.gather(*(job.result() for job in jobs))
    gone = asyncio.ensure_future(_gone(request))
    try:
        both: set[asyncio.Future[Any]] = {texts, gone}
        await asyncio.wait(both, timeout=service.setup.timeout, return_when=asyncio.FIRST_COMPLETED)
        if texts.done():
            return list(texts.result())
        if gone.done():
            raise ApiError(499, "client_closed_request", "the client went away")
        raise ApiError(504, "timeout", f"it took over {service.setup.timeout:g} s; ask for less",
                       kind="server_error", retry=False)  # fmt: skip
    except ClosedError:
        raise _failed() from None
    finally:
        gone.cancel()
        service.cancel(name, jobs)
        with suppress(asyncio.CancelledError, ClosedError):
            await texts


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    service: Service, asked: Asked, jobs: Sequence[Job], answer: Completion, tokenizer: Tokenizer
) -> AsyncIterator[bytes]:
    """Events; if the client goes away this is closed, and its texts are cancelled."""
    try:
        async for choice in _parts(asked, jobs, tokenizer, service.setup.timeout):
            answer.choices = [choice]
            yield _event(answer.model_dump(mode="json"))
        if asked.body.stream_options.include_usage:
            answer.choices = []
            answer.usage = completions.usage(asked, [job.text.result() for job in jobs])
            yield _event(answer.model_dump(mode="json"))
        yield b"data: [DONE]\n\n"
    except TimeoutError:
        message = f"it took over {service.setup.timeout:g} s; ask for less"
        yield _event(ApiError(504, "timeout", message, kind="server_error").body())
    except ClosedError:
        yield _event(_failed().body())
    finally:
        service.cancel(answer.model, jobs)


async def _parts(
    asked: Asked, jobs: Sequence[Job], tokenizer: Tokenizer, seconds: float
) -> AsyncIterator[Choice]:
    """Parts of all choices as they come; TimeoutError if they take longer than `seconds`."""
    end = asyncio.get_running_loop().time() + seconds
    queue: asyncio.Queue[Choice | None] = asyncio.Queue()

    async def follow(index: int, job: Job) -> None:
        told = Told(index, job.request, asked.body, tokenizer)
        ended = False
        async for piece in job.pieces():
            reason = job.text.reason if piece.tokens == len(job.text.ids) else None
            ended = reason is not None
            part = told.part(piece.text, job.text, reason)
            if part.text or ended or part.token_ids or (part.logprobs and part.logprobs.tokens):
                queue.put_nowait(part)
        if not ended:  # without a token: a prompt alone
            queue.put_nowait(told.part("", job.text, job.text.reason))

    async def all_of_them() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index, job in enumerate(jobs):
                    group.create_task(follow(index, job))
        except* ClosedError:
            raise ClosedError from None
        finally:
            queue.put_nowait(None)

    following = asyncio.create_task(all_of_them())
    try:
        while True:
            # Around this alone: while a part is given out, what is cancelled would be the client.
            async with asyncio.timeout_at(end):
                part = await queue.get()
            if part is None:
                break
            yield part
        await following
    finally:
        following.cancel()


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def _failed() -> ApiError:
    return ApiError(500, "engine_failed", "the model failed; the server's log has more",
                    kind="server_error", retry=False)  # fmt: skip


async def _told(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        status = error.status_code
        code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
        message = {
            404: "there is nothing at this path; GET /openapi.json lists what there is",
            405: "this path is not for that method; GET /openapi.json lists what there is",
        }.get(status, str(error.detail))
        error = ApiError(status, code, message, headers=error.headers)
    elif isinstance(error, UserError):
        error = ApiError(400, "invalid_value", str(error))
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _broken(_: Request, error: Exception) -> JSONResponse:
    """Of what nobody foresaw; the server logs it with its traceback."""
    told = ApiError(500, "internal_error", "something failed here; the server's log has more",
                    kind="server_error")  # fmt: skip
    return JSONResponse(told.body(), told.status)


class Numbered:
    """Every answer has an id, by which it is found in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = uuid.uuid4().hex

        async def numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        await self.app(scope, receive, numbered)
