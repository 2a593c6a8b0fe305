"""Values of flags: names of closed sets, and numbers, separated by commas."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from progdist.errors import not_one_of

# Other names that users try.
_LEADS = {
    "ddpm": "; the sampler of DDPM is ancestral",
    "fid": "; FID is the metric fd of the features inception",
    "inception_score": "; the Inception Score is the metric is",
    "precision": "; precision and recall are the metric pr",
    "recall": "; precision and recall are the metric pr",
}


class Names(flags.ArgumentParser):
    """Parser of names from a closed set, separated by commas."""

    def __init__(self, choices: Sequence[str]) -> None:
        """Takes the accepted names."""
        self._choices = choices

    def parse(self, argument: Any) -> tuple[str, ...]:
        """Returns the names, each once; accepts a tuple or a list of Python, too."""
        if not isinstance(argument, str):
            return tuple(argument)
        names = [word.strip(" ()[]'\"") for word in argument.split(",")]
        names = [name for name in names if name]
        for name in names:
            if name not in self._choices:
                raise ValueError(_refusal(name, self._choices))
        return tuple(dict.fromkeys(names))


class Choice(flags.ArgumentParser):
    """Parser of one name from a closed set."""

    def __init__(self, choices: Sequence[str]) -> None:
        """Takes the accepted names."""
        self._choices = choices

    def parse(self, argument: str) -> str:
        """Returns the name."""
        if argument not in self._choices:
            raise ValueError(_refusal(argument, self._choices))
        return argument


class Numbers(flags.ArgumentParser):
    """Parser of numbers in a range, separated by commas."""

    def __init__(self, kind: type, low: int | float, high: int | float) -> None:
        """Takes int or float, and the range."""
        self._kind, self._low, self._high = kind, low, high

    def parse(self, argument: Any) -> tuple[Any, ...]:
        """Returns the numbers, each once."""
        words = argument.split(",") if isinstance(argument, str) else argument
        noun = "whole numbers" if self._kind is int else "numbers"
        try:
            numbers = [self._kind(word) for word in words]
        except ValueError:
            raise ValueError(f"must be {noun}") from None
        if not all(self._low <= n <= self._high for n in numbers):
            raise ValueError(f"must be {noun}, {self._low:,} to {self._high:,}")
        return tuple(dict.fromkeys(numbers))


def _refusal(name: str, choices: Sequence[str]) -> str:
    return not_one_of(name, choices) + _LEADS.get(name, "")
