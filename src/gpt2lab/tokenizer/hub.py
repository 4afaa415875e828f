"""Published models by name: fetched once with huggingface_hub, then read from its cache."""

from pathlib import Path

from gpt2lab.errors import UserError

# The four sizes under the names people use for them.
PUBLISHED = {
    "gpt2": "openai-community/gpt2",
    "124M": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "355M": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "774M": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "1.5B": "openai-community/gpt2-xl",
}

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
# Weights come as safetensors only: a hub's pickled `.bin` is taken by `gpt2lab import` alone.
MODEL_FILES = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "config.json",
    "gpt2lab.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
# `gpt2lab import` also takes pickled weights, which it reads as data only.
IMPORT_FILES = (*MODEL_FILES, "pytorch_model*.bin", "pytorch_model.bin.index.json")


def fetch(name: str, patterns: tuple[str, ...] = TOKENIZER_FILES) -> Path:
    """Download the files of a published model and return their folder.

    name: a size (`gpt2-xl`, `1.5B`) or `hf:owner/name`.
    Raises UserError that says what to put where if the name is unknown or cannot be fetched.
    """
    repository = name.removeprefix("hf:") if name.startswith("hf:") else PUBLISHED.get(name)
    if repository is None:
        raise UserError(
            f"{name} is neither a path that exists nor a published model "
            f"({', '.join(PUBLISHED)}); give a folder, one of these, or hf:owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except HFValidationError:
        raise UserError(f"{name} is not a model name; write hf:owner/name") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot fetch {repository} ({first}); with no network, copy its config.json, "
            "model.safetensors, vocab.json and merges.txt into a folder and give that folder"
        ) from None
