"""The two families of errors, what nobody can compute and what this algorithm cannot, and how both show a value."""

import reprlib
from typing import Any


class InvalidProblem(ValueError):
    """The problem has no answer: no algorithm could ever compute it.

    The message names the argument, its value and the rule it breaks.
    """


class UnsupportedProblem(NotImplementedError):
    """The problem is sound, but the algorithm asked for by name cannot compute it here.

    The message names the algorithm, the problem in its text form, and the reason.
    """


class _Short(reprlib.Repr):
    """Lengths that any sensible argument stays below."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 12
        self.maxstring = self.maxother = 160

    def repr_int(self, x: int, level: int) -> str:
        """Python itself refuses to print very long ones."""
        return repr(x) if x.bit_length() <= 256 else f"{'-' if x < 0 else ''}(about 2**{x.bit_length()})"


_short = _Short()
_LONGEST = 240


def shown(value: Any) -> str:
    """`value` as a message shows it: its repr, shortened in the middle where that is long, and never an error."""
    text = _short.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
