"""One small convolution with its right answer, for the tests of the street door."""

import numpy as np
import pytest

from fastconv import ConvProblem
from fastconv.planner import REGISTRY
from tests import oracle
from tests.checks import DIRECT
from tests.problems import generator

NAMES = pytest.mark.parametrize("name", [entry.name for entry in DIRECT])
POOL_NAMES = pytest.mark.parametrize("name", [entry.name for entry in REGISTRY["pool"]])


def whole(key, *shape, dtype=np.float32):
    """Integers from -4 to 4."""
    return generator("api", key).integers(-4, 5, shape).astype(dtype)


X, W, B = whole("x", 2, 4, 9, 11), whole("w", 6, 4, 3, 3), whole("b", 6)
PROBLEM = ConvProblem("float32", 2, 4, (9, 11), 6, (3, 3), pads=((1, 1), (1, 1)))
Y = oracle.conv_forward(PROBLEM, X, W, B).astype(np.float32)
DY = whole("dy", *Y.shape)


def last(array):
    """With the channels last."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))
