"""prepare_conv2d: the same numbers as conv2d, from a weight that was packed once."""

import numpy as np
import pytest

import fastconv
from tests.checks import assert_same_bits, assert_same_numbers
from tests.problems import generator

NAMES = [entry.name for entry in fastconv.algorithms() if entry.available and entry.name != "numba_direct"]


def normal(key, *shape, dtype=np.float32):
    return generator("prepared", key).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("algorithm", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_every_batch(algorithm, dtype):
    w, b = normal("w", 5, 3, 3, 3, dtype=dtype), normal("b", 5, dtype=dtype)
    given = {"padding": 1, "activation": "relu", "algorithm": algorithm}
    prepared = fastconv.prepare_conv2d(w, b, input_shape=(2, 3, 6, 7), **given)
    assert prepared.algorithm == algorithm
    for batch in (1, 2, 3):
        x = normal(("x", batch), batch, 3, 6, 7, dtype=dtype)
        assert_same_bits(prepared(x), fastconv.conv2d(x, w, b, **given))


@pytest.mark.parametrize("algorithm", [name for name in NAMES if name != "naive"])
def test_many_blocks_in_either_order(algorithm):
    """Batches whose schedules differ take the same prepared weight; groups and layouts, too."""
    for layout, groups in (("NCHW", 1), ("NHWC", 2)):
        w = normal("w", 80, 48 // groups, 3, 3)
        shape = (48, 13, 14) if layout == "NCHW" else (13, 14, 48)
        given = {"padding": 1, "groups": groups, "data_format": layout, "algorithm": algorithm}
        prepared = fastconv.prepare_conv2d(w, input_shape=(1, *shape), **given)
        for batch in (1, 9, 40):
            x = normal(("x", batch), batch, *shape)
            assert_same_bits(prepared(x), fastconv.conv2d(x, w, **given))
            with fastconv.use(threads=3, workspace_limit=2 << 20):
                assert_same_bits(prepared(x), fastconv.conv2d(x, w, **given))


def test_it_holds_copies():
    w, b, x = normal("w", 8, 8, 3, 3), normal("b", 8), normal("x", 8, 20, 20)
    for name in ("cython_tiled", "cython_winograd"):
        if not any(entry.available and entry.name.startswith(name) for entry in fastconv.algorithms()):
            pytest.skip(f"{name} is unavailable: not built")
        weight, bias = w.copy(), b.copy()
        prepared = fastconv.prepare_conv2d(weight, bias, input_shape=(1, 8, 20, 20), algorithm=name)
        expected = prepared(x)
        weight[...], bias[...] = np.nan, np.nan
        assert_same_bits(prepared(x), expected)
        assert prepared.nbytes >= w.nbytes + b.nbytes


def test_no_batch_callables_modes_and_out():
    w, x = normal("w", 4, 3, 3, 3), normal("x", 3, 9, 10)
    given = {"padding": 2, "padding_mode": "reflect", "activation": np.tanh}
    prepared = fastconv.prepare_conv2d(w, input_shape=(1, 3, 9, 10), **given)
    expected = fastconv.conv2d(x, w, algorithm=prepared.algorithm, **given)
    assert_same_bits(prepared(x), expected)
    out = np.full_like(expected, np.nan)
    assert prepared(x, out=out) is out
    assert_same_bits(out, expected)
    assert prepared(x[None][:0]).shape == (0, *expected.shape)


def test_half_precision_is_computed_in_single_and_without_a_transform():
    w, x = np.ones((16, 16, 3, 3), np.float16), np.ones((4, 16, 30, 30), np.float16)
    prepared = fastconv.prepare_conv2d(w, input_shape=x.shape)
    assert not prepared.algorithm.startswith("cython_winograd")
    assert_same_numbers(prepared(x), np.full((4, 16, 28, 28), 144, np.float16))


def test_bad_input_is_refused():
    w = np.ones((4, 3, 3, 3), np.float32)
    prepared = fastconv.prepare_conv2d(w, input_shape=(1, 3, 8, 9))
    for shape in ((1, 3, 9, 8), (3, 8, 8), (1, 2, 8, 9)):
        with pytest.raises(ValueError, match=r"input must be of the prepared shape \(any, 3, 8, 9\), got"):
            prepared(np.ones(shape, np.float32))
    with pytest.raises(TypeError, match="dtype"):
        prepared(np.ones((1, 3, 8, 9)))
    with pytest.raises(ValueError, match="out"):
        prepared(np.ones((1, 3, 8, 9), np.float32), out=np.ones((1, 4, 6, 6), np.float32))
    for weight in (w[0], np.ones(3, np.float32)):
        with pytest.raises(ValueError, match="weight must have 4 dimensions"):
            fastconv.prepare_conv2d(weight, input_shape=(1, 3, 8, 9))
    with pytest.raises(ValueError, match="channels"):
        fastconv.prepare_conv2d(w, input_shape=(1, 4, 8, 9))
    with pytest.raises(ValueError, match="bias"):
        fastconv.prepare_conv2d(w, np.ones(3, np.float32), input_shape=(1, 3, 8, 9))
    with pytest.raises(ValueError, match="activation"):
        fastconv.prepare_conv2d(w, input_shape=(1, 3, 8, 9), activation="gelu")
    with pytest.raises(fastconv.UnsupportedProblem):
        fastconv.prepare_conv2d(w, input_shape=(1, 3, 8, 9), stride=2, algorithm="cython_winograd")
