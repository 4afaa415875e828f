"""A finished run as it is published: weights in bfloat16, what they measure, and a model card."""

from pathlib import Path

import numpy as np
import torch

from gpt2lab.corpus.plaintext import read_documents
from gpt2lab.evaluation.documents import bits_per_byte
from gpt2lab.evaluation.measurement import Measurement
from gpt2lab.generation import Request, Sampling, generate
from gpt2lab.model import checkpoint
from gpt2lab.progress import step
from gpt2lab.storage import atomic_folder, read_json

SAMPLES = 2
SAMPLE_TOKENS = 120

TEXT = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# reference-{size}

A GPT-2 of {parameters:,} parameters: {n_layer} layers of {n_embd}, {n_head} heads,
context {context}, vocabulary {vocabulary:,}. The architecture is exactly GPT-2's, the weights are
bfloat16. It is there to test and demonstrate tools on a trained model. It knows nothing, and makes
things up in the manner of its texts.

| | |
|---|---|
| held-out text | {bits} |
| the same in nats per token | {loss:.3f} |
| trained on | {tokens:,} tokens, {epochs:.2f} epochs, in batches of {batch:,} |
| recipe | `recipes/reference/{size}.toml` of gpt2lab {version}, {hours:.1f} hours on a CPU |
| corpus | {corpus_tokens:,} training tokens, digest `{digest:.16}` |

**Texts:** 52 English novels (1839-1922), Python Enhancement Proposals, Rust RFCs, addresses of US
presidents, Shakespeare, posts of four subreddits (personal finance, short stories, tales from tech
support, writing). Near-duplicates are removed, {held_out} documents held out. Novels and
speeches are of their time, posts are unmoderated: the model repeats their prejudices.

**Measured:** {protocol}. n is documents, the interval resamples them. Digest of the
held-out texts: `{held_out_digest:.16}`.

**Samples** (temperature 0.8, top-k 40, seeds 0 and 1, from nothing):

{samples}
"""


def write_card(size: str, run_model: Path, corpus: Path, out: Path) -> Measurement:
    """Write the model folder `out` from a finished run; return its bits per byte."""
    made = checkpoint.load(run_model)
    model, tokenizer, facts = made.model, made.tokenizer, made.metadata
    assert tokenizer is not None
    model.to(torch.bfloat16).to(torch.float32)  # what is measured is what is published
    held_out = [d.text for d in read_documents(corpus / "documents" / "val.jsonl.zst")]
    with step(f"measuring {size}") as bar:
        bits = bits_per_byte(model, tokenizer, held_out, on_progress=bar.update)
    sampling = Sampling(temperature=0.8, top_k=40)
    requests = [
        Request((), max_tokens=SAMPLE_TOKENS, sampling=sampling, seed=seed)
        for seed in range(SAMPLES)
    ]
    samples = [g.text.strip() for g in generate(model, tokenizer, requests)]
    recipe, config = facts["recipe"], model.config
    recipe["data"]["path"] = "corpus"  # where it lay says nothing to others
    ids = sum(len(tokenizer.encode(text)) for text in held_out)
    size_bytes = sum(len(text.encode()) for text in held_out)
    text = TEXT.format(
        size=size,
        parameters=config.n_params,
        n_layer=config.n_layer,
        n_embd=config.n_embd,
        n_head=config.n_head,
        context=config.n_positions,
        vocabulary=config.vocab_size,
        bits=bits,
        loss=bits.value * np.log(2) * size_bytes / ids,
        tokens=facts["tokens"],
        epochs=facts["tokens"] / facts["train_tokens"],
        batch=recipe["train"]["batch_tokens"],
        version=facts["gpt2lab"],
        hours=facts["seconds"] / 3600,
        corpus_tokens=facts["train_tokens"],
        digest=facts["corpus_digest"],
        held_out=read_json(corpus / "corpus.json")["splits"]["val"]["documents"],
        protocol=bits.protocol,
        held_out_digest=bits.data,
        samples="\n\n".join(
            "\n".join(f"> {line}".rstrip() for line in s.splitlines()) for s in samples
        ),
    )
    with atomic_folder(out, overwrite=True) as folder:
        checkpoint.write_into(folder, model.to(torch.bfloat16), tokenizer, facts)
        (folder / "README.md").write_text(text, "utf-8")
    return bits
