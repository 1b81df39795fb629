"""Convolution: the registry. A new algorithm is one file beside this one, ending in its ALGORITHMS, and one line."""

from importlib import import_module

from fastconv.algorithm import Algorithm

_FILES = (  # in order of preference; naive, which refuses nothing, last
    "cython_tiled",
    "cython_winograd",
    "numba_direct",
    "im2col_gemm",
    "naive",
)

#: Every implementation of the family.
ALGORITHMS: tuple[Algorithm, ...] = tuple(
    algorithm for file in _FILES for algorithm in import_module(f"{__name__}.{file}").ALGORITHMS
)
