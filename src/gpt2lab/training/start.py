"""What a run begins with: fresh weights, or a model's, of which some may move."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from gpt2lab.errors import UserError
from gpt2lab.model import checkpoint
from gpt2lab.model.config import GPT2Config
from gpt2lab.model.transformer import GPT2, Attention
from gpt2lab.storage import sha256
from gpt2lab.training import lora
from gpt2lab.training.recipe import Finetune, Recipe


def starting_model(recipe: Recipe) -> GPT2:
    """The model of a recipe that has been through `settle`, in main memory.

    Weights that do not move require no gradient; LoRA's changes are attached.
    """
    tune, train = recipe.finetune, recipe.train
    if not tune.model:
        return GPT2(recipe.model, init=train.init, seed=train.seed).train()
    model = checkpoint.load(tune.model, train.weights).model
    _grow(model, recipe.model.padded_vocab_size)
    _drop(model, recipe.model)
    _let_move(model, tune, train.seed)
    return model.train()


def starting_shape(recipe: Recipe) -> GPT2Config:
    """The shape of the model that a run goes on from, with the recipe's dropout and padding."""
    tune = recipe.finetune
    found = checkpoint.from_hf_config(checkpoint.folder_of(tune.model) / "config.json")
    wanted = tune.vocab_size or found.vocab_size
    if wanted < found.vocab_size:
        raise UserError(
            f"finetune.vocab_size is {wanted}, {tune.model} has {found.vocab_size} tokens; leave "
            "it out, or give more"
        )
    if tune.method == "top" and tune.layers > found.n_layer:
        raise UserError(
            f"finetune.layers is {tune.layers}, {tune.model} has {found.n_layer} blocks; give fewer"
        )
    return replace(
        found,
        vocab_size=wanted,
        dropout=recipe.model.dropout,
        pad_vocab_to=recipe.model.pad_vocab_to,
    )


def starting_digest(recipe: Recipe) -> str | None:
    """SHA-256 of the weights that a run goes on from; None for fresh ones."""
    if not recipe.finetune.model:
        return None
    files = checkpoint.weight_files(checkpoint.folder_of(recipe.finetune.model))
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()


def trainable(model: nn.Module) -> int:
    """How many numbers may move."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _let_move(model: GPT2, tune: Finetune, seed: int) -> None:
    if tune.method == "full":
        return
    if tune.method == "lora":
        lora.attach(model, tune.lora, seed)
        return
    model.requires_grad_(False)
    if tune.method == "top":
        model.h[-tune.layers :].requires_grad_(True)
        model.ln_f.requires_grad_(True)
        return
    for name, p in model.named_parameters():
        p.requires_grad_(name.endswith("bias"))


@torch.no_grad()
def _grow(model: GPT2, rows: int) -> None:
    """Give the token table more rows, each the mean of those there are: neither likely nor odd."""
    table_VD: Tensor = model.wte.weight
    more = rows - len(table_VD)
    if more > 0:
        mean_1D = table_VD.float().mean(dim=0, keepdim=True).to(table_VD.dtype)
        model.wte.weight = nn.Parameter(torch.cat([table_VD, mean_1D.expand(more, -1)]))
        model.wte.num_embeddings = rows


def _drop(model: GPT2, config: GPT2Config) -> None:
    """Let a model have the dropout, and the name of the shape, that a recipe gives it."""
    model.config = config
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
        elif isinstance(module, Attention):
            module.dropout = config.dropout
