"""Claim: fine-tuning 124M on a CPU is at least 1.3x as fast as transformers + peft, in 0.7x memory.

Full and LoRA (rank 16 on every linear map, dropout 0.05), context 256, 8 sequences a step, AdamW,
float32 for both; the same token ids in the same packed windows. The peer is transformers' own
`Trainer` on `GPT2LMHeadModel`, with peft's adapter for LoRA. Ours is the training loop. Both are
processes of their own, alternating; a warm-up step is left out of the rate; memory is the peak of
the process, as both load libraries.
"""

import json
import tempfile
import time
from pathlib import Path

import peers

CONTEXT, SEQUENCES, STEPS = 256, 8, 4
CONTENDERS = ("ours-full", "theirs-full", "ours-lora", "theirs-lora")


def ours(base, method):
    from gpt2lab.model import GPT2Config
    from gpt2lab.training.recipe import Finetune, Optimizer, Recipe, Train

    recipe = Recipe(
        model=GPT2Config.named("124M"),
        finetune=Finetune(base, method),
        optimizer=Optimizer(learning_rate=2e-4, weight_decay=0.01),
        train=Train(
            steps=STEPS + 1, batch_tokens=SEQUENCES * CONTEXT, micro_batch=SEQUENCES,
            context=CONTEXT, dtype="float32", device="cpu",
        ),
    )  # fmt: skip
    trainer = peers.random_trainer(recipe)
    trainer._step()
    began = time.perf_counter()
    for _ in range(STEPS):
        record = trainer._step()
    return STEPS * SEQUENCES * CONTEXT / (time.perf_counter() - began), record["loss"]


def theirs(base, method):
    import torch
    from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    model = GPT2LMHeadModel.from_pretrained(base, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True, task_type="CAUSAL_LM",
        ))  # fmt: skip
    ids = torch.from_numpy(peers.random_ids(50257).astype("int64"))
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    times, losses = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            times.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **kwargs):
            losses.append((logs or {}).get("loss"))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=SEQUENCES, max_steps=STEPS + 1, use_cpu=True,
            learning_rate=2e-4, weight_decay=0.01, logging_steps=1, save_strategy="no",
            report_to=[], disable_tqdm=True,
        )  # fmt: skip
        data = [{"input_ids": row, "labels": row} for row in windows]
        Trainer(model, arguments, train_dataset=data, callbacks=[Clock()]).train()
    found = [loss for loss in losses if loss is not None]
    return STEPS * SEQUENCES * CONTEXT / (times[-1] - times[0]), float(found[-1])


def main():
    parser = peers.parser(__doc__)
    args = parser.parse_args()
    if args.worker:
        name, base = args.worker
        side, method = name.split("-")
        rate, loss = (ours if side == "ours" else theirs)(base, method)
        print(json.dumps({"tokens_per_s": rate, "peak_mib": peers.peak_mib(), "loss": loss}))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base(base)
        found = peers.alternate(__file__, list(CONTENDERS), args.rounds, str(base))
    result = {"machine": peers.machine(), "contenders": found}
    for method in ("full", "lora"):
        mine, other = found[f"ours-{method}"], found[f"theirs-{method}"]
        result[f"{method}, times as fast"] = round(
            mine["tokens_per_s"]["median"] / other["tokens_per_s"]["median"], 2
        )
        result[f"{method}, share of memory"] = round(
            mine["peak_mib"]["median"] / other["peak_mib"]["median"], 2
        )
    peers.save("finetune", result)


def make_base(folder):
    from gpt2lab.model import GPT2, GPT2Config, checkpoint

    checkpoint.save(folder, GPT2(GPT2Config.named("124M")), None, {})


if __name__ == "__main__":
    main()
