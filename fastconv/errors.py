"""The two families of errors: what nobody can compute, and what this algorithm cannot."""


class InvalidProblem(ValueError):
    """The problem has no answer: no algorithm could ever compute it.

    The message names the argument, its value and the rule it breaks.
    """


class UnsupportedProblem(NotImplementedError):
    """The problem is sound, but the algorithm asked for by name cannot compute it here.

    The message names the algorithm, the problem in its text form, and the reason.
    """
