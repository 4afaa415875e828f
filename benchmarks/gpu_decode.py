"""Claim: on one GPU, 124M in bfloat16 decodes one text and 256 at once at least twice as fast as
transformers with a static, compiled cache; vLLM is timed beside it where it is installed.

Random weights, prompts of 16 tokens, 128 new ones, greedy, text included. The share of the card's
memory bandwidth is what a pass must read (weights, and keys and values of all texts) over what the
card can read in that time.

    python benchmarks/gpu_decode.py            a CUDA card, the whole claim
    python benchmarks/gpu_decode.py --toy      the same script on a CPU, at toy size
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import peers

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizer" / "gpt2"
FULL = {"shape": {}, "batches": (1, 256), "new": 128, "device": "cuda", "dtype": "bfloat16"}
TOY = {"shape": {"n_layer": 2, "n_head": 2, "n_embd": 64}, "batches": (1, 4), "new": 8,
       "device": "cpu", "dtype": "float32"}  # fmt: skip
PROMPT = 16


def prompts(count, turn):
    """Different every time, so that nothing is found in a prefix cache."""
    return [[1 + (7 * turn + 31 * s + t) % 50_000 for t in range(PROMPT)] for s in range(count)]


class Ours:
    def __init__(self, folder, size, batch):
        import gpt2lab
        from gpt2lab.generation import Engine

        made = gpt2lab.load(folder, size["dtype"], size["device"])
        self.engine = Engine(made.model, made.tokenizer, slots=batch, speculate=False)

    def decode(self, texts, new):
        peers.decode(self.engine, texts, new)


class Transformers:
    def __init__(self, folder, size, batch):
        import torch
        from transformers import GPT2LMHeadModel

        self.torch, self.device = torch, size["device"]
        dtype = getattr(torch, size["dtype"])
        self.model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype).eval().to(self.device)

    def decode(self, texts, new):
        ids = self.torch.tensor(texts, device=self.device)
        self.model.generate(
            ids, attention_mask=self.torch.ones_like(ids), do_sample=False, min_new_tokens=new,
            max_new_tokens=new, pad_token_id=0, cache_implementation="static",
        )  # fmt: skip


class VLLM:
    def __init__(self, folder, size, batch):
        import vllm

        self.vllm = vllm
        self.model = vllm.LLM(folder, dtype=size["dtype"], enable_prefix_caching=False)

    def decode(self, texts, new):
        greedy = self.vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        asked = [{"prompt_token_ids": text} for text in texts]
        self.model.generate(asked, greedy, use_tqdm=False)


def share(size, batch, tokens_per_s):
    """Of the bandwidth measured on this card, what decoding at this rate takes."""
    import torch

    from gpt2lab.doctor import read_gb_per_second
    from gpt2lab.model import GPT2Config

    config = GPT2Config(**size["shape"])
    width = 2 if size["dtype"] == "bfloat16" else 4
    keys = 2 * config.n_layer * config.n_embd * (PROMPT + size["new"] / 2) * batch
    read = width * (config.n_params + keys) * tokens_per_s / batch
    return read / 1e9 / read_gb_per_second(torch.ones(2**28, device=size["device"]))


def main():
    p = peers.parser(__doc__)
    p.add_argument("--toy", action="store_true")
    p.add_argument("--vocabulary", type=Path, default=SHARED)
    args = p.parse_args()
    size = TOY if args.toy else FULL
    import torch

    from gpt2lab.model import GPT2, GPT2Config
    from gpt2lab.model.checkpoint import save
    from gpt2lab.tokenizer import Tokenizer

    if size["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA card here; --toy runs the same script on a CPU")
    device = torch.cuda.get_device_name() if size["device"] == "cuda" else "cpu"
    result = {"machine": peers.machine() | {"device": device}, "new_tokens": size["new"]}
    with tempfile.TemporaryDirectory() as work:
        folder = f"{work}/model"
        model = GPT2(GPT2Config(**size["shape"]), seed=1)
        save(Path(folder), model, Tokenizer.load(args.vocabulary), {})
        for batch in size["batches"]:
            contenders = {}
            for kind in (Ours, Transformers, VLLM):
                try:
                    contenders[kind.__name__] = kind(folder, size, batch)
                except ImportError as error:
                    print(f"{kind.__name__} is left out: {error}", file=sys.stderr)
            rates = {name: [] for name in contenders}
            for turn in range(args.rounds + 2):  # two rounds to compile and record
                for name, one in contenders.items():
                    texts = prompts(batch, turn)
                    began = time.perf_counter()
                    one.decode(texts, size["new"])
                    rates[name].append(batch * size["new"] / (time.perf_counter() - began))
            row = {name: round(statistics.median(r[2:]), 1) for name, r in rates.items()}
            row["share_of_bandwidth"] = round(share(size, batch, row["Ours"]), 3)
            row["over_transformers"] = round(row["Ours"] / row["Transformers"], 2)
            result[f"batch {batch}"] = row
    peers.save("gpu_decode_toy" if args.toy else "gpu_decode", result)


main()
