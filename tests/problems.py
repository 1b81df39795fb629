"""The conformance problems: named, small, and with integer data on which every sum is exact in float32.

A name says what a problem is there for; its text is what a failure prints and what `fastconv.explain` takes. Every one
runs in float32 and float64. Sizes stand around the borders of tiles and vectors (7, 8, 9; 13..17; 31, 32, 33).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from functools import cache

import numpy as np

from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.problem import ConvProblem, PoolProblem, Problem

#: Sums of |x| |w| stay at most this large, so that they are exact, partial sums and transforms included.
EXACT = 2**18

#: naive takes 0.25 us for each: above this many it is skipped, by an entry of expected_skips.py.
NAIVE_MACS = 20_000

CONV: dict[str, str] = {
    # -- kernels ------------------------------------------------------------------------------------
    "one_pixel": "n1c1h1w1_k1r1s1",
    "pointwise": "n2c5h6w7_k4r1s1",
    "pointwise_stride": "n1c5h7w6_k6r1s1_stride2x2",
    "row_kernel": "n1c3h5w9_k4r1s3_pad0:0,1:1",
    "column_kernel": "n1c3h9w5_k4r3s1_pad1:1,0:0",
    "even_kernel": "n2c3h6w7_k3r2s2",
    "even_kernel_same": "n1c2h6w7_k3r4s2_pad1:2,0:1",
    "three": "n1c3h8w8_k4r3s3_pad1:1,1:1",
    "five": "n1c2h9w10_k3r5s5_pad2:2,2:2",
    "seven_stride": "n1c3h13w14_k4r7s7_stride2x2_pad3:3,3:3",
    "eleven_stride": "n1c3h23w24_k2r11s11_stride4x4_pad2:2,2:2",
    "wide_kernel": "n1c2h4w20_k2r2s13",
    "tall_kernel": "n1c2h20w4_k2r13s2",
    "kernel_is_input": "n2c3h5w6_k4r5s6",
    "linear": "n17c5h4w3_k35r4s3",
    "linear_groups": "n3c8h3w3_k36r3s3_g2",
    "linear_one_pixel": "n20c17h1w1_k9r1s1",
    "kernel_is_padded_input": "n1c2h3w4_k3r5s6_pad1:1,1:1",
    # -- extents ------------------------------------------------------------------------------------
    "one_row": "n1c3h1w17_k4r1s3",
    "one_row_padded": "n1c3h1w9_k4r3s3_pad1:1,1:1",
    "one_column": "n1c3h17w1_k4r3s1",
    "one_column_padded": "n1c3h9w1_k4r3s3_pad1:1,1:1",
    "one_pixel_padded": "n2c3h1w1_k4r3s3_pad1:1,1:1",
    **{f"width_{w}": f"n1c3h4w{w}_k5r3s3_pad1:1,1:1" for w in (7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33)},
    **{f"width_{w}_no_pad": f"n1c2h3w{w + 2}_k4r3s3" for w in (6, 12, 15, 16, 17, 24, 25, 32, 33, 48, 49)},
    **{f"height_{h}": f"n1c3h{h}w4_k5r3s3_pad1:1,1:1" for h in (7, 8, 9, 13, 15, 16, 17, 31, 33)},
    **{f"pixels_{w}": f"n1c4h1w{w}_k3r1s1" for w in (5, 8, 11, 12, 13, 23, 24, 25, 27, 28, 29, 47, 63, 64, 65)},
    # -- channels -----------------------------------------------------------------------------------
    **{f"in_channels_{c}": f"n1c{c}h4w5_k3r3s3_pad1:1,1:1" for c in (1, 2, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33)},
    **{f"out_channels_{k}": f"n1c3h4w5_k{k}r3s3_pad1:1,1:1" for k in (1, 2, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33)},
    **{f"channels_{c}_{k}": f"n1c{c}h3w3_k{k}r1s1" for c, k in ((16, 32), (17, 33), (33, 17), (64, 48), (65, 49))},
    # -- strides and unused pixels ------------------------------------------------------------------
    "stride_2": "n2c3h9w9_k4r3s3_stride2x2_pad1:1,1:1",
    "stride_2_odd_width": "n1c3h9w36_k3r3s3_stride2x2_pad1:1,1:1",
    "stride_unequal": "n1c3h8w11_k4r3s3_stride1x3_pad1:1,1:1",
    "stride_unequal_other": "n1c3h11w8_k4r3s3_stride3x1",
    "stride_over_kernel": "n1c2h11w12_k3r2s2_stride3x4",
    "stride_over_kernel_padded": "n1c2h11w12_k3r1s1_stride3x3_pad1:1,2:2",
    "stride_over_input": "n2c2h4w5_k3r3s3_stride7x9",
    "stride_huge": f"n1c2h4w5_k3r3s3_stride{2**62}x{2**31}_pad1:1,1:1",
    "unused_pixels": "n1c2h8w8_k3r3s3_stride3x3",
    "unused_pixels_one_output": "n1c2h5w5_k3r3s3_stride3x3",
    # -- padding ------------------------------------------------------------------------------------
    "pad_low": "n1c2h5w6_k3r3s3_pad2:0,1:0",
    "pad_high": "n1c2h5w6_k3r3s3_pad0:2,0:1",
    "pad_asymmetric": "n2c3h6w5_k4r3s4_pad0:1,2:1",
    "pad_asymmetric_stride": "n1c3h7w9_k4r3s3_stride2x2_pad0:1,1:0",
    "pad_over_kernel": "n1c2h4w5_k3r2s3_pad3:4,5:3",
    "pad_over_input": "n1c2h2w3_k3r3s3_pad5:5,6:6",
    "pad_over_input_stride": "n1c2h2w3_k3r3s3_stride3x2_pad5:4,6:7",
    "pad_low_over_width": "n1c2h3w4_k2r3s3_pad0:0,17:0",
    "pad_high_over_width": "n1c2h3w4_k2r3s3_pad0:0,0:17",
    "pad_pointwise": "n1c3h3w4_k4r1s1_pad2:1,1:2",
    # -- dilation -----------------------------------------------------------------------------------
    "dilation_2": "n1c3h9w9_k4r3s3_pad2:2,2:2_dil2x2",
    "dilation_unequal": "n1c2h9w10_k3r3s3_dil1x3",
    "dilation_unequal_other": "n1c2h10w9_k3r3s3_dil3x1_pad0:2,1:0",
    "dilation_over_input": "n1c2h4w5_k3r3s3_pad4:4,5:5_dil4x5",
    "dilation_stride": "n2c3h12w11_k4r3s3_stride2x3_pad2:2,1:3_dil2x3",
    "dilation_divides_stride": "n1c2h13w13_k3r3s2_stride4x6_pad3:3,3:3_dil2x3",
    "dilation_of_one_tap": "n1c2h5w5_k3r1s1_dil9x9",
    # -- groups -------------------------------------------------------------------------------------
    "groups_2": "n2c4h6w7_k6r3s3_pad1:1,1:1_g2",
    "groups_3_uneven": "n1c9h5w6_k15r3s3_stride2x1_pad1:1,1:1_g3",
    "groups_wide": "n1c34h3w5_k36r1s1_g2",
    "groups_stride_dilation": "n1c6h10w9_k4r3s2_stride2x2_pad2:1,0:1_dil2x2_g2",
    "depthwise": "n2c5h7w8_k5r3s3_pad1:1,1:1_g5",
    "depthwise_17": "n1c17h6w9_k17r3s3_stride2x2_pad1:1,1:1_g17",
    "depthwise_one_row": "n1c9h1w33_k9r1s3_pad0:0,1:1_g9",
    "depthwise_multiplier_2": "n1c4h7w8_k8r3s3_pad1:1,1:1_g4",
    "depthwise_multiplier_3": "n2c3h6w6_k9r5s5_pad2:2,2:2_g3",
    "groups_to_one_output": "n1c8h5w5_k2r3s3_g2",
    # -- batch --------------------------------------------------------------------------------------
    "batch_3": "n3c2h5w5_k3r3s3_pad1:1,1:1",
    "batch_9": "n9c1h3w4_k2r2s2",
    "batch_5_pointwise": "n5c7h1w1_k9r1s1",
    # -- several parameters at once -----------------------------------------------------------------
    "everything": "n2c6h11w13_k9r3s4_stride2x3_pad1:3,4:0_dil2x1_g3",
    "everything_deep": "n3c10h7w9_k14r2s3_stride1x2_pad2:0,0:3_dil3x2_g2",
    # -- too large for naive ------------------------------------------------------------------------
    "tiles": "n2c19h18w21_k37r3s3_pad1:1,1:1",
    "tiles_stride": "n1c33h19w37_k18r3s3_stride2x2_pad1:1,1:1",
    "tiles_pointwise": "n2c67h9w11_k53r1s1",
    "tiles_groups": "n2c34h13w17_k38r3s3_stride1x2_pad1:1,2:0_g2",
    "tiles_depthwise": "n2c24h11w35_k24r3s3_pad1:1,1:1_g24",
    "tiles_wide_filter": "n1c5h29w31_k17r7s7_stride2x2_pad3:3,3:3",
    "tiles_dilation": "n1c18h20w33_k21r3s3_pad2:2,2:2_dil2x2",
    "long_row": "n1c2h3w301_k3r3s3_pad1:1,1:1",
    "many_channels": "n1c130h4w4_k67r1s1",
    "deep": "n1c260h3w3_k9r3s3_pad1:1,1:1",
}

#: Every third problem runs in NHWC too, and these.
_NHWC_TOO = {
    "tiles",
    "everything",
    "depthwise_17",
    "pad_over_input_stride",
    "stride_2",
    "groups_3_uneven",
    "linear",
    "linear_one_pixel",
}

POOL: dict[str, str] = {
    "one_pixel": "n1c1h1w1_r1s1",
    "halving": "n2c3h8w10_r2s2",
    "halving_odd": "n1c3h7w9_r2s2",
    "vgg": "n1c9h8w16_r2s2",
    "resnet": "n1c3h9w12_r3s3_stride2x2_pad1:1,1:1",
    "alexnet": "n1c5h13w13_r3s3_stride2x2",
    "overlapping": "n1c2h6w7_r3s3_stride1x1",
    "inception": "n1c4h7w7_r3s3_stride1x1_pad1:1,1:1",
    "one_row": "n1c2h1w33_r1s3_stride1x2_pad0:0,1:1",
    "one_column": "n1c2h33w1_r3s1_stride2x1_pad1:1,0:0",
    "global": "n2c7h5w6_r5s6",
    "global_seventeen": "n1c17h7w7_r7s7",
    "stride_over_kernel": "n1c3h11w12_r2s3_stride4x5",
    "stride_over_input": "n1c2h4w5_r2s2_stride9x7",
    "stride_huge": f"n1c2h4w5_r2s2_stride{2**62}x{2**31}",
    "unequal": "n2c3h9w10_r2s4_stride3x2_pad1:0,1:2",
    "pad_low": "n1c2h6w6_r3s3_stride2x2_pad1:0,1:0",
    "pad_high": "n1c2h6w6_r3s3_stride2x2_pad0:1,0:1",
    "pad_half": "n1c2h5w5_r4s5_stride2x2_pad2:2,2:2",
    "ceil": "n1c3h8w9_r3s3_stride2x2_ceil",
    "ceil_odd": "n1c3h7w10_r2s2_stride2x2_ceil",
    "ceil_padded": "n1c3h7w8_r3s3_stride2x2_pad1:1,1:1_ceil",
    "ceil_drops_window": "n1c2h4w5_r2s2_stride3x4_pad1:1,1:1_ceil",
    "ceil_stride_3": "n1c2h9w11_r3s2_stride3x3_pad1:1,0:1_ceil",
    "ceil_asymmetric": "n1c2h6w7_r4s3_stride3x4_pad2:1,0:1_ceil",
    "batch_5": "n5c3h6w6_r3s2_stride2x2",
    **{f"width_{w}": f"n1c2h3w{w}_r3s3_stride1x1_pad1:1,1:1" for w in (7, 8, 9, 15, 16, 17, 31, 32, 33)},
    **{f"width_{w}_stride_2": f"n1c2h4w{w}_r2s2_stride2x2" for w in (14, 15, 16, 17, 31, 32, 33, 34, 66)},
    **{f"channels_{c}": f"n1c{c}h4w5_r2s2_stride1x2_pad1:0,0:1" for c in (1, 7, 8, 9, 15, 16, 17, 31, 32, 33)},
    "large": "n2c19h33w35_r3s3_stride2x2_pad1:1,1:1",
    "large_window": "n1c3h40w41_r13s15_stride6x7_pad6:5,7:6_ceil",
}
MAX_ONLY: dict[str, str] = {
    "dilation": "n1c3h9w10_r3s3_stride2x1_pad1:1,1:1_dil2x3",
    "dilation_ceil": "n1c2h9w10_r2s3_stride3x2_pad1:1,1:1_dil3x2_ceil",
    "wholly_in_padding": "n2c2h1w1_r2s2_stride1x1_pad1:1,1:1_dil2x2",
    "wholly_in_padding_row": "n1c2h1w6_r2s3_stride1x1_pad1:1,1:1_dil2x1",
    "wholly_in_padding_far": "n1c2h2w3_r2s2_stride1x1_pad1:1,1:1_dil3x4",
}
_NOPAD_TOO = (
    "resnet", "inception", "unequal", "pad_low", "pad_half",
    "ceil_padded", "ceil_asymmetric", "large_window", "width_33",
)  # fmt: skip
AVG_ONLY: dict[str, str] = {
    **{f"{name}_nopad": f"{POOL[name]}_nopad" for name in _NOPAD_TOO},
    "divisor": "n1c3h7w8_r3s3_stride2x2_pad1:1,1:1_div5",
    "divisor_one": "n1c3h7w8_r2s2_stride2x2_ceil_div1",
    "divisor_negative": "n1c3h7w8_r2s2_stride2x2_div-3",
}  # fmt: skip


def _both_dtypes(problems: dict[str, Problem]) -> dict[str, Problem]:
    return {
        f"{name}-{code}": replace(problem, dtype=dtype)
        for name, problem in problems.items()
        for code, dtype in (("f32", "float32"), ("f64", "float64"))
    }


def _with_nhwc(problems: dict[str, Problem]) -> dict[str, Problem]:
    chosen = [name for i, name in enumerate(problems) if i % 3 == 0 or name in _NHWC_TOO]
    return problems | {f"{name}_nhwc": replace(problems[name], channels_last=True) for name in chosen}


def _read(texts: dict[str, str], kind: str = "") -> dict[str, Problem]:
    return {name: parse_problem(kind + text) for name, text in texts.items()}


CONV_PROBLEMS: dict[str, ConvProblem] = _both_dtypes(_with_nhwc(_read(CONV)))  # type: ignore[assignment]
MAX_PROBLEMS: dict[str, PoolProblem] = _both_dtypes(_with_nhwc(_read(POOL | MAX_ONLY, "max_")))  # type: ignore[assignment]
AVG_PROBLEMS: dict[str, PoolProblem] = _both_dtypes(_with_nhwc(_read(POOL | AVG_ONLY, "avg_")))  # type: ignore[assignment]
CONV_DIRECTIONS = (Direction.FORWARD, Direction.BACKWARD_INPUT, Direction.BACKWARD_WEIGHT)


# -- Data -------------------------------------------------------------------------------------------


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on `key` alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def longest_sum(problem: ConvProblem) -> int:
    """Products in one element of the result, in whichever direction has the most, and the bias."""
    window = math.prod(problem.kernel)
    positions = problem.batch * math.prod(problem.out_size)
    return max(problem.group_in_channels * window, problem.group_out_channels * window, positions) + 1


def bound(problem: ConvProblem) -> int:
    """Largest |x| and |w| with which every sum stays within EXACT."""
    largest = min(9, math.isqrt(EXACT // longest_sum(problem)))
    assert largest >= 1, f"{problem} is too large for exact sums"
    return largest


def integers(key: object, shape: tuple[int, ...], dtype: str, largest: int) -> np.ndarray:
    return generator(key, shape).integers(-largest, largest, shape, endpoint=True).astype(dtype)


@cache
def conv_operands(problem: ConvProblem) -> dict[str, np.ndarray]:
    """input, weight, bias and grad_output of integers; read-only, since the cache shares them."""
    shapes = {
        "input": problem.input_shape,
        "weight": problem.weight_shape,
        "bias": (problem.out_channels,),
        "grad_output": problem.output_shape,
    }
    found = {name: integers(name, shape, problem.dtype, bound(problem)) for name, shape in shapes.items()}
    for array in found.values():
        array.flags.writeable = False
    return found


@cache
def pool_input(problem: PoolProblem, values: str = "integers") -> np.ndarray:
    """Images of a pool: "integers", "ties" (three values only, signed zeros among them), or "special" values."""
    shape = problem.input_shape
    if values == "integers":
        data = integers("input", shape, problem.dtype, 99)
    elif values == "ties":
        data = generator("ties", shape).choice(np.array([-1.0, -0.0, 0.0, 1.0, 1.0], problem.dtype), shape)
    else:
        special = np.array([np.nan, np.inf, -np.inf, -np.inf, -np.inf, -0.0, 1, 2, 3], problem.dtype)
        data = generator("special", shape).choice(special, shape)
    data.flags.writeable = False
    return data
