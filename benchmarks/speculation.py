"""Claim: guessing ahead makes one text sooner and changes nothing in it.

The reference model of 10M parameters continues held-out prose (novels, stories, encyclopaedia) and
code (indented blocks of Python's PEPs) by 128 tokens: without guesses, with guesses from the text
itself, and with the 1M model's. Alternating rounds, medians of tokens per second.

A model so small lies in a processor's cache, where a pass over more tokens costs more. What the
same guesses would gain where weights come from memory is projected: passes of as many tokens are
timed with random weights of 124M.
"""

import argparse
import collections
import re
import statistics
import time
from pathlib import Path

import peers

MODELS = Path(__file__).resolve().parents[1] / "tests" / "models"
CODE = re.compile(r"::\n\n((?:    .*\n|\n){12,})")
PROMPT, NEW, TEXTS = 192, 128, 12


def texts(path):
    """Beginnings of held-out prose, and of code with the words before it."""
    from gpt2lab.corpus.plaintext import read_documents

    code, prose = [], []
    for document in read_documents(path):
        if document.text.startswith("PEP:"):
            for block in CODE.finditer(document.text):
                third = (block.end() - block.start()) // 3
                code.append(document.text[: block.start() + third][-1500:])
        elif len(document.text) > 4000:
            prose.append(document.text[1000:3000])
    spread = {"prose": prose, "code": code}
    return {kind: found[:: len(found) // TEXTS][:TEXTS] for kind, found in spread.items()}


def costs(form):
    """Seconds of a pass over n tokens of one text, by n, for 124M with random weights."""
    from gpt2lab.generation.backend import Chunk, backend
    from gpt2lab.model import GPT2, GPT2Config
    from gpt2lab.model.quantize import convert

    passes = backend(convert(GPT2(GPT2Config()).eval(), form), 1)
    found = collections.defaultdict(list)
    for _ in range(12):
        for n in range(1, 13):
            began = time.perf_counter()
            passes.forward([Chunk(0, 200, [7] * n, n)])
            found[n].append(time.perf_counter() - began)
    return {n: statistics.median(seconds[2:]) for n, seconds in found.items()}


def sizes(engine):
    """How many tokens each pass of an engine reads, from now on, as a list that grows."""
    found, forward = [], engine._backend.forward

    def counted(chunks):
        found.append(len(chunks[0].ids))
        return forward(chunks)

    engine._backend.forward = counted
    return found


def decode(engine, prompts, temperature):
    """Tokens a second, tokens a pass, and the tokens."""
    from gpt2lab.generation import Request, Sampling

    seconds, passes, ids = 0.0, 0, []
    sampling = Sampling(temperature=temperature)
    for seed, prompt in enumerate(prompts):
        request = Request(prompt, max_tokens=NEW, sampling=sampling, seed=seed, ignore_end=True)
        running = engine.submit(request)
        engine.step()  # reads the prompt
        began = time.perf_counter()
        while engine.busy:
            engine.step()
            passes += 1
        seconds += time.perf_counter() - began
        ids.append(running.text.ids)
    count = len(prompts) * (NEW - 1)
    return count / seconds, count / passes, ids


def main():
    p = peers.parser(__doc__)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("corpus", type=Path, help="the reference models' corpus, from make.py")
    args = p.parse_args()
    import torch

    import gpt2lab
    from gpt2lab.generation import Engine

    torch.set_num_threads(2)
    found = texts(args.corpus / "documents" / "val.jsonl.zst")
    result = {"machine": peers.machine(), "texts": TEXTS, "tokens": NEW}
    for form in ("float32", "int8"):
        large = gpt2lab.load(str(MODELS / "reference-10M"), form)
        small = gpt2lab.load(str(MODELS / "reference-1M"), form)
        engines = {
            "without": Engine(large.model, large.tokenizer, slots=1, speculate=False),
            "lookup": Engine(large.model, large.tokenizer, slots=1),
            "draft": Engine(large.model, large.tokenizer, slots=1, draft=small.model),
        }
        cost, read = costs(form), sizes(engines["lookup"])
        for kind, beginnings in found.items():
            prompts = [tuple(large.tokenizer.encode(t)[-PROMPT:]) for t in beginnings]
            for temperature in (0.0, 0.8):
                rows = {name: [] for name in engines}
                read.clear()
                for _ in range(args.rounds):
                    for name, engine in engines.items():
                        rows[name].append(decode(engine, prompts, temperature))
                same = rows["lookup"][0][2] == rows["without"][0][2]
                assert same, "guesses from the text changed it"
                base = [speed for speed, _, _ in rows["without"]]
                row = {"tokens_per_s": round(statistics.median(base), 1)}
                for name in ("lookup", "draft"):
                    ratios = [r[0] / b for r, b in zip(rows[name], base, strict=True)]
                    row[name] = round(statistics.median(ratios), 2)
                    row[f"{name}_tokens_a_pass"] = round(rows[name][0][1], 2)
                spent = sum(cost[n] for n in read if n <= 12)  # more are prompts
                tokens = args.rounds * TEXTS * (NEW - 1)
                row["lookup_projected_124M"] = round(tokens * cost[1] / spent, 2)
                result[f"{form} {kind} temperature {temperature}"] = row
                print(form, kind, temperature, row, flush=True)
    peers.save("speculation", result)


main()
