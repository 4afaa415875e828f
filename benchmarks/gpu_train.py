"""Claim: one GPU trains the exact 124M in bfloat16 at 600,000 tokens/s or more (an H200), at least
1.4x nanoGPT on the same card in the same run.

nanoGPT runs as its README says: compiled, bfloat16 autocast, fused AdamW, vocabulary of 50,304.
Each contender first picks its best micro-batch; then both are measured alternately. Before that,
both must give the same loss for the same weights and text.

    python benchmarks/gpu_train.py                   a CUDA card, the whole claim
    python benchmarks/gpu_train.py --toy             the same script on a CPU, at toy size
"""

import contextlib
import json
import statistics
import sys
import time

import peers

FULL = {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024, "vocab": 50304,
        "micro": (16, 32, 64), "steps": 20, "device": "cuda", "compile": True}  # fmt: skip
TOY = {"n_layer": 2, "n_head": 2, "n_embd": 64, "context": 64, "vocab": 512,
       "micro": (2, 4), "steps": 3, "device": "cpu", "compile": False}  # fmt: skip
VOCAB = {True: 512, False: 50257}


def nanogpt_model(size, path):
    names = {"layers": "n_layer", "heads": "n_head", "width": "n_embd"}
    shape = {ours: size[theirs] for ours, theirs in names.items()}
    return peers.nanogpt_model(path, context=size["context"], vocab=size["vocab"], **shape)


def nanogpt_step(size, micro, path):
    import torch

    model = nanogpt_model(size, path).to(size["device"])
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), size["device"])
    run = torch.compile(model) if size["compile"] else model
    x, y = (
        torch.randint(size["vocab"], (micro, size["context"]), device=size["device"])
        for _ in range(2)
    )

    def step():
        with torch.autocast(size["device"], torch.bfloat16):
            _, loss = run(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def gpt2lab_step(size, micro, toy):
    from gpt2lab.model import GPT2Config
    from gpt2lab.training.recipe import Optimizer, Recipe, Train

    vocab = VOCAB[toy]
    recipe = Recipe(
        model=GPT2Config(
            n_layer=size["n_layer"], n_head=size["n_head"], n_embd=size["n_embd"],
            n_positions=size["context"], vocab_size=vocab, pad_vocab_to=64,
        ),
        optimizer=Optimizer(learning_rate=6e-4),
        train=Train(
            steps=1000, batch_tokens=micro * size["context"], micro_batch=micro, dtype="bfloat16",
            device=size["device"], compile=size["compile"],
        ),
    )  # fmt: skip
    return peers.random_trainer(recipe)._step


def same_loss(size, path):
    """Losses of the same weights on the same tokens, in float32 and with the exact GELU of both."""
    import torch

    from gpt2lab.model import GPT2, GPT2Config
    from gpt2lab.training.loss import NextTokenLoss

    ours = GPT2(
        GPT2Config(
            n_layer=size["n_layer"], n_head=size["n_head"], n_embd=size["n_embd"],
            n_positions=size["context"], vocab_size=size["vocab"], activation="gelu_erf",
        )
    )  # fmt: skip
    theirs = nanogpt_model(size, path)
    weights = {f"transformer.{name}": t for name, t in ours.state_dict().items()}
    theirs.load_state_dict(weights | {"lm_head.weight": ours.wte.weight}, strict=False)
    x, y = (torch.randint(size["vocab"], (2, size["context"])) for _ in range(2))
    with torch.no_grad():
        a = float(NextTokenLoss(ours, torch.float32, None)(x, y))
        b = float(theirs(x, y)[1])
    return {"gpt2lab": a, "nanoGPT": b, "difference": abs(a - b)}


def work(name, micro, toy, path):
    import torch

    toy = toy == "toy"
    size = TOY if toy else FULL
    if name == "same loss":
        print(json.dumps(same_loss(size, path)))
        return
    micro = int(micro)
    cuda = size["device"] == "cuda"
    if cuda:
        torch.set_float32_matmul_precision("high")
    step = nanogpt_step(size, micro, path) if name == "nanoGPT" else gpt2lab_step(size, micro, toy)
    seconds = []
    for _ in range(size["steps"] + 3):  # the first three compile and allocate
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peers.peak_mib()
    rate = micro * size["context"] / statistics.median(seconds[3:])
    print(json.dumps({"tokens_per_s": round(rate, 1), "peak_mib": round(peak)}))


def best_micro_batch(name, size, toy, path):
    tried = {}
    for micro in size["micro"]:
        with contextlib.suppress(SystemExit):  # out of memory
            found = peers.worker(__file__, name, str(micro), toy, path)
            tried[micro] = found["tokens_per_s"]
    if not tried:
        sys.exit(f"{name} ran with no micro-batch of {size['micro']}")
    return max(tried, key=tried.get), tried


def main():
    p = peers.parser(__doc__)
    p.add_argument("--toy", action="store_true")
    args = p.parse_args()
    if args.worker:
        work(*args.worker)
        return
    import torch

    from gpt2lab.doctor import peak
    from gpt2lab.model import GPT2Config

    size, toy = (TOY, "toy") if args.toy else (FULL, "full")
    if size["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --toy proves the script on a CPU")
    path = str(peers.nanogpt(args.nanogpt))
    agreed = peers.worker(__file__, "same loss", "0", toy, path)
    if agreed["difference"] > 1e-3:
        sys.exit(f"the two give different losses for the same weights: {agreed}")
    device = torch.device(size["device"])
    best = peak(device, torch.bfloat16)
    shape = GPT2Config(
        n_layer=size["n_layer"], n_head=size["n_head"], n_embd=size["n_embd"],
        n_positions=size["context"], vocab_size=VOCAB[args.toy],
    )  # fmt: skip
    flops = shape.flops_per_token(size["context"])
    result = {
        "machine": peers.machine(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "peak_tflops": best.tflops, "peak_source": best.source, "same loss": agreed,
    }  # fmt: skip
    micro = {}
    for name in ("nanoGPT", "gpt2lab"):
        micro[name], tried = best_micro_batch(name, size, toy, path)
        result[name] = {"micro_batch": micro[name], "tokens_per_s by micro_batch": tried}
    runs = {name: [] for name in micro}
    for _ in range(args.rounds):
        for name, m in micro.items():
            runs[name].append(peers.worker(__file__, name, str(m), toy, path))
    for name, found in runs.items():
        rates = [f["tokens_per_s"] for f in found]
        result[name] |= {
            "tokens_per_s": statistics.median(rates), "all": rates,
            "mfu": round(statistics.median(rates) * flops / best.tflops / 1e12, 4),
            "peak_mib": statistics.median(f["peak_mib"] for f in found),
        }  # fmt: skip
    ratio = result["gpt2lab"]["tokens_per_s"] / result["nanoGPT"]["tokens_per_s"]
    result["gpt2lab_over_nanogpt"] = round(ratio, 3)
    peers.save("gpu_train_toy" if args.toy else "gpu_train", result)


if __name__ == "__main__":
    main()
