import json
import re
import subprocess
import sys
import time

import pytest
import torch

from gpt2lab.cli.main import VERBS, main
from gpt2lab.model import checkpoint


@pytest.fixture
def folder(tmp_path, tiny, small_tokenizer):
    checkpoint.save(tmp_path / "model", tiny, small_tokenizer, {})
    return str(tmp_path / "model")


def test_help_is_quick_and_torch_free():
    code = (
        "import sys; from gpt2lab.cli.main import main; main(['--help']); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    best = min(_seconds([sys.executable, "-c", code]) for _ in range(3))
    assert best < 0.5


def _seconds(command):
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


@pytest.mark.parametrize("module", ["gpt2lab", "gpt2lab.cli.main", "gpt2lab.corpus.build"])
def test_imports_without_torch(module):
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_usage_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert main(["--version"]) == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"gpt2lab {verb}" in capsys.readouterr().out


def test_unknown_verb_and_option(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["train", "--train.batch-token", "3"])
    assert caught.value.code == 2


def test_a_recipe_that_does_not_come_first(tmp_path, capsys):
    (tmp_path / "r.toml").write_text("")
    assert main(["train", "--train.steps", "3", str(tmp_path / "r.toml")]) == 2
    assert "write the recipe first" in capsys.readouterr().err
    assert main(["train", f"--resume={tmp_path}"]) == 2
    assert "holds no run (recipe.toml is missing)" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "r.toml"), f"--resume={tmp_path}", "--overwrite"]) == 2
    assert "--resume goes on in the run's own folder" in capsys.readouterr().err


def test_recipe_mistakes_exit_2(tmp_path, capsys):
    path = tmp_path / "r.toml"
    for text, words in (
        (
            "[train]\nbatch_token = 3\n",
            "unknown key 'train.batch_token'; did you mean 'batch_tokens'?",
        ),
        ("[train]\nbatch_tokens = 'many'\n", "'train.batch_tokens' must be a whole number"),
        ("[model]\nn_head = 7\n", "r.toml: model.n_embd 768 is not divisible by model.n_head 7"),
        ("[optimizer]\nclip = -1.0\n", "optimizer.clip is -1.0; it must be 0 (off) or above"),
        ("[train]\nseed = -1\n", "train.seed is -1"),
    ):
        path.write_text(text)
        assert main(["train", str(path)]) == 2
        assert words in capsys.readouterr().err


def test_dry_run_shows_recipe_and_costs(tmp_path, capsys):
    path = tmp_path / "r.toml"
    path.write_text("[train]\nsteps = 100\npeak_tflops = 1.0\n")
    arguments = ["--dry-run", "--train.device", "cpu", "--train.dtype", "float32"]
    assert main(["train", str(path), *arguments, "--optimizer.learning-rate", "1e-3"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate = 0.001" in out
    assert "124,439,808" in out
    assert main(["train", str(path), *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 124439808


def test_generate(folder, capsys, tmp_path, monkeypatch):
    options = ["--max-tokens", "8", "--seed", "1"]
    assert main(["generate", folder, "the cat", *options]) == 0
    streamed = capsys.readouterr().out
    assert streamed.startswith("the cat")
    assert main(["generate", folder, "the cat", *options, "--json", "--n", "2"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert len(results) == 2
    assert "the cat" + results[0]["text"] == streamed.rstrip("\n")
    assert [r["seed"] for r in results] == [1, 2]
    assert len(results[0]["logprobs"]) == len(results[0]["ids"])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat\nthe dog sat\n")
    assert main(["generate", folder, "--prompts", str(prompts), *options]) == 0
    assert capsys.readouterr().out.startswith(streamed.rstrip("\n"))
    long = "cat " * 500
    assert main(["generate", folder, long]) == 2
    assert "this model's context is 48: shorten the prompt" in capsys.readouterr().err
    assert main(["generate", folder, "a", "--temperature", "-1"]) == 2
    assert "temperature is -1.0" in capsys.readouterr().err


def test_generate_in_formats_with_drafts_and_beams(folder, capsys):
    options = ["--max-tokens", "8", "--temperature", "0"]
    assert main(["generate", folder, "the cat", *options]) == 0
    plain = capsys.readouterr().out
    for more in (
        ["--dtype", "bfloat16"],
        ["--dtype", "int8"],
        ["--draft", folder],
        ["--beams", "1"],
    ):
        assert main(["generate", folder, "the cat", *options, *more]) == 0
        out = capsys.readouterr().out
        assert out.startswith("the cat")
        if more[0] != "--dtype":
            assert out.removesuffix(f"{'-' * 20}\n") == plain
    with pytest.raises(SystemExit, match="2"):
        main(["generate", folder, "a", "--dtype", "int3"])
    assert "int8-weight" in capsys.readouterr().err
    assert main(["generate", folder, "a", "--beams", "2", "--draft", folder]) == 2
    assert "--beams goes neither with --draft" in capsys.readouterr().err
    assert main(["generate", folder, "a", "--beams", "2", "--watermark", "3"]) == 2
    assert "so it leaves no watermark" in capsys.readouterr().err
    assert main(["generate", folder, "a", "--beams", "0"]) == 2
    assert "beams is 0" in capsys.readouterr().err
    assert main(["generate", folder, "a", "--beams", "2", "--max-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["logprobs"] is None
    assert main(["generate", folder, "a", "--device", "tpu"]) == 2
    assert "--device 'tpu' cannot be used here" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA card")
def test_a_device_that_is_not_there(folder, capsys):
    assert main(["generate", folder, "a", "--device", "cuda"]) == 2
    assert "--device 'cuda' cannot be used here" in capsys.readouterr().err


def test_generate_a_batch(folder, capsys, tmp_path):
    path = tmp_path / "requests.jsonl"
    lines = [
        {"prompt": "the cat", "max_tokens": 20, "seed": 5},
        {"prompt": "the dog", "temperature": 0},
        {"prompt": "", "stop": ["t"], "logit_bias": {"5": -3}},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    options = ["--max-tokens", "3", "--seed", "1"]
    assert main(["generate", folder, "--batch", str(path), *options]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["seed"] for r in results] == [5, 2, 3]
    assert [len(r["ids"]) for r in results][:2] == [20, 3]
    for bad, words in (
        ("{", "line 2: "),
        ("[]", 'line 2: not an object with a text under "prompt"'),
        (
            '{"prompt": "a", "temprature": 1}',
            "line 2: unknown key 'temprature'; did you mean 'temperature'",
        ),
        ('{"prompt": "a", "top_k": "9"}', "line 2: 'top_k' must be a whole number, not '9'"),
        ('{"prompt": "a", "top_k": -9}', "line 2: top_k is -9; it must be"),
        ('{"prompt": "a", "top_k": 1' + "0" * 30 + "}", "line 2: top_k is 1000"),
        ('{"prompt": "a", "logit_bias": {"5": 1e39}}', "line 2: logit_bias of token 5 is 1e[+]39"),
        ('{"prompt": "\\ud800"}', "line 2: .*surrogate"),
        ('{"prompt": "a", "temperature": NaN}', "line 2: temperature is nan"),
        (
            '{"prompt": "a", "max_tokens": true}',
            "line 2: 'max_tokens' must be a whole number, not True",
        ),
        ('{"prompt": "a", "seed": -1}', "line 2: seed is -1"),
        ('{"prompt": "a", "stop": [1]}', "line 2: 'stop' must be a string, not 1"),
        (
            '{"prompt": "a", "logit_bias": {"x": 1}}',
            "line 2: 'logit_bias' must be values by number",
        ),
        ('{"prompt": "a", "logit_bias": {"99999": 1}}', "line 2: logit_bias names token 99999"),
        (json.dumps({"prompt": "cat " * 500}), "line 2: the prompt is"),
        ("[" * 100_000, "line 2: "),
    ):
        path.write_text('{"prompt": "a"}\n' + bad + "\n")
        assert main(["generate", folder, "--batch", str(path), *options]) == 2
        shown = capsys.readouterr()
        assert re.search(words, shown.err), shown.err
        assert shown.out == ""
    path.write_text("\n")
    assert main(["generate", folder, "--batch", str(path)]) == 2
    assert "is empty" in capsys.readouterr().err
    assert main(["generate", folder, "a", "--batch", str(path)]) == 2
    assert "PROMPT and --batch are both given" in capsys.readouterr().err


def test_lines_end_where_files_say(folder, capsys, tmp_path):
    """Not at the other characters that Python takes for line ends; after a byte order mark."""
    path = tmp_path / "file"
    options = ["--max-tokens", "2", "--seed", "1", "--ignore-end"]
    text = '{"prompt": "a\u2028b\u0085", "seed": null}\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert main(["generate", folder, "--batch", str(path), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["logprobs"]) == 2
    path.write_bytes("\ufeffone\x0ctwo\n".encode())
    assert main(["generate", folder, "--prompts", str(path), *options, "--json"]) == 0
    assert [r["prompt"] for r in json.loads(capsys.readouterr().out)["results"]] == ["one\x0ctwo"]
    assert main(["generate", folder, "--batch", str(path), "--n", "2"]) == 2
    assert "--n goes not with --batch" in capsys.readouterr().err


def test_the_prompt_is_shown_whatever_follows(folder, capsys):
    assert main(["generate", folder, "the cat", "--max-tokens", "0"]) == 0
    assert capsys.readouterr().out == "the cat\n"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--top-k", "9" * 20], "top_k is 9999"),
        (["--temperature", "1e39"], "temperature is 1e[+]39; it must be 0 or from 1e-6 to 1e6"),
        (["--presence-penalty", "1e300"], "presence_penalty is 1e[+]300"),
        (["--frequency-penalty", "-1e39"], "frequency_penalty is -1e[+]39"),
        (["--repetition-penalty", "1e-320"], "repetition_penalty is 1e-320"),
        (["--logit-bias", "5", "1e39"], "logit_bias of token 5 is"),
        (["--beams", "8192"], "beams is 8192; it must be from 1 to 64"),
    ],
)
def test_numbers_that_no_logit_can_hold(folder, capsys, option, words):
    assert main(["generate", folder, "a", *option]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_tokenizer(tmp_path, capsys, gpt2):
    gpt2.save(tmp_path / "gpt2")
    where = str(tmp_path / "gpt2")
    assert main(["tokenizer", "encode", where, "Hello world"]) == 0
    assert capsys.readouterr().out == "15496 995\n"
    assert main(["tokenizer", "decode", where, "15496", "995"]) == 0
    assert capsys.readouterr().out == "Hello world\n"
    assert main(["tokenizer", "info", where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 50257
    assert main(["tokenizer", "decode", where, "60000"]) == 2
    assert "60000 is outside" in capsys.readouterr().err
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\n" * 50)
    out = tmp_path / "own"
    assert main(["tokenizer", "train", str(text), str(out), "--vocab-size", "265"]) == 0
    capsys.readouterr()
    assert main(["tokenizer", "encode", str(out), "the cat", "--json"]) == 0
    assert "".join(json.loads(capsys.readouterr().out)["tokens"]) == "the cat"
    assert main(["tokenizer", "train", str(text), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_shard_import_and_train_together(folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join(f"the cat sat on mat {i}" for i in range(400)))
    shards, run = tmp_path / "shards", tmp_path / "run"
    assert main(["corpus", "shard", str(text), str(shards), "--tokenizer", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 400
    path = tmp_path / "r.toml"
    path.write_text(
        "[model]\nn_layer = 1\nn_head = 2\nn_embd = 16\nn_positions = 16\nvocab_size = 300\n"
        "[train]\nsteps = 3\nbatch_tokens = 64\nmicro_batch = 4\npeak_tflops = 0.1\n"
        "[every]\nsample = 2\n"
    )
    options = ["--data.path", str(shards), "--out", str(run), "--json"]
    assert main(["train", str(path), *options]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 3
    assert "sample at step 2" in captured.err
    assert main(["train", "--resume", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert main(["train", "--resume", str(run), "--train.steps", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5
    assert main(["import", str(run / "model"), str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_layer"] == 1
    assert main(["generate", str(run), "the", "--max-tokens", "3"]) == 0


def test_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cpu_float32_gflops"] > 0
    assert found["training_dtype"] in ("float32", "bfloat16", "float16")
