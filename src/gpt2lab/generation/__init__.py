"""From logits to text: sampling rules, the engine that decodes, and what it gives back."""

from gpt2lab.generation.beam import beam_search
from gpt2lab.generation.decode import generate, generate_each, stream
from gpt2lab.generation.engine import Engine
from gpt2lab.generation.request import Generation, Request
from gpt2lab.generation.sampling import Sampling

__all__ = [
    "Engine",
    "Generation",
    "Request",
    "Sampling",
    "beam_search",
    "generate",
    "generate_each",
    "stream",
]
