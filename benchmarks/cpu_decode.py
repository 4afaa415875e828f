"""Claim: on a CPU, decoding 124M is faster than llama.cpp, CTranslate2 and transformers, precision
by precision: one sequence, 8, 32, and reading a prompt of 512 tokens.

Random weights, greedy, two threads; every contender reads the same weights in its own file format.
A figure is a rate of decoding 64 tokens after a prompt of 16, sampling and text included.
Needs `pip install llama-cpp-python ctranslate2 gguf transformers matplotlib` and a GPT-2
vocabulary.
"""

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

import peers

THREADS, PROMPT, NEW = 2, 16, 64
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizer" / "gpt2"
IMAGE = Path(__file__).resolve().parents[1] / "docs" / "images" / "cpu-decode.png"
CONTENDERS = (
    "gpt2lab float32", "transformers float32", "ctranslate2 float32", "llama.cpp f32",
    "gpt2lab bfloat16", "llama.cpp f16",
    "gpt2lab int8", "gpt2lab int8-weight", "ctranslate2 int8", "llama.cpp q8_0",
    "gpt2lab int4", "llama.cpp q4_0", "llama.cpp q4_K",
)  # fmt: skip


class Ours:
    def __init__(self, folder, form):
        import torch

        from gpt2lab.model.checkpoint import load

        torch.set_num_threads(THREADS)
        made = load(folder if form == "float32" else f"{folder}.gpt2lab.{form}", form)
        self.model, self.tokenizer = made.model, made.tokenizer
        self.slots = 0

    def decode(self, prompts, new):
        from gpt2lab.generation import Engine

        if self.slots != len(prompts):
            self.slots = len(prompts)
            self.engine = Engine(self.model, self.tokenizer, slots=self.slots, speculate=False)
        peers.decode(self.engine, prompts, new)


class Transformers:
    def __init__(self, folder, form):
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(THREADS)
        self.torch = torch
        self.model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def decode(self, prompts, new):
        ids = self.torch.tensor(prompts)
        self.model.generate(
            ids, attention_mask=self.torch.ones_like(ids), do_sample=False, use_cache=True,
            min_new_tokens=new, max_new_tokens=new, pad_token_id=0,
        )  # fmt: skip


class CTranslate2:
    def __init__(self, folder, form):
        import ctranslate2

        table = json.loads((Path(folder) / "vocab.json").read_text())
        self.token = {i: t for t, i in table.items()}
        self.model = ctranslate2.Generator(
            f"{folder}.ct2.{form}", compute_type=form, intra_threads=THREADS, inter_threads=1
        )

    def decode(self, prompts, new):
        self.model.generate_batch(
            [[self.token[i] for i in p] for p in prompts], max_batch_size=len(prompts),
            min_length=new, max_length=new, sampling_topk=1, include_prompt_in_result=False,
        )  # fmt: skip


class LlamaCpp:
    def __init__(self, folder, form):
        import llama_cpp
        import numpy as np

        self.np, self.c = np, llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C holds its address
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(f"{folder}.{form}.gguf".encode(), params)
        self.contexts = {}
        self.batch = llama_cpp.llama_batch_init(1024, 0, 1)

    def context(self, sequences):
        if sequences not in self.contexts:
            p = self.c.llama_context_default_params()
            p.n_ctx, p.n_batch, p.n_ubatch = 1024 * sequences, 1024, 512
            p.n_threads = p.n_threads_batch = THREADS
            p.n_seq_max = sequences
            self.contexts[sequences] = self.c.llama_init_from_model(self.model, p)
        return self.contexts[sequences]

    def run(self, context, tokens):
        """tokens: (id, position, sequence, wants logits)."""
        b = self.batch
        b.n_tokens = len(tokens)
        for n, (i, position, sequence, wanted) in enumerate(tokens):
            b.token[n], b.pos[n], b.n_seq_id[n], b.logits[n] = i, position, 1, wanted
            b.seq_id[n][0] = sequence
        assert self.c.llama_decode(context, b) == 0
        out = []
        for n, (*_, wanted) in enumerate(tokens):
            if wanted:
                row = self.c.llama_get_logits_ith(context, n)
                out.append(int(self.np.ctypeslib.as_array(row, (50257,)).argmax()))
        return out

    def decode(self, prompts, new):
        context = self.context(len(prompts))
        self.c.llama_memory_clear(self.c.llama_get_memory(context), True)
        last = []
        for s, p in enumerate(prompts):
            last += self.run(context, [(i, t, s, t == len(p) - 1) for t, i in enumerate(p)])
        for step in range(new - 1):
            at = len(prompts[0]) + step
            last = self.run(context, [(i, at, s, True) for s, i in enumerate(last)])


KINDS = {
    "gpt2lab": Ours, "transformers": Transformers, "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
}  # fmt: skip


IMPORTS = {
    "gpt2lab": ["gpt2lab.generation", "gpt2lab.model.checkpoint"], "transformers": ["transformers"],
    "ctranslate2": ["ctranslate2"], "llama.cpp": ["llama_cpp"],
}  # fmt: skip


def memory_mib():
    """What this process holds now and the most it has held, with what it maps from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    table = dict(line.split(":") for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return [int(table[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")]


def work(folder, name):
    kind, _, form = name.partition(" ")
    for module in IMPORTS[kind]:
        importlib.import_module(module)
    before = memory_mib()[0]
    began = time.perf_counter()
    it = KINDS[kind](folder, form)
    held, peak = (mib - before for mib in memory_mib())
    it.decode([list(range(1, 1 + PROMPT))], 1)
    first = time.perf_counter() - began

    def timed(prompts, new, times):
        it.decode(prompts, min(new, 4))
        found = []
        for _ in range(times):
            began = time.perf_counter()
            it.decode(prompts, new)
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def prompts(count, length=PROMPT):
        # Different every time, so that nothing is found in a prefix cache.
        prompts.next += 1
        return [[1 + (7 * prompts.next + 31 * s + t) % 50_000 for t in range(length)]
                for s in range(count)]  # fmt: skip

    prompts.next = 0

    def rate(count, times):
        whole = timed(prompts(count), NEW, times)
        return round(count * NEW / whole, 1)

    figures = {"loaded_mib": held, "load_peak_mib": peak, "first_token_s": round(first, 2)}
    figures["batch_1"], figures["batch_8"], figures["batch_32"] = (
        rate(1, 3),
        rate(8, 2),
        rate(32, 1),
    )
    seconds = []
    for _ in range(4):
        p = prompts(1, 512)
        began = time.perf_counter()
        it.decode(p, 1)
        seconds.append(time.perf_counter() - began)
    figures["prefill_512_ms"] = round(1000 * statistics.median(seconds[1:]), 1)
    print(json.dumps(figures))


def read_rate():
    """GB/s of reading a large array in huge pages, as weights lie here."""
    import torch

    from gpt2lab.doctor import read_gb_per_second
    from gpt2lab.model.memory import own_copy

    torch.set_num_threads(THREADS)
    return round(read_gb_per_second(own_copy(torch.ones(2**26))), 1)


def weight_bytes(folder, form):
    """What one token reads: the weights in their format, without the positions."""
    own = folder if form == "float32" else Path(f"{folder}.gpt2lab.{form}")
    return (own / "model.safetensors").stat().st_size - 4 * 1024 * 768


def files(folder, vocabulary):
    """The same weights for all: a checkpoint folder, and beside it the peers' own forms."""
    from gpt2lab.model import GPT2, GPT2Config
    from gpt2lab.model.checkpoint import load, save
    from gpt2lab.model.gguf import write_gguf
    from gpt2lab.tokenizer import Tokenizer

    if folder.exists():
        return
    model, tokenizer = GPT2(GPT2Config(), seed=1).eval(), Tokenizer.load(vocabulary)
    save(folder, model, tokenizer, {})
    for form in ("bfloat16", "int8", "int8-weight", "int4"):
        save(Path(f"{folder}.gpt2lab.{form}"), load(folder, form).model, tokenizer, {})
    from ctranslate2.converters import TransformersConverter

    for form in ("float32", "int8"):
        TransformersConverter(str(folder)).convert(f"{folder}.ct2.{form}", quantization=form)
    for form in ("f32", "f16"):
        write_gguf(Path(f"{folder}.{form}.gguf"), model, tokenizer, form, folder.name)
    import llama_cpp

    for form, number in (("q8_0", 7), ("q4_0", 2), ("q4_K", 15)):
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = number, THREADS
        source, target = f"{folder}.f32.gguf".encode(), f"{folder}.{form}.gguf".encode()
        assert llama_cpp.llama_model_quantize(source, target, params) == 0


PANELS = {
    "batch_1": "one text", "batch_8": "eight texts", "batch_32": "thirty-two texts",
    "prefill_512_ms": "reading 512 tokens",
}  # fmt: skip


def plot(medians, path):
    """Tokens a second of every contender; ours in colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    names = list(reversed(medians))
    for number, (key, title) in enumerate(PANELS.items()):
        axes = figure.add_subplot(1, len(PANELS), number + 1)
        found = [medians[name][key] for name in names]
        values = [512_000 / v for v in found] if key.endswith("_ms") else found
        colors = ["#1f6feb" if name.startswith("gpt2lab") else "#b8bec6" for name in names]
        bars = axes.barh(names, values, color=colors)
        axes.bar_label(bars, [f"{v:,.0f}" for v in values], padding=2, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1.25 * max(values))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, labelleft=number == 0)
        axes.set_xticks([])
    figure.suptitle("Tokens per second, 124M on two CPU cores (more is better)", fontsize=11)
    figure.savefig(path, dpi=130)


def main():
    p = peers.parser(__doc__)
    p.add_argument("--work", type=Path, required=True, help="a folder for models, kept")
    p.add_argument("--vocabulary", type=Path, default=SHARED)
    p.add_argument("--only", nargs="+", default=CONTENDERS)
    if "--worker" in sys.argv:
        work(*sys.argv[sys.argv.index("--worker") + 1 :])
        return
    args = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    folder = args.work / "124M"
    files(folder, args.vocabulary)
    runs = {name: [] for name in args.only}
    reads = []
    for number in range(args.rounds):
        for name in args.only:
            reads.append(read_rate())
            runs[name].append(peers.worker(__file__, str(folder), name))
            kind, _, form = name.partition(" ")
            if kind == "gpt2lab":
                read = weight_bytes(folder, form) * runs[name][-1]["batch_1"] / 1e9
                runs[name][-1]["share_of_read_rate"] = round(read / reads[-1], 3)
            print(f"round {number + 1} {name}: {runs[name][-1]}", file=sys.stderr)
    medians = {
        name: {k: statistics.median(f[k] for f in found) for k in found[0]}
        for name, found in runs.items()
    }
    if len(medians) == len(CONTENDERS):
        plot(medians, IMAGE)
    machine = peers.machine() | {"read_gb_per_s_before_each_run": reads}
    peers.save(
        "cpu_decode", {"machine": machine, "threads": THREADS, "median": medians, "runs": runs}
    )


if __name__ == "__main__":
    main()
