"""Our models under lm-evaluation-harness: `--model gpt2lab --model_args pretrained=FOLDER`.

lm-eval looks up models by name and has no place for others to add theirs, so `gpt2lab evaluate
lm-eval ...` runs its own command line with ours registered. In Python, importing this file does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import gpt2lab
from gpt2lab.errors import UserError
from gpt2lab.evaluation.likelihood import continuation
from gpt2lab.evaluation.store import Store
from gpt2lab.evaluation.subject import Step, Subject, silent
from gpt2lab.generation import Request, Sampling

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError:
    raise UserError("lm-eval is not installed; pip install 'gpt2lab[lm-eval]'") from None

MOST_NEW_TOKENS = 256
_RULES = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


@register_model("gpt2lab")
class GPT2LabLM(TemplateLM):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """A checkpoint as lm-eval asks for it.

    pretrained: a folder, a published size or hf:owner/name. dtype: a number format of the weights.
    store: a file in which answers are kept. batch_size is taken and left unused: what goes through
    the model together is chosen by tokens. Raises UserError for a model that cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        dtype: str | None = None,
        device: str | None = None,
        store: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        step: Step = silent,
    ) -> None:
        super().__init__()
        if device is None or not torch.cuda.is_available():
            device = "cpu"  # lm-eval says cuda:0 unless it is told otherwise
        made = gpt2lab.load(pretrained, dtype, device)
        tokenizer = made.require_tokenizer(pretrained)
        kept = Store(Path(store)) if store else None
        self.subject = Subject(made.model, tokenizer, store=kept, step=step)
        self.pretrained = pretrained

    @property
    def eot_token_id(self) -> int:
        """`<|endoftext|>`, which also stands before texts that have nothing before them."""
        return self.subject.tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """Most tokens the model reads at once."""
        return self.subject.context

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's own caches."""
        return self.subject.tokenizer.digest

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text; control tokens written in it are text."""
        return self.subject.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        config = self.subject.model.config
        asked = [continuation(context, ids, config) for _, context, ids in requests]
        found = self.subject.score("log-likelihoods", asked)
        return [(-one.total, one.greedy) for one in found]

    def loglikelihood_rolling(
        self, requests: "Sequence[Instance]", disable_tqdm: bool = False
    ) -> list[float]:
        """Log p of whole texts, nats: disjoint windows, the last with all the context there is."""
        texts = [self.subject.ids(request.args[0]) for request in requests]
        found = self.subject.rolling("log-likelihoods of texts", texts, self.max_length)
        return [-sum(window.total for window in one) for one in found]

    def generate_until(
        self, requests: "Sequence[Instance]", disable_tqdm: bool = False
    ) -> list[str]:
        """Texts up to their stop strings; greedy unless a task asks for samples."""
        asked = [self._request(*request.args) for request in requests]
        return [g.text for g in self.subject.write("texts", asked)]

    def _request(self, prompt: str, options: dict[str, Any]) -> Request:
        until = options.get("until") or ()
        stop = (until,) if isinstance(until, str) else tuple(until)
        rules = {name: type(old)(options.get(name, old)) for name, old in _RULES.items()}
        if not options.get("do_sample", rules["temperature"] != 1.0):
            rules["temperature"] = 0.0
        return Request(
            tuple(self.tok_encode(prompt)),
            int(options.get("max_gen_toks", MOST_NEW_TOKENS)),
            Sampling(**rules),  # type: ignore[arg-type]
            seed=int(options.get("seed", 0)),
            stop=tuple(s for s in stop if s),
        )


def run(argv: Sequence[str]) -> None:
    """lm-eval's command line."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *argv]
    cli_evaluate()
