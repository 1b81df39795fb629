"""Random valid calls of every public operator that tests/definitions.py defines, small enough for plain Python.

A draw gives the arguments by their names, images in NCHW; a generator that starts from the same seed gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests import definitions

Given = dict[str, Any]

#: How much larger than it must be an extent is at most, by the number of axes; and kernels.
ROOM = {1: 40, 2: 10, 3: 4}
KERNELS = {1: (1, 2, 3, 3, 5, 7), 2: (1, 1, 2, 3, 3, 4, 5), 3: (1, 1, 2, 2, 3)}
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Axis(NamedTuple):
    size: int
    kernel: int
    stride: int
    pads: tuple[int, int]
    dilation: int


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def up_to(rng: np.random.Generator, most: int, least: int = 0) -> int:
    return int(rng.integers(least, most + 1))


def whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Integers in single or double precision, as the caller turns them: of small ones every sum is exact."""
    return rng.integers(-4, 5, shape).astype(np.float64)


def images(rng: np.random.Generator, size: tuple[int, ...], channels: int | None = None) -> np.ndarray:
    """One to three images of a few channels, or of many; now and then a single one without the axis of the batch."""
    batch, channels = pick(rng, 1, 1, 2, 3), channels or up_to(rng, pick(rng, 5, 5, 5, 40), 1)
    x = whole(rng, batch, channels, *size)
    return x[0] if batch == 1 and rng.random() < 0.2 else x


def pads_of(rng: np.random.Generator, mode: str, size: int, extent: int) -> tuple[int, int]:
    """As much on each side as `mode` can show of `size`; zeros as far as windows see nothing else."""
    most = {"zeros": extent, "reflect": min(size - 1, 4), "circular": min(size, 4), "replicate": 4}[mode]
    low = up_to(rng, most)
    return (low, low) if rng.random() < 0.5 else (low, up_to(rng, most))


def axis(rng: np.random.Generator, axes: int, mode: str = "zeros") -> Axis:
    """One in which at least one window fits."""
    kernel, dilation = pick(rng, *KERNELS[axes]), pick(rng, 1, 1, 1, 2, 3)
    extent = dilation * (kernel - 1) + 1
    size = up_to(rng, extent + pick(rng, 0, 1, 2, ROOM[axes]), 1)
    low, high = pads_of(rng, mode, size, extent)
    size = max(size, extent - low - high)
    return Axis(size, kernel, pick(rng, 1, 1, 2, 3, up_to(rng, 9, 1)), (low, high), dilation)


def written(rng: np.random.Generator, values: tuple[Any, ...]) -> Any:
    """A tuple, a list, or one for all axes where they are alike."""
    if len(set(values)) == 1 and rng.random() < 0.5:
        return values[0]
    return pick(rng, tuple, list)(values)


def written_pads(rng: np.random.Generator, pads: tuple[tuple[int, int], ...]) -> Any:
    if all(low == high for low, high in pads) and rng.random() < 0.7:
        return written(rng, tuple(low for low, _ in pads))
    return pads


def grouped(rng: np.random.Generator) -> tuple[int, int, int]:
    """Groups, and the channels and filters of each: around the borders of vectors too, and depthwise."""
    groups = pick(rng, 1, 1, 1, 1, 2, 3, up_to(rng, 36, 4))
    if groups > 3:
        return groups, pick(rng, 1, 1, 2), pick(rng, 1, 1, 2, 3)
    channels, filters = (pick(rng, 1, 2, 3, up_to(rng, 9, 1), up_to(rng, 40, 1)) for _ in range(2))
    return groups, channels, filters


def conv(rng: np.random.Generator, axes: int) -> Given:
    """`padding` as pairs, of any mode, in "pads": hunt_calls.py knows what they mean."""
    mode = pick(rng, "zeros", "zeros", *PADDING_MODES)
    drawn = [axis(rng, axes, mode) for _ in range(axes)]
    if axes == 2 and rng.random() < 0.3:  # what the transforms are for
        drawn = [entry._replace(size=max(entry.size, 3), kernel=3, stride=1, dilation=1) for entry in drawn]
    size, kernel, stride, pads, dilation = zip(*drawn, strict=True)
    groups, channels, filters = grouped(rng)
    weight = whole(rng, groups * filters, channels, *kernel)
    bias = whole(rng, len(weight)) if rng.random() < 0.5 else None
    return {
        "input": images(rng, size, groups * channels), "weight": weight, "bias": bias, "stride": written(rng, stride),
        "padding": written_pads(rng, pads), "dilation": written(rng, dilation), "groups": groups,
        "padding_mode": mode,
    }  # fmt: skip


def conv_transpose(rng: np.random.Generator, axes: int) -> Given:
    drawn = []
    three = axes == 2 and rng.random() < 0.3  # what the transforms are for
    for _ in range(axes):
        size, kernel = up_to(rng, {1: 15, 2: 6, 3: 4}[axes], 1), 3 if three else pick(rng, *KERNELS[axes])
        stride, dilation = (1, 1) if three else (pick(rng, 1, 2, 2, 3, 5), pick(rng, 1, 1, 2, 3))
        extra = up_to(rng, max(stride, dilation) - 1) if rng.random() < 0.6 else 0
        # What is left of the windows' extent when the padding is off must hold one position, before any output padding.
        covered = (size - 1) * stride + dilation * (kernel - 1) + 1
        padding = up_to(rng, min(dilation * (kernel - 1), (covered - 1) // 2))
        drawn.append((size, kernel, stride, padding, extra, dilation))
    size, kernel, stride, padding, extra, dilation = zip(*drawn, strict=True)
    groups, channels, filters = grouped(rng)
    weight = whole(rng, groups * channels, filters, *kernel)
    bias = whole(rng, groups * filters) if rng.random() < 0.5 else None
    return {
        "input": images(rng, size, groups * channels), "weight": weight, "bias": bias, "stride": stride,
        "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation,
    }  # fmt: skip


def _pool(rng: np.random.Generator, axes: int, dilated: bool, padded: bool) -> tuple[np.ndarray, Given]:
    drawn = []
    for _ in range(axes):
        kernel, dilation = pick(rng, *KERNELS[axes]), pick(rng, 1, 1, 2, 3) if dilated else 1
        padding = up_to(rng, kernel // 2) if padded else 0
        extent = dilation * (kernel - 1) + 1
        size = max(up_to(rng, extent + ROOM[axes], 1), extent - 2 * padding, 1)
        drawn.append((size, kernel, pick(rng, 1, 2, kernel, 3, up_to(rng, 7, 1)), padding, dilation))
    size, kernel, stride, padding, dilation = zip(*drawn, strict=True)
    given: Given = {"kernel_size": kernel, "ceil_mode": bool(rng.random() < 0.4)}
    given |= {"stride": stride} if rng.random() < 0.8 else {}
    given |= {"padding": padding} if padded else {}
    return images(rng, size), given | ({"dilation": dilation} if dilated else {})


def max_pool(rng: np.random.Generator, axes: int) -> Given:
    x, given = _pool(rng, axes, True, True)
    return {"input": x, **given, "return_indices": bool(rng.random() < 0.5)}


def avg_pool(rng: np.random.Generator, axes: int) -> Given:
    x, given = _pool(rng, axes, False, True)
    divisor = pick(rng, None, None, 1, 7, -3)
    return {"input": x, **given, "count_include_pad": bool(rng.random() < 0.5), "divisor_override": divisor}


def lp_pool(rng: np.random.Generator, axes: int) -> Given:
    """Of positive numbers where a power has a pole at 0: there the definition says as little as torch (NaN)."""
    x, given = _pool(rng, axes, False, False)
    norm = pick(rng, 1.0, 2.0, 2, 3.0, 0.5, 2.5, -1.0)
    return {"input": abs(x) + 1 if norm in (0.5, 2.5, -1.0) else x, "norm_type": norm, **given}


def _adaptive(rng: np.random.Generator, axes: int) -> Given:
    size = tuple(up_to(rng, 2 * ROOM[axes], 1) for _ in range(axes))
    out = tuple(pick(rng, None, 1, up_to(rng, extent + 2, 1)) for extent in size)
    return {"input": images(rng, size), "output_size": out}


def adaptive_max_pool(rng: np.random.Generator, axes: int) -> Given:
    return {**_adaptive(rng, axes), "return_indices": bool(rng.random() < 0.5)}


def fractional_max_pool(rng: np.random.Generator, axes: int) -> Given:
    kernel = tuple(up_to(rng, 4, 1) for _ in range(axes))
    out = tuple(up_to(rng, 6, 1) for _ in range(axes))
    x = images(rng, tuple(k + o - 1 + up_to(rng, 9) for k, o in zip(kernel, out, strict=True)))
    planes = x.shape[: x.ndim - axes]
    samples = rng.random((*planes, axes) if len(planes) == 2 else (1, *planes, axes))
    return {
        "input": x, "kernel_size": kernel, "output_size": out, "return_indices": bool(rng.random() < 0.5),
        "_random_samples": samples,
    }  # fmt: skip


def max_unpool(rng: np.random.Generator, axes: int) -> Given:
    """Of windows that do not overlap: of two maxima in one place either may win."""
    kernel = tuple(up_to(rng, 3, 1) for _ in range(axes))
    stride = tuple(k + up_to(rng, 2) for k in kernel)
    size = tuple(k + up_to(rng, ROOM[axes]) for k in kernel)
    pooled = definitions.max_pool(axes, images(rng, size), kernel, stride, return_indices=True)
    values, indices = (part.value for part in pooled.outputs)
    how = {"kernel_size": kernel, "stride": stride, "output_size": size}
    return {"input": values, "indices": indices.astype(np.int64), **how}


def unfold(rng: np.random.Generator, axes: int) -> Given:
    size, kernel, stride, pads, dilation = zip(*(axis(rng, axes) for _ in range(axes)), strict=True)
    padding = tuple(max(pair) for pair in pads)
    how = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}
    return {"input": images(rng, size), **how}


def pad(rng: np.random.Generator, _: int) -> Given:
    """Extends and crops the last axes; a circle shows what the crops leave."""
    mode = pick(rng, "constant", "reflect", "replicate", "circular")
    shape = tuple(up_to(rng, 6, 1) for _ in range(up_to(rng, 4, 1)))
    pairs = []
    for size in reversed(shape[len(shape) - up_to(rng, len(shape)) :]):
        most = {"constant": 5, "reflect": size - 1, "replicate": 5, "circular": size}[mode]
        low, high = (up_to(rng, most) if rng.random() < 0.7 else -up_to(rng, size - 1) for _ in range(2))
        if size + min(low, 0) + min(high, 0) < (max(low, high, 1) if mode == "circular" else 1):
            low, high = max(low, 0), max(high, 0)
        pairs += [low, high]
    value = {"value": pick(rng, 0, 3, -2.0)} if mode == "constant" else {}
    return {"input": whole(rng, *shape), "pad": pairs, "mode": mode, **value}


def upsample(rng: np.random.Generator, _: int) -> Given:
    axes = pick(rng, 1, 2, 2, 3)
    size = tuple(up_to(rng, ROOM[axes], 1) for _ in range(axes))
    x = images(rng, size)
    x = x if x.ndim == axes + 2 else x[None]
    if rng.random() < 0.5:
        given: Given = {"size": tuple(up_to(rng, 2 * ROOM[axes], 1) for _ in range(axes))}
    else:
        factors = [pick(rng, 1, 2, 3.0, float(rng.random() * 3 + 0.05)) for _ in range(axes)]
        given = {"scale_factor": tuple(max(f, 1 / extent) for f, extent in zip(factors, size, strict=True))}
        if any(int(extent * f) < 1 for extent, f in zip(size, given["scale_factor"], strict=True)):
            given = {"scale_factor": 2.0}
    if axes == 2 and rng.random() < 0.6:
        given |= {"mode": "bilinear", "align_corners": pick(rng, None, True, False)}
    return {"input": x, **given}


def local_response_norm(rng: np.random.Generator, _: int) -> Given:
    x = whole(rng, pick(rng, 1, 2), up_to(rng, 9, 1), *(up_to(rng, 4, 1) for _ in range(pick(rng, 1, 2, 3))))
    factors = {"alpha": pick(rng, 1e-4, 0.5), "beta": pick(rng, 0.75, 0.5, 2.0), "k": pick(rng, 1.0, 2.0)}
    return {"input": x, "size": up_to(rng, 11, 1), **factors}


#: By the public name: what draws its arguments, and its number of axes (0: any).
DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], Given], int]] = {
    **{
        f"{name}{axes}d": (draw, axes)
        for axes in (1, 2, 3)
        for name, draw in (
            ("conv", conv), ("conv_transpose", conv_transpose), ("max_pool", max_pool), ("avg_pool", avg_pool),
            ("lp_pool", lp_pool), ("adaptive_avg_pool", _adaptive), ("adaptive_max_pool", adaptive_max_pool),
            ("max_unpool", max_unpool),
        )
    },
    "fractional_max_pool2d": (fractional_max_pool, 2),
    "unfold": (unfold, 2),
    "pad": (pad, 0),
    "upsample": (upsample, 0),
    "local_response_norm": (local_response_norm, 0),
}  # fmt: skip


def work(given: Given) -> int:
    """About how many products a convolution takes, to leave the large ones out; 0 for the rest."""
    if "weight" not in given:
        return 0
    weight = given["weight"]
    if "output_padding" in given:
        return given["input"].size // weight.shape[0] * weight.size
    steps = math.prod(int(step) for step in np.broadcast_to(given["stride"], weight.ndim - 2))
    return given["input"].size // (weight.shape[1] * given["groups"]) * weight.size // steps
