"""From logits to text: sampling rules and decoding."""

from gpt2lab.generation.decode import Generation, Request, generate, stream
from gpt2lab.generation.sampling import Sampling

__all__ = ["Generation", "Request", "Sampling", "generate", "stream"]
