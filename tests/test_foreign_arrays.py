"""Arrays of other libraries, by DLPack: shared where that is possible, else an error that says why."""

import numpy as np
import pytest

import fastconv
from tests.checks import assert_same_numbers
from tests.problems import integers


class Foreign:
    """An array of another library that NumPy can share."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Refusing(Foreign):
    def __dlpack__(self, **options):
        raise RuntimeError("it lives on the moon")


X = integers("x", (1, 2, 6, 6), "float32", 9)
W = integers("w", (3, 2, 3, 3), "float32", 9)


def test_every_kind_of_function_takes_them():
    x, w = Foreign(X), Foreign(W)
    assert_same_numbers(fastconv.conv2d(x, w, Foreign(W[:, 0, 0, 0])), fastconv.conv2d(X, W, W[:, 0, 0, 0]))
    assert_same_numbers(fastconv.max_pool2d(x, 2), fastconv.max_pool2d(X, 2))
    assert_same_numbers(fastconv.adaptive_avg_pool2d(x, 4), fastconv.adaptive_avg_pool2d(X, 4))
    assert_same_numbers(fastconv.unfold(x, 2), fastconv.unfold(X, 2))
    assert_same_numbers(fastconv.upsample(x, 4), fastconv.upsample(X, 4))
    assert_same_numbers(fastconv.pad(x, (1, 1)), fastconv.pad(X, (1, 1)))
    matrices = Foreign(X[0, 0].astype(int)), Foreign(W[0, 0].astype(int))
    assert fastconv.correlate2d(*matrices).dtype == np.int64


def test_they_are_shared_not_copied():
    from fastconv.functional.arguments import as_array

    assert np.shares_memory(as_array("input", Foreign(X)), X)
    strided = X[:, :, ::2, ::-1]
    assert_same_numbers(as_array("input", Foreign(strided)), strided)


def test_subclasses_of_ndarray_are_arrays(tmp_path):
    file = np.memmap(tmp_path / "x", ">f4", "w+", shape=X.shape)
    file[...] = X
    file.flags.writeable = False
    assert_same_numbers(fastconv.max_pool2d(file, 2).astype("float32"), fastconv.max_pool2d(X, 2))


def test_what_cannot_be_shared_says_why():
    with pytest.raises(TypeError, match=r"input, a .*Refusing, cannot be shared with NumPy: it lives on the moon"):
        fastconv.max_pool2d(Refusing(X), 2)
    for thing in (object(), "array", None, {1: 2}, 3):
        with pytest.raises(TypeError, match=f"input must be an array, got {type(thing).__name__}"):
            fastconv.max_pool2d(thing, 2)
    with pytest.raises(fastconv.InvalidProblem, match="input must be a regular array"):
        fastconv.max_pool2d([[1.0], [1.0, 2.0]], 2)


@pytest.mark.peers
def test_torch():
    torch = pytest.importorskip("torch")
    x, w = torch.tensor(X), torch.tensor(W)
    assert_same_numbers(fastconv.conv2d(x, w), fastconv.conv2d(X, W))
    assert_same_numbers(fastconv.conv2d(x.to(memory_format=torch.channels_last), w), fastconv.conv2d(X, W))
    for wrong, why in (
        (x.clone().requires_grad_(), "require gradient"),
        (x.to("meta"), "meta"),
        (x.to(torch.bfloat16), "dtype"),
        (x.to_sparse(), "layout"),
        (x.int(), "input must be of dtype float32, float64 or float16, got int32"),
    ):
        with pytest.raises(TypeError, match=why):
            fastconv.conv2d(wrong, w)
