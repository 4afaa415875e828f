"""Claim: int8 costs at most 0.5 % of perplexity and int4 at most 5 %, on the models trained here.

Bits per byte of held-out documents of the reference corpus (none of them trained on), and how often
the last word of a sentence is the model's likeliest continuation, letter by letter, as in LAMBADA:
sentences of at least ten words of the same documents, greedy, at most six tokens a word.
"""

import argparse
import math
import re
from pathlib import Path

import peers

MODELS = Path(__file__).resolve().parents[1] / "tests" / "models"
FORMATS = ("float32", "bfloat16", "int8", "int8-weight", "int4")
SENTENCE = re.compile(r"[A-Z][^.!?\n]{40,300}[.!?]")


def words(texts, count):
    """Beginnings of sentences and the word that ends each."""
    found = []
    for text in texts:
        for sentence in SENTENCE.findall(text)[:20]:
            begin, _, last = sentence[:-1].rpartition(" ")
            if begin.count(" ") >= 9 and last.isalpha():
                found.append((begin, " " + last))
    step = max(1, len(found) // count)
    return found[::step][:count]


def last_words(made, pairs):
    """The share of sentences whose last word the model finishes right."""
    from gpt2lab.generation import Request, Sampling, generate

    tokenizer, right = made.tokenizer, 0
    targets = [tokenizer.encode(word) for _, word in pairs]
    requests = [
        Request(
            tuple(tokenizer.encode(begin)), max_tokens=min(6, len(ids)),
            sampling=Sampling(temperature=0), ignore_end=True,
        )
        for (begin, _), ids in zip(pairs, targets, strict=True)
    ]  # fmt: skip
    for result, ids in zip(generate(made.model, tokenizer, requests), targets, strict=True):
        right += result.ids == ids[:6]
    return right / len(pairs)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("corpus", type=Path, help="the reference models' corpus, from make.py")
    p.add_argument("--sizes", nargs="+", default=["1M", "3M", "10M"])
    p.add_argument("--sentences", type=int, default=1000)
    args = p.parse_args()
    import gpt2lab
    from gpt2lab.corpus.plaintext import read_documents
    from gpt2lab.evaluation.documents import bits_per_byte

    path = args.corpus / "documents" / "val.jsonl.zst"
    # Long documents from their beginning only: enough, and done in minutes.
    texts = [d.text[:60_000] for d in read_documents(path)]
    pairs = words(texts, args.sentences)
    result = {"machine": peers.machine(), "documents": len(texts), "sentences": len(pairs)}
    for size in args.sizes:
        for form in FORMATS:
            made = gpt2lab.load(str(MODELS / f"reference-{size}"), form)
            bits = bits_per_byte(made.model, made.tokenizer, texts)
            tokens = sum(map(len, made.tokenizer.encode_batch(texts)))
            size_bytes = sum(len(t.encode()) for t in texts)
            nats = bits.value * math.log(2) * size_bytes / tokens
            row = {"bits_per_byte": round(bits.value, 4), "perplexity": round(math.exp(nats), 2)}
            row["last_words"] = round(last_words(made, pairs), 4)
            base = result.get(f"{size} float32", row)
            row["perplexity_over_float32"] = round(row["perplexity"] / base["perplexity"], 4)
            result[f"{size} {form}"] = row
            print(size, form, row, flush=True)
    peers.save("format_quality", result)


main()
