"""`gpt2lab VERB ...`: find the verb, run it, turn user errors into one sentence and status 2."""

import importlib
import io
import os
import sys
from collections.abc import Sequence

from gpt2lab import __version__
from gpt2lab.errors import UserError

# Verb -> module and summary, in the order in which the work flows. Modules are imported only when
# their verb runs, so that `--help` needs no torch.
VERBS = {
    "quickstart": ("quickstart", "train a small GPT-2 on this machine in minutes and report on it"),
    "corpus": ("corpus", "links, crawl, extract, clean, shard, build, report"),
    "tokenizer": ("tokenizer", "train, encode, decode, info"),
    "train": ("train", "train a model from a recipe, or --resume a run"),
    "finetune": ("finetune", "go on training a model on your texts; plan: what fits here"),
    "generate": ("generate", "continue prompts: one, many from a file, or interactively"),
    "evaluate": ("evaluate", "score a model on the paper's tasks and others; compare two"),
    "detect": ("detect", "tell a model's texts from people's: collect, train, score, evaluate"),
    "serve": ("serve", "offer models over HTTP, in the form of OpenAI's API"),
    "import": ("import_", "bring in a model from Hugging Face, OpenAI, nanoGPT, llm.c or GGUF"),
    "export": ("export", "write a model for transformers, llama.cpp, Ollama or onnxruntime"),
    "doctor": ("doctor", "what this machine has, measured"),
}


def usage() -> str:
    """The text of `gpt2lab --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    return (
        "usage: gpt2lab VERB [options]\n\n"
        "The whole GPT-2 system: corpus, tokenizer, model, training, sampling, measurement.\n\n"
        f"{verbs}\n\n"
        "gpt2lab VERB --help shows a verb's options; --json prints its result as one JSON object.\n"
        "Start with: gpt2lab quickstart"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that is not UTF-8 loses no text
        sys.stdout.reconfigure(errors="backslashreplace")
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"gpt2lab {__version__}")
        return 0
    if args[0] not in VERBS:
        import difflib

        near = difflib.get_close_matches(args[0], VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see gpt2lab --help"
        print(f"gpt2lab: error: no verb {args[0]!r}; {hint}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"gpt2lab.cli.{VERBS[args[0]][0]}")
        module.run(args[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"gpt2lab: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("gpt2lab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # what no room below has turned into a sentence: /dev/full, say
        print(f"gpt2lab: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
