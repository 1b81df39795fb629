"""Convolution: the registry. A new algorithm is one file beside this one, and one line in ALGORITHMS."""

from fastconv.algorithm import Algorithm
from fastconv.conv.naive import naive

#: In order of preference; naive, which refuses nothing, last.
ALGORITHMS: tuple[Algorithm, ...] = (
    naive,
)  # fmt: skip
