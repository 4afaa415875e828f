"""Claim: greedy decoding of 124M in float32, one prompt, beats transformers' generate with cache.

Random weights, the same in both; both give the same tokens, which is checked.
"""

import statistics
import time

import peers

NEW_TOKENS = 64
THREADS = 2


def main():
    args = peers.parser(__doc__).parse_args()
    import torch
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    from gpt2lab.generation import Request, Sampling, generate
    from gpt2lab.model import GPT2, GPT2Config
    from gpt2lab.model.checkpoint import to_hf_tensors
    from gpt2lab.tokenizer import train

    torch.set_num_threads(THREADS)
    where = peers.machine()
    model = GPT2(GPT2Config(), seed=1).eval()
    theirs = GPT2LMHeadModel(TheirConfig()).eval()
    tensors = {f"transformer.{k}": t for k, t in to_hf_tensors(model).items()}
    theirs.load_state_dict(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    tokenizer = train(["abc"], 257)
    prompt = tuple(range(1, 17))
    request = Request(
        prompt, max_tokens=NEW_TOKENS, sampling=Sampling(temperature=0), ignore_end=True
    )
    ids = torch.tensor([prompt])
    # The stand-in tokenizer only turns ids below 257 into text; the model's ids go beyond.
    tokenizer.token = lambda i: b""

    def ours():
        return generate(model, tokenizer, [request])[0].ids

    def transformers():
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
            min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, pad_token_id=0,
        )  # fmt: skip
        return out[0, len(prompt) :].tolist()

    assert ours() == transformers(), "the two disagree"
    rates = {"gpt2lab": [], "transformers": []}
    for _ in range(max(5, args.rounds)):
        for name, function in (("gpt2lab", ours), ("transformers", transformers)):
            began = time.perf_counter()
            function()
            rates[name].append(round(NEW_TOKENS / (time.perf_counter() - began), 2))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peers.save(
        "decode",
        {
            "machine": where,
            "threads": THREADS,
            "new_tokens": NEW_TOKENS,
            "tokens_per_s": rates,
            "median": medians,
            "gpt2lab_over_transformers": round(medians["gpt2lab"] / medians["transformers"], 3),
            "share_of_memory_limit": round(
                medians["gpt2lab"] * 123.5e6 * 4 / (where["read_gb_per_s"] * 1e9), 3
            ),
        },
    )


main()
