"""The protocols once more, one text at a time, by transformers' model and tokenizer alone."""

import math
import re
import string
from collections import Counter

import torch

STOP_WORDS = """i me my myself we our ours ourselves you your yours yourself yourselves he him his
himself she her hers herself it its itself they them their theirs themselves what which who whom
this that these those am is are was were be been being have has had having do does did doing a an
the and but if or because as until while of at by for with about against between into through during
before after above below to from up down in out on off over under again further then once here there
when where why how all any both each few more most other some such no nor not only own same so than
too very s t can will just don should now"""


class Slow:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.n_positions

    def ids(self, text):
        return self.tokenizer(text, verbose=False)["input_ids"]

    @torch.no_grad()
    def logits(self, ids):
        return self.model(torch.tensor([ids])).logits[0].double()

    def tokens(self, before, text):
        """log p and rank of each token of `text` after `before`, which are one text."""
        blanks = len(before) - len(before.rstrip())
        if blanks:
            before, text = before[:-blanks], before[-blanks:] + text
        first = self.ids(before)
        ids = [*(first or [50256]), *self.ids(before + text)[len(first) :]]
        count = len(ids) - max(1, len(first))
        ids = ids[-(self.context + 1) :]
        logits = self.logits(ids[:-1])[-count:]
        logp = torch.log_softmax(logits, -1)
        return [
            (float(logp[j, i]), int((logits[j] > logits[j, i]).sum()), logits[j])
            for j, i in enumerate(ids[-count:])
        ]

    def logp(self, before, text):
        return sum(value for value, _, _ in self.tokens(before, text))

    def stream(self, text, stride):
        """-log p of all tokens of a text after <|endoftext|>, and how many they are."""
        ids = [50256, *self.ids(text)]
        total, done = 0.0, 1
        while done < len(ids):
            stop = min(len(ids), done + (self.context if done == 1 else stride))
            window = ids[max(0, stop - self.context - 1) : stop]
            logp = torch.log_softmax(self.logits(window[:-1]), -1)
            for j in range(stop - done):
                total -= float(logp[-1 - j, window[-1 - j]])
            done = stop
        return total, len(ids) - 1

    @torch.no_grad()
    def write(self, ids, most, pick):
        """Up to `most` tokens, each what `pick` makes of the logits and its number."""
        past, new, written = None, list(ids), []
        while len(written) < most:
            out = self.model(torch.tensor([new]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            new = [pick(out.logits[0, -1], len(written))]
            written += new
            yield written, out.logits[0, -1].double()
            if new == [50256]:
                return

    def greedy(self, prompt, most, stop="\n"):
        """Text and log p of what greedy decoding writes, up to `stop`."""
        ids = self.ids(prompt)[-(self.context - most) :]
        total = 0.0
        for written, logits in self.write(ids, most, lambda logits, _: int(logits.argmax())):
            total += float(torch.log_softmax(logits, -1)[written[-1]])
            text = self.tokenizer.decode(written)
            if stop in text:
                break
        return text.split("<|endoftext|>")[0].split(stop)[0].strip(), total


def squad_words(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def overlap_f1(a, b):
    a, b = squad_words(a), squad_words(b)
    if not a or not b:
        return float(a == b)
    same = sum(min(Counter(a)[w], Counter(b)[w]) for w in set(a))
    if not same:
        return 0.0
    precision, recall = same / len(a), same / len(b)
    return 2 * precision * recall / (precision + recall)


def perplexity(nats, units):
    return math.exp(nats / units)
