"""Fine-tuning as people do it: a model, texts, and what is left in the run's folder."""

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gpt2lab
from gpt2lab import UserError
from gpt2lab.cli.main import main
from gpt2lab.model import GPT2, GPT2Config, checkpoint
from gpt2lab.storage import locked
from gpt2lab.training import finetune as room
from gpt2lab.training import lora, saved
from gpt2lab.training import run as runs
from gpt2lab.training.callbacks import read_metrics
from gpt2lab.training.examples import read_examples
from gpt2lab.training.finetune import finetune
from gpt2lab.training.prepared import prepare
from gpt2lab.training.recipe import Every, Finetune, Optimizer, Recipe, Train
from gpt2lab.training.settings import Settings
from gpt2lab.training.start import starting_model
from small_runs import StopAt, losses, same, sentence, weights

REFERENCE = Path(__file__).parents[1] / "models" / "reference-3M"
SHAPE = GPT2Config(n_layer=3, n_head=2, n_embd=32, n_positions=64, vocab_size=300)


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small"
    model = GPT2(SHAPE, seed=3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(len(name)))
    checkpoint.save(folder, model, small_tokenizer, {})
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "mine.txt"
    path.write_text("<|endoftext|>".join(sentence(i) for i in range(400)))
    return path


def small(**more) -> Settings:
    """Settings of a run of a second or two."""
    given = {"steps": 12, "context": 32, "learning_rate": 3e-3, "sample": 0, "evaluate": 4,
             "method": "full", "device": "cpu"}  # fmt: skip
    return Settings(**given | more)


WAYS = {
    "full": {},
    "lora": {"method": "lora"},
    "top": {"method": "top", "layers": 1},
    "bias": {"method": "bias"},
    "adafactor": {"optimizer": "adafactor", "learning_rate": 0.1},
    "adafactor, bfloat16": {
        "optimizer": "adafactor",
        "weights": "bfloat16",
        "learning_rate": 0.1,
    },
    "lora, bfloat16": {"method": "lora", "weights": "bfloat16", "checkpoint_blocks": True},
    "adamw8bit": {"optimizer": "adamw8bit"},
}


@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path, base, texts, way):
    """What a crash leaves is gone on with; each way learns, and only what it lets move moves."""
    if "adamw8bit" in way:
        pytest.importorskip("bitsandbytes")
    settings = small(**WAYS[way])
    whole = finetune(base, texts, tmp_path / "whole", settings)
    assert whole.steps == 12 and whole.perplexity < 0.95 * whole.perplexity_before
    recipe = runs.saved_recipe(tmp_path / "whole")
    broken = tmp_path / "broken"
    recipe = replace(recipe, every=replace(recipe.every, save=3))
    with pytest.raises(RuntimeError, match="crash"):
        runs.start(recipe, broken, callbacks=[StopAt(7)])
    assert saved.list_checkpoints(broken)[-1].name == "step-0000006"
    runs.resume(broken)
    assert same(weights(tmp_path / "whole" / "model"), weights(broken / "model"))
    assert losses(broken) == losses(tmp_path / "whole")

    before, after = weights(base), weights(whole.model)
    moved = {name for name in before if not torch.equal(before[name], after[name].float())}
    rounded = "bfloat16" in way
    if way in ("full", "adafactor", "adamw8bit"):
        assert moved == before.keys()
    if WAYS[way].get("method") == "lora" and not rounded:
        assert moved == {n for n in before if n.endswith((*(f"{t}.weight" for t in lora.TARGETS),))}
    if way == "top":
        assert moved == {n for n in before if ".h.2." in n or ".ln_f." in n}
    if way == "bias":
        assert moved == {n for n in before if n.endswith("bias")}
    assert (whole.adapter is not None) == (WAYS[way].get("method") == "lora")


def test_the_best_is_kept_and_a_run_that_gets_no_better_ends(tmp_path, base, texts):
    """Too high a rate: it learns, and then only memorises or breaks."""
    few = tmp_path / "few.txt"
    few.write_text("<|endoftext|>".join(sentence(i) for i in range(12)))
    settings = small(steps=400, learning_rate=3e-2, evaluate=5, patience=2, context=16)
    done = finetune(base, few, tmp_path / "run", settings)
    found = [m for m in read_metrics(done.run) if "validation_loss" in m]
    best = min(found, key=lambda m: m["validation_loss"])
    assert done.steps == best["step"] + 2 * 5 < 400
    assert done.perplexity == pytest.approx(torch.tensor(best["validation_loss"]).exp().item())
    kept = [saved.step_of(c) for c in saved.list_checkpoints(done.run)]
    assert kept == [best["step"], done.steps], "the best and the last"
    made = json.loads((done.model / "gpt2lab.json").read_text())
    assert made["step"] == best["step"]
    assert same(weights(done.model), weights(done.run / "checkpoints" / f"step-{best['step']:07d}"))
    again = runs.resume(done.run)
    assert again == done.model and read_metrics(done.run)[-1]["step"] == done.steps


def test_samples_and_their_curves(tmp_path, base):
    """A model that learns a few lines by heart writes them, and the curve says so."""
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"line {n % 4}:", "completion": " " + sentence(n % 4)} for n in range(60)]
    path.write_text("".join(json.dumps(row | {"prompt": row["prompt"] + " " * (n // 4)}) + "\n"
                            for n, row in enumerate(rows)))  # fmt: skip
    settings = small(steps=300, sample=50, evaluate=150, patience=0, learning_rate=1e-2)
    done = finetune(base, path, tmp_path / "run", settings)
    lines = [json.loads(line) for line in (done.run / "samples.jsonl").read_text().splitlines()]
    prompts = runs.saved_recipe(done.run).every.prompts
    assert len(prompts) == 3 and all(p.startswith("line ") and p.endswith(":") for p in prompts)
    assert [(m["step"], m["prompt"]) for m in lines] == [
        (s, p) for s in range(50, 301, 50) for p in prompts
    ]
    first, *_, last = (m for m in read_metrics(done.run) if "sample_copied" in m)
    assert last["sample_copied"] > first["sample_copied"] + 0.1
    assert 0 < last["sample_distinct_2"] <= 1 and last["sample_longest_copy"] >= 8
    assert {m["finish_reason"] for m in lines} <= {"length", "end_of_text"}


def test_merged_is_unmerged(tmp_path, base, texts):
    done = finetune(base, texts, tmp_path / "run", small(method="lora", learning_rate=1e-2))
    merged = gpt2lab.load(done.model).model
    apart = gpt2lab.load(base).model
    lora.load(done.adapter, apart)
    ids = torch.randint(300, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart.eval()
        assert (apart(ids) - gpt2lab.load(base).model(ids)).abs().max() > 0.1
        torch.testing.assert_close(merged(ids), apart(ids), rtol=1e-5, atol=1e-5)


def test_merged_in_bfloat16_keeps_what_was_learned(tmp_path, base, texts):
    """Most changes are smaller than what bfloat16 weights are rounded to."""
    settings = small(method="lora", weights="bfloat16", learning_rate=1e-3)
    done = finetune(base, texts, tmp_path / "run", settings)
    merged, apart = gpt2lab.load(done.model).model, gpt2lab.load(base).model
    lora.load(done.adapter, apart)
    for path, change in lora.changes(apart).items():
        weight = merged.get_parameter(f"{path}.weight")
        torch.testing.assert_close(weight - change.weight, change.change(), rtol=0, atol=1e-7)
        assert change.change().abs().max() > 0


def test_shakespeare(tmp_path, data):
    """A small model that knows web pages reads plays; LoRA comes within 3 % of moving it all.

    Both at ten times the default rates, as the model is forty times as small as the smallest GPT-2.
    """
    plays = data / "corpus" / "tinyshakespeare.txt.zst"
    found = {}
    for method, rate in (("full", 5e-4), ("lora", 2e-3)):
        settings = Settings(method=method, rank=64, alpha=128.0, steps=120, learning_rate=rate,
                            context=128, evaluate=40, sample=0, device="cpu")  # fmt: skip
        found[method] = finetune(REFERENCE, plays, tmp_path / method, settings)
    full, adapted = found["full"], found["lora"]
    assert full.perplexity < 0.8 * full.perplexity_before
    assert adapted.perplexity < 1.03 * full.perplexity


def test_chats_with_tokens_of_their_own(tmp_path, base, capsys):
    """New rows of the table, a recorded template, and answers that end."""
    path = tmp_path / "chats.jsonl"
    turns = [
        [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": word}]
        for word in ("cat", "dog", "mat", "rain", "the", "sat", "on", "by", "and", "it") * 6
    ]
    path.write_text(
        "".join(json.dumps({"messages": t, "n": n}) + "\n" for n, t in enumerate(turns))
    )
    settings = small(steps=250, learning_rate=1e-2, patience=0, evaluate=50, sample=125)
    done = finetune(base, path, tmp_path / "run", settings, chat="tokens", held_out=0.1)
    made = gpt2lab.load(done.model)
    assert made.model.config.vocab_size == made.tokenizer.size == 303
    ids = made.tokenizer.encode("<|user|>say dog<|assistant|>", specials=True)
    assert ids == [301, *made.tokenizer.encode("say dog"), 302]
    assert 0 < len(done.write("<|user|>say dog<|assistant|>")) < 12, "it answers, and stops"
    prompts = {json.loads(line)["prompt"] for line in (done.run / "samples.jsonl").open()}
    assert all(re.fullmatch(r"<\|user\|>say \w+<\|assistant\|>", p) for p in prompts)
    last = json.loads((done.run / "samples.jsonl").read_text().split("\n")[-2])
    assert len(last["text"]) < 12 and last["finish_reason"] == "end_of_text"
    from gpt2lab.generation import Request, Sampling, generate

    (answer,) = generate(
        made.model, made.tokenizer,
        [Request(tuple(ids), max_tokens=20, sampling=Sampling(temperature=0.0))],
    )  # fmt: skip
    assert (answer.text, answer.finish_reason) == ("dog", "end_of_text")
    asked = [str(done.model), "<|user|>say dog<|assistant|>", "--specials", "--temperature", "0"]
    assert main(["generate", *asked]) == 0
    assert capsys.readouterr().out.strip().endswith("<|assistant|>dog")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(done.model)
    asked = theirs.apply_chat_template(
        [{"role": "user", "content": "say dog"}], add_generation_prompt=True, tokenize=True
    )
    found = asked["input_ids"] if not isinstance(asked, list) else asked
    assert list(found) == ids
    model = transformers.GPT2LMHeadModel.from_pretrained(done.model)
    with torch.no_grad():
        x = torch.tensor([ids])
        torch.testing.assert_close(model(x).logits, made.model(x), rtol=1e-5, atol=1e-5)


def test_five_lines(tmp_path, base, texts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = gpt2lab.finetune(base, texts, steps=2, context=32, evaluate=1, sample=0)
    assert run.run == Path("runs/finetune") and run.perplexity and run.model.exists()


def test_killed_while_reading_or_training(tmp_path, base, texts):
    """SIGKILL before the first step leaves nothing in the way; afterwards the run goes on."""
    run = tmp_path / "run"
    command = ["finetune", str(base), str(texts), "--out", str(run), "--method", "lora",
               "--steps", "300", "--context", "32", "--evaluate", "50", "--sample", "0",
               "--device", "cpu"]  # fmt: skip
    code = "import sys; from gpt2lab.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def start(*args):
        return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)  # fmt: skip

    for signs in (run / "data" / "index.json", run / "checkpoints"):
        process = start(*command)
        end = time.monotonic() + 120
        while not (signs.exists() and (signs.is_file() or any(signs.glob("step-*")))):
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start("finetune", "--resume", str(run), "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["steps"] == 300 and result["perplexity"] < result["perplexity_before"]


# --- what is refused, and leaves everything as it was


def refused(words, *args, **more):
    with pytest.raises(UserError, match=words):
        finetune(*args, **more)


def test_bad_input(tmp_path, base, texts, small_tokenizer):
    run = tmp_path / "run"
    refused("mine.txt does not exist", base, tmp_path / "mine.txt", run)
    refused("neither a path that exists nor a published model", tmp_path / "no", texts, run)
    refused("unknown key 'epoch'; did you mean 'epochs'", base, texts, run, epoch=1)
    refused("'steps' must be a whole number, not 2.5", base, texts, run, steps=2.5)
    refused("'prompts' must be a list, not 'Dear Sir'", base, texts, run, prompts="Dear Sir")
    refused("'texts.check' must be a list", base, texts, run, check="eval.jsonl")
    refused("'texts.chat' must be one of 'text', 'tokens'", base, texts, run, chat="x")
    refused("--chat tokens adds to the vocabulary, which --method lora", base, texts, run,
            chat="tokens", method="lora")  # fmt: skip
    refused("prompt '.udcff' is not text", base, texts, run, prompts=["\udcff"])
    refused("has no column 'tweet'", base, csv(tmp_path, "text\na\nb\n"), run, column="tweet")
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": "a", "completion": ""}\n{"prompt": "b"}\n')
    refused("no example was read; empty.jsonl, line 1: 'completion' is empty", base, empty, run)
    refused("batch is 0; it must be at least 1", base, texts, run, batch=0)
    refused("finetune.layers is 9, .* has 3 blocks", base, texts, run, method="top", layers=9)
    refused("held_out is 1.5", base, texts, run, held_out=1.5)
    refused("check: .*none.txt does not exist", base, texts, run, check=(tmp_path / "none.txt",))
    refused("no way to fine-tune has method bias, weights bfloat16", base, texts, run,
            method="bias", weights="bfloat16")  # fmt: skip
    bare = tmp_path / "bare"
    checkpoint.save(bare, GPT2(SHAPE), None, {})
    refused("holds no tokenizer", bare, texts, run)
    for name, value in [
        ("epochs", math.nan), ("epochs", 0), ("steps", -3), ("steps", 0), ("minutes", -1.0),
        ("evaluate", -1), ("learning_rate", 0.0), ("learning_rate", -1.0), ("patience", -1),
        ("sample", -1), ("context", 0), ("context", 65), ("rank", 0),
        ("dropout", 2.0), ("seed", -1),
    ]:  # fmt: skip
        refused(name, base, texts, run, **{name: value})
        assert not run.exists(), name
    assert not run.exists(), "nothing half-written"


def test_what_is_in_the_folder_stays(tmp_path, base, texts):
    """Shards of someone's own; a run that is at work; nothing is left of a call that fails late."""
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "data" / "notes.md").write_text("mine")
    refused("data is there, and of no run; move it away", base, texts, run)
    assert (run / "data" / "notes.md").read_text() == "mine"
    with locked(tmp_path / ".lock", tmp_path):
        refused("another run is at work in", base, texts, tmp_path)
    assert not (tmp_path / "data").exists()
    two = tmp_path / "two.jsonl"
    two.write_text('{"text": "a"}\n{"text": "b"}\n')
    refused("the training text is 3 tokens; .* give more text", base, two, tmp_path / "late")
    assert not (tmp_path / "late").exists()
    done = finetune(base, texts, tmp_path / "own", small(steps=2))
    refused("lies in .*own, which is to be replaced", done.model, texts, done.run, overwrite=True)


def test_few_short_rows(tmp_path, small_tokenizer):
    """With what is chosen by itself, on a model of the usual context."""
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_positions=1024, vocab_size=300)
    checkpoint.save(tmp_path / "base", GPT2(config), small_tokenizer, {})
    for count in (20, 47, 100):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(json.dumps({"text": sentence(i)}) + "\n" for i in range(count)))
        done = finetune(tmp_path / "base", path, tmp_path / f"run{count}", steps=2, device="cpu")
        assert done.perplexity < done.perplexity_before


def test_only_windows_with_something_to_learn_are_measured(tmp_path, base):
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": " ".join([sentence(i)] * 20), "completion": f"yes {i}"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = finetune(base, path, tmp_path / "run", small(context=16, steps=2))
    assert done.perplexity > 50


def test_prompts_are_beginnings_of_held_out_texts(tmp_path, small_tokenizer):
    """Also where texts are longer than what is looked at first."""
    texts = [f"Text {i} begins. " + sentence(i) * 120 for i in range(80)]
    path = tmp_path / "mine.txt"
    path.write_text("<|endoftext|>".join(texts))
    prepare(lambda r: read_examples(path, r), small_tokenizer, tmp_path / "shards", held_out=0.1,
            step=lambda _: contextlib.nullcontext())  # fmt: skip
    found = room._beginnings(tmp_path / "shards", small_tokenizer)
    assert len(set(found)) == 3 and all(re.match(r"Text \d+ begins", text) for text in found)


def test_another_script_is_told(tmp_path, base, capsys):
    path = tmp_path / "mine.txt"
    path.write_text("<|endoftext|>".join(f"Буря мглою небо кроет, {i}" for i in range(200)))
    done = finetune(base, path, tmp_path / "run", small(steps=2))
    assert "it was made for another language or script" in capsys.readouterr().err
    assert done.perplexity


def csv(folder, text):
    path = folder / "a.csv"
    path.write_text(text)
    return path


def test_a_run_that_is_there_is_not_lost(tmp_path, base, texts):
    done = finetune(base, texts, tmp_path / "run", small(steps=4))
    kept = weights(done.model)
    refused("holds a run already; continue it", base, texts, done.run)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    refused("no example was read", base, broken, done.run, overwrite=True)
    assert same(kept, weights(done.model)) and runs.resume(done.run) == done.model
    again = finetune(base, texts, done.run, small(steps=2), overwrite=True)
    assert again.steps == 2 and not same(kept, weights(again.model))
    assert runs.resume(again.run) == again.model


def test_a_base_that_changed_is_told(tmp_path, texts, small_tokenizer):
    base = tmp_path / "base"
    checkpoint.save(base, GPT2(SHAPE, seed=3), small_tokenizer, {})
    done = finetune(base, texts, tmp_path / "run", small(method="lora", steps=4))
    checkpoint.save(base, GPT2(SHAPE, seed=4), small_tokenizer, {}, overwrite=True)
    with pytest.raises(UserError, match="the base model has changed since .*base_digest differs"):
        runs.resume(done.run)
    recipe = runs.saved_recipe(done.run)
    other = replace(recipe, finetune=replace(recipe.finetune, lora=lora.Shape(rank=4)))
    with pytest.raises(UserError, match="finetune.lora.rank was 16 and is now 4"):
        runs.resume(done.run, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"finetune": Finetune(method="lora")}, "finetune.model is not set"),
        ({"finetune": Finetune("m", "top"), "optimizer": Optimizer(name="muon")}, "goes with"),
        ({"train": Train(steps=1, weights="bfloat16")}, "would lose most of its moves"),
        ({"finetune": Finetune("m", "lora", vocab_size=9)}, "adds tokens, which .* does not teach"),
        (
            {"optimizer": Optimizer(name="adafactor"), "train": Train(steps=1, on_spike="skip")},
            "no step can be taken back",
        ),
        ({"train": Train(steps=1, patience=-1)}, "train.patience is -1"),
    ],
)
def test_recipes_that_contradict_themselves(change, words):
    with pytest.raises(UserError, match=words):
        Recipe(**{"every": Every()} | change)


def test_a_larger_vocabulary_leaves_what_there_was(base):
    recipe = Recipe(model=replace(SHAPE, vocab_size=310, dropout=0.25),
                    finetune=Finetune(str(base), vocab_size=310), train=Train(steps=1, context=64,
                    batch_tokens=64, micro_batch=1))  # fmt: skip
    grown, old = starting_model(recipe), gpt2lab.load(base).model
    table = grown.wte.weight
    assert torch.equal(table[:300], old.wte.weight) and len(table) == 310
    torch.testing.assert_close(table[300], old.wte.weight.mean(dim=0))
    assert {m.p for m in grown.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    ids = torch.randint(300, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(grown.eval()(ids)[..., :300], old(ids))


def test_the_plan_is_printed(base, capsys):
    assert main(["finetune", "plan", str(base)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n*") == 1 and "* full" in out.replace("*  full", "* full")
    assert main(["finetune", "plan", "gpt2-xl", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in table["ways"]} == {"full", "lora", "top", "bias"}
    assert room.plan("1.5B", Settings())[0][0].memory > 24e9


def test_the_verb(tmp_path, base, texts, capsys):
    run = tmp_path / "run"
    args = ["finetune", str(base), str(texts), "--out", str(run), "--steps", "2", "--json",
            "--evaluate", "1", "--context", "32", "--sample", "2",
            "--check", str(texts)]  # fmt: skip
    assert main(args) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["model"] == str(run / "model") and result["perplexity"] > 1
    assert "texts to learn from" in shown.err and "sample at step 2" in shown.err
    assert "mine.txt: " in shown.err, "overlap is told"
    assert main(["finetune", "--resume", str(run), "--steps", "9"]) == 2
    assert "--resume goes on as the run was begun" in capsys.readouterr().err
    assert main(["finetune", str(base)]) == 2
