"""Text as sequences of characters of a small alphabet."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .._errors import ConfigError, DataError

__all__ = ["CharacterCodec", "load_python_manual"]


class CharacterCodec:
    r"""Characters to integers and back; what is not in the alphabet becomes a space, and spaces don't repeat.

    Args:
        alphabet: its characters, a space among them; letters are lower case.

    Raises:
        ConfigError: if a character occurs twice, or there is no space.

    Example:
        >>> codec = CharacterCodec()
        >>> tokens = codec.encode("New York,\n1898")
        >>> codec.decode(tokens)
        'new york '
        >>> codec.windows("San Diego", length=4).shape
        torch.Size([2, 4])
    """

    def __init__(self, alphabet: str = " abcdefghijklmnopqrstuvwxyz.") -> None:
        if " " not in alphabet or len(set(alphabet)) != len(alphabet) or alphabet.lower() != alphabet:
            raise ConfigError(f"alphabet must hold different lower-case characters and a space; got {alphabet!r}.")
        self.alphabet = alphabet

    @property
    def n_tokens(self) -> int:
        """Size of the alphabet."""
        return len(self.alphabet)

    def encode(self, text: str) -> Tensor:
        """Integers ``(n,)`` of the lower-cased text."""
        known = "".join(c if c in self.alphabet else " " for c in text.lower())
        return torch.tensor([self.alphabet.index(c) for c in re.sub(" +", " ", known)], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Text of integers ``(n,)``."""
        return "".join(self.alphabet[i] for i in tokens.tolist())

    def windows(self, text: str, length: int, stride: int | None = None) -> Tensor:
        """Windows of ``length`` characters, ``(n, length)``, one every ``stride`` characters (default: ``length``).

        Raises:
            DataError: if the text is shorter than a window.
        """
        tokens = self.encode(text)
        if length < 1 or len(tokens) < length:
            raise DataError(f"The text has {len(tokens)} characters of the alphabet, too few for a window of {length}.")
        return tokens.unfold(0, length, stride or length).contiguous()


def load_python_manual() -> str:
    """English text that every Python has: the topics of its ``help()``, about 460,000 characters.

    They differ from version to version of Python.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
