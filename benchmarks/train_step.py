"""Claim: a training step on CPU beats nanoGPT's and transformers', in less memory.

The same shape, batch and AdamW for all; random tokens; forward, backward, clip and step timed.
nanoGPT runs as it is (with biases, eager and compiled), in float32, as it does on a CPU;
transformers with its own loss; it and gpt2lab in float32 and with products in bfloat16.
"""

import json
import statistics
import time

import peers

SHAPES = {
    # layers, heads, width, context, batch
    "6x384": (6, 6, 384, 256, 16),
    "124M": (12, 12, 768, 512, 2),
}
VOCAB = 50257
THREADS = 2


def nanogpt_step(shape, path, *, compiled):
    import torch

    layers, heads, width, context, batch = shape
    model = peers.nanogpt_model(
        path, layers=layers, heads=heads, width=width, context=context, vocab=VOCAB
    )
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")
    run = torch.compile(model) if compiled else model
    x = torch.randint(VOCAB, (batch, context))
    y = torch.randint(VOCAB, (batch, context))

    def step():
        _, loss = run(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def transformers_step(shape, dtype):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, heads, width, context, batch = shape
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_positions=context, n_embd=width, n_layer=layers, n_head=heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), fused=True)
    x = torch.randint(VOCAB, (batch, context))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def gpt2lab_step(shape, dtype):
    from gpt2lab.model import GPT2Config
    from gpt2lab.training.recipe import Optimizer, Recipe, Train

    layers, heads, width, context, batch = shape
    recipe = Recipe(
        model=GPT2Config(
            n_layer=layers, n_head=heads, n_embd=width, n_positions=context, vocab_size=VOCAB
        ),
        optimizer=Optimizer(learning_rate=6e-4),
        train=Train(
            steps=1000, batch_tokens=batch * context, micro_batch=batch, dtype=dtype,
            device="cpu", threads=THREADS,
        ),
    )  # fmt: skip
    return peers.random_trainer(recipe)._step


def work(name, shape_name, path):
    import torch

    torch.set_num_threads(THREADS)
    shape = SHAPES[shape_name]
    library, _, dtype = name.partition(" ")
    if library == "gpt2lab":
        step = gpt2lab_step(shape, dtype or "float32")
    elif library == "transformers":
        step = transformers_step(shape, dtype or "float32")
    else:
        step = nanogpt_step(shape, path, compiled=name == "nanoGPT compiled")
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    tokens = shape[3] * shape[4]
    rate = round(tokens / statistics.median(seconds[1:]), 1)
    print(
        json.dumps(
            {"tokens_per_s": rate, "peak_mib": peers.peak_mib()} | utilisation(shape, rate, dtype)
        )
    )


def utilisation(shape, rate, dtype):
    """MFU against the matrix rate of this format, measured in the same minute."""
    import torch

    from gpt2lab.doctor import DTYPES, matmul_tflops
    from gpt2lab.model import GPT2Config

    layers, heads, width, context, _ = shape
    flops = GPT2Config(
        n_layer=layers, n_head=heads, n_embd=width, vocab_size=VOCAB
    ).flops_per_token(context)  # fmt: skip
    peak = matmul_tflops(torch.device("cpu"), DTYPES.get(dtype, torch.float32), 2048)
    return {"mfu": round(rate * flops / peak / 1e12, 4), "peak_gflops": round(1000 * peak, 1)}


def main():
    args = peers.parser(__doc__).parse_args()
    if args.worker:
        work(*args.worker)
        return
    path = str(peers.nanogpt(args.nanogpt))
    result = {"machine": peers.machine(), "threads": THREADS, "rounds": args.rounds}
    ours = ["gpt2lab", "gpt2lab bfloat16"]
    others = ["nanoGPT", "nanoGPT compiled", "transformers", "transformers bfloat16"]
    for shape in SHAPES:
        found = peers.alternate(__file__, others + ours, args.rounds, shape, path)

        def over(mine, other, figure, found=found):
            return round(found[mine][figure]["median"] / found[other][figure]["median"], 3)

        result[shape] = {"measured": found} | {
            f"{mine} over": {
                other: {"speed": over(mine, other, "tokens_per_s"),
                        "memory": over(mine, other, "peak_mib")}
                for other in others
            }
            for mine in ours
        }  # fmt: skip
    peers.save("train_step", result)


main()
