"""A model in a thread: many requests at once, cancelled ones, full queues, draining, failure."""

import asyncio

import pytest

from gpt2lab import UserError
from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.serving.worker import ClosedError, FullError, Worker

LONG = Request((), max_tokens=5000, ignore_end=True, seed=0)


@pytest.fixture(scope="module")
def requests(reference):
    rules = (Sampling(), Sampling(top_k=40), Sampling(temperature=0), Sampling(top_p=0.9))
    ids = reference.tokenizer.encode("The government of this country has been asked again")
    return [
        Request(tuple(ids[: 1 + n % len(ids)]), 5 + n % 20, rules[n % 4], seed=n, logprobs=n % 3)
        for n in range(40)
    ]


def serving(reference, act, **options):
    """Do something with a worker; fail if it hangs."""

    async def main():
        worker = Worker(reference.model, reference.tokenizer, **options)
        try:
            async with asyncio.timeout(120):
                return await act(worker)
        finally:
            await worker.close()

    return asyncio.run(main())


async def text_of(job):
    return "".join([piece.text async for piece in job.pieces()])


def test_each_text_is_what_it_is_alone(reference, requests):
    async def act(worker):
        jobs = [worker.submit(r, owner=str(n % 3)) for n, r in enumerate(requests)]
        assert worker.running == 4 and worker.waiting == 36
        texts = await asyncio.gather(*map(text_of, jobs))
        assert worker.running == worker.waiting == 0
        return texts, [job.text.result() for job in jobs]

    texts, results = serving(reference, act, slots=4)
    alone = [generate(reference.model, reference.tokenizer, [r])[0] for r in requests]
    assert results == alone and texts == [one.text for one in alone]


def test_pieces_come_while_a_text_goes_on(reference):
    async def act(worker):
        job = worker.submit(LONG)
        tokens = []
        async for piece in job.pieces():
            tokens.append(piece.tokens)
            if len(tokens) == 5:
                assert not job.text.reason
                worker.cancel(job)
        worker.cancel(job)  # once more, and after its end
        return tokens, job.text

    tokens, text = serving(reference, act)
    assert tokens == list(range(1, len(tokens) + 1)) and text.reason == "cancelled"
    assert len(tokens) < 1000


def test_a_prompt_alone_is_scored_and_a_request_for_nothing_ends(reference):
    async def act(worker):
        scored = worker.submit(Request((5, 6, 7), 0, prompt_logprobs=1))
        nothing = worker.submit(Request((5, 6, 7), 0))
        return await scored.result(), await nothing.result()

    scored, nothing = serving(reference, act)
    assert len(scored.prompt_logprobs) == 3 and scored.ids == nothing.ids == []
    assert nothing.finish_reason == "length"


def test_a_cancelled_request_leaves_its_slot_to_others(reference, requests):
    async def act(worker):
        first, second = worker.submit(LONG), worker.submit(LONG)
        last = worker.submit(requests[0])
        await anext(first.pieces())
        worker.cancel(second)  # it waits
        worker.cancel(first)
        early = worker.submit(LONG)
        worker.cancel(early)  # the thread may not have seen it
        return [await job.result() for job in (first, second, last, early)]

    reasons = [r.finish_reason for r in serving(reference, act, slots=1)]
    assert reasons[:2] == ["cancelled"] * 2 and reasons[2] != "cancelled"
    assert reasons[3] == "cancelled"


def test_what_cannot_be_taken_is_refused_at_once(reference):
    async def act(worker):
        with pytest.raises(UserError, match="max_tokens is -1"):
            worker.submit(Request((), -1))
        jobs = [worker.submit(LONG) for _ in range(3)]
        with pytest.raises(FullError):
            worker.submit(LONG)
        for job in jobs:
            worker.cancel(job)
        await asyncio.gather(*(job.result() for job in jobs))
        worker.cancel(worker.submit(LONG))

    serving(reference, act, slots=2, waiting=1)


def test_what_was_taken_ends_before_the_worker_does(reference, requests):
    async def act(worker):
        jobs = [worker.submit(r) for r in requests]
        draining = asyncio.create_task(worker.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            worker.submit(requests[0])
        assert not worker.open and await draining
        return [job.text.reason for job in jobs]

    assert "cancelled" not in serving(reference, act)


def test_what_takes_too_long_is_cancelled(reference):
    async def act(worker):
        job = worker.submit(LONG)
        assert not await worker.drain(0.2)
        return (await job.result()).finish_reason

    assert serving(reference, act) == "cancelled"


def test_a_failure_reaches_all_who_wait(reference, caplog):
    async def act(worker):
        jobs = [worker.submit(LONG) for _ in range(2)]
        await anext(jobs[0].pieces())
        worker._engine._take = None
        for job in jobs:
            with pytest.raises(ClosedError):
                await job.result()
        assert not worker.open and worker.running == 0
        with pytest.raises(ClosedError):
            worker.submit(LONG)

    serving(reference, act)
    assert "the engine failed" in caplog.text


def test_a_worker_that_is_closed_leaves_nobody_waiting(reference):
    async def act(worker):
        job = worker.submit(LONG)
        await worker.close()
        with pytest.raises(ClosedError):
            await job.result()

    serving(reference, act)
