"""`gpt2lab corpus links | crawl | extract | clean | shard | build | report`"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro

from gpt2lab.cli.output import show
from gpt2lab.errors import UserError
from gpt2lab.settings import read_recipe, to_toml

STEPS = {
    "links": "From dumps or lists to one link per page.",
    "crawl": "The same, and fetch the pages.",
    "extract": "The same, and take the text out of them.",
    "clean": "The same, and drop what the rules say and what is there twice.",
    "build": "The whole corpus: token shards that `train` reads, documents, card and report.",
}


@dataclass(frozen=True)
class Shard:
    """Turn text into token shards that `train` reads, with no rules and no recipe."""

    text: tyro.conf.Positional[Path]
    """A file or folder of .txt, .md, .rst, .jsonl or .parquet, also compressed."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    tokenizer: str = "gpt2"
    """A folder, a file or a published name."""
    held_out: float = 0.05
    """Share of documents for validation."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Report:
    """Show what a finished corpus is made of."""

    corpus: tyro.conf.Positional[Path]
    """Folder that `build` wrote."""
    domains: Path | None = None
    """OpenAI's domains.txt, to compare sites with WebText's."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    if argv and argv[0] in STEPS:
        _build(argv[0], argv[1:])
        return
    if argv and argv[0] not in ("shard", "report", "-h", "--help"):
        raise UserError(f"no step {argv[0]!r}; there are {', '.join([*STEPS, 'shard', 'report'])}")
    if (argv and argv[0] in ("-h", "--help")) or not argv:
        print("usage: gpt2lab corpus STEP RECIPE [--out FOLDER] [--a.b value ...]\n")
        for name, text in (STEPS | {"shard": _summary(Shard), "report": _summary(Report)}).items():
            print(f"  {name:<8} {text}")
        print("\ngpt2lab corpus STEP --help shows all options.")
        raise SystemExit(0)
    command = tyro.extras.subcommand_cli_from_dict(
        {"shard": Shard, "report": Report}, args=argv, prog="gpt2lab corpus"
    )
    if isinstance(command, Report):
        _report(command)
    else:
        _shard(command)


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def _build(name: str, argv: Sequence[str]) -> None:
    try:
        from gpt2lab.corpus import domains, pipeline, plan
        from gpt2lab.corpus.recipe import Recipe
    except ImportError as error:
        raise UserError(
            f"gpt2lab corpus {name} needs {error.name}; install: pip install 'gpt2lab[corpus]'"
        ) from None

    @dataclass(frozen=True)
    class Command(Recipe):
        """RECIPE is a TOML file; any of its fields can be given here instead, as in
        `gpt2lab corpus build recipes/webtext.toml --source.paths RS_2012-01.zst`.
        """

        recipe: tyro.conf.Positional[Path | None] = None
        """The recipe; the defaults below are its values. It comes first."""
        out: Path = Path("corpora/corpus")
        """Folder of the corpus."""
        work: Path | None = None
        """Folder for intermediate results, OUT.work if not given; runs resume from it."""
        overwrite: bool = False
        """Replace OUT if it exists."""
        dry_run: bool = False
        """Print the recipe with expected counts and times from a look at the input, and stop."""
        domains: Path | None = None
        """links only: OpenAI's domains.txt, to compare sites with WebText's."""
        json: bool = False
        """Print one JSON object."""

    default = Command()
    if argv and not argv[0].startswith("-"):
        recipe = read_recipe(Path(argv[0]), Recipe)
        default = Command(recipe=Path(argv[0]), **_tables(recipe))
    prog = f"gpt2lab corpus {name}"
    command = tyro.cli(Command, args=argv, default=default, prog=prog, description=STEPS[name])
    if command.recipe != default.recipe:
        raise UserError(f"write the recipe first: {prog} {command.recipe} ...")
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in fields(Recipe)})
    if command.dry_run:
        estimate = plan.estimate(recipe)
        if not command.json:
            print(to_toml(recipe))
        show(estimate, as_json=command.json)
        return
    until = "shard" if name == "build" else name
    published = domains.read_published(command.domains) if command.domains else None
    state = pipeline.build(
        recipe, command.out, work=command.work, until=until, overwrite=command.overwrite
    )
    show(pipeline.summary(state, until, published), as_json=command.json)


def _tables(recipe: Any) -> dict[str, Any]:
    return {f.name: getattr(recipe, f.name) for f in fields(recipe)}


def _report(command: Report) -> None:
    from gpt2lab.corpus import domains
    from gpt2lab.storage import read_json

    facts = read_json(command.corpus / "corpus.json")
    if not isinstance(facts, dict) or not {"splits", "domains", "funnel"} <= facts.keys():
        raise UserError(
            f"{command.corpus / 'corpus.json'} is not what build writes; build it again"
        )
    result: dict[str, Any] = {
        "page": str(command.corpus / "report.html"),
        "card": str(command.corpus / "README.md"),
        **{f"{s}_{what}": n for s, entry in facts["splits"].items() for what, n in entry.items()},
    }
    if command.domains:
        published = domains.read_published(command.domains)
        result |= domains.shown(domains.compare(facts["domains"], published), command.json)
    show(result | ({"facts": facts} if command.json else {}), as_json=command.json)


def _shard(command: Shard) -> None:
    from gpt2lab.corpus import build, plaintext
    from gpt2lab.progress import step
    from gpt2lab.storage import refuse_existing
    from gpt2lab.tokenizer.bpe import Tokenizer

    refuse_existing(command.out, overwrite=command.overwrite)
    tokenizer = Tokenizer.load(command.tokenizer)
    documents = plaintext.read_documents(command.text)
    with step("tokenising") as bar:
        tokens = build.shard(
            documents,
            tokenizer,
            command.out,
            held_out=command.held_out,
            overwrite=command.overwrite,
            on_progress=bar.update,
        )
    result = {
        "shards": str(command.out),
        "documents": len(documents),
        "train_tokens": tokens["train"],
        "validation_tokens": tokens["val"],
    }
    show(result, as_json=command.json)
