"""Make the reference models: corpus, vocabulary, three runs, and the folders that are published.

python recipes/reference/make.py TEXTS OUT [--sizes 1M 3M 10M] [--threads 2]

Stopped with ctrl-C or killed, the same command goes on where it was.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from card import write_card

from gpt2lab.corpus import pipeline
from gpt2lab.corpus.plaintext import read_documents
from gpt2lab.corpus.recipe import Recipe as CorpusRecipe
from gpt2lab.progress import step
from gpt2lab.settings import read_recipe
from gpt2lab.tokenizer import train
from gpt2lab.training import run as runs
from gpt2lab.training.recipe import Recipe

HERE = Path(__file__).parent
SIZES = ("1M", "3M", "10M")
VOCABULARY = 8192


def make_corpus(texts: Path, out: Path) -> Path:
    """The corpus, with a vocabulary learned on its training documents alone."""
    final = out / "corpus"
    if final.exists():
        return final
    recipe = read_recipe(HERE / "corpus.toml", CorpusRecipe)
    recipe = replace(recipe, source=replace(recipe.source, paths=(str(texts),)))
    # Which documents are held out is known once there is a corpus, so it is built twice; the
    # second time only tokenises.
    split, work = out / "split", out / "corpus.work"
    train([], 257).save(out / "bytes")
    first = replace(recipe, shard=replace(recipe.shard, tokenizer=str(out / "bytes")))
    pipeline.build(first, split, work=work, overwrite=True)
    with step(f"learning a vocabulary of {VOCABULARY:,}"):
        documents = read_documents(split / "documents" / "train.jsonl.zst")
        train((d.text for d in documents), VOCABULARY).save(out / "tokenizer")
    second = replace(recipe, shard=replace(recipe.shard, tokenizer=str(out / "tokenizer")))
    pipeline.build(second, final, work=work)
    return final


def train_model(size: str, corpus: Path, run: Path, threads: int) -> Path | None:
    """The finished model of one size; None if its run was asked to stop."""
    if (run / "model").exists():
        return run / "model"
    if (run / "recipe.toml").exists():
        return runs.resume(run)
    recipe = read_recipe(HERE / f"{size}.toml", Recipe)
    recipe = replace(
        recipe,
        data=replace(recipe.data, path=str(corpus)),
        train=replace(recipe.train, threads=threads),
    )
    return runs.start(recipe, run)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = make_corpus(args.texts, args.out)
    for size in args.sizes:
        model = train_model(size, corpus, args.out / "runs" / size, args.threads)
        if model is None:
            return
        write_card(size, model, corpus, args.out / "models" / f"reference-{size}")


if __name__ == "__main__":
    main()
