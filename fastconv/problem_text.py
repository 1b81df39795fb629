"""The text form of a problem, written and read: one line that serves tests, benchmarks and bug reports.

``f32_n8c64h56w56_k64r3s3_stride1x1_pad1:1,1:1_dil1x1_g1_nhwc``: element type, input, filters, then the
parameters, of which those at their default (stride 1, pad 0, dilation 1, one group, NCHW) are left out.
Three axes add ``d`` to the input and ``t`` to the filters. Pools begin with ``max_`` or ``avg_`` and have no
``k``; their stride is always written, and ``ceil``, ``nopad`` (padding is not counted) and ``divN`` may follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastconv.errors import InvalidProblem, shown
from fastconv.problem import ConvProblem, Ints, Pads, PoolProblem, Problem

_DTYPES = {"f32": "float32", "f64": "float64"}
_DTYPE_CODES = {dtype: code for code, dtype in _DTYPES.items()}

#: Digits of no other script, and few enough for `int`, which refuses very long ones.
_NUMBER = "[0-9]{1,600}"
_HEAD = re.compile(
    r"(?:(?P<kind>max|avg)_)?(?:(?P<dtype>f32|f64)_)?"
    rf"(?:n(?P<n>{_NUMBER}))?c(?P<c>{_NUMBER})(?:d(?P<d>{_NUMBER}))?h(?P<h>{_NUMBER})w(?P<w>{_NUMBER})"
    rf"_(?:k(?P<k>{_NUMBER}))?(?:t(?P<t>{_NUMBER}))?r(?P<r>{_NUMBER})s(?P<s>{_NUMBER})"
)
_FORM = "f32_n1c3h32w32_k10r5s5_stride1x1_pad2:2,2:2_dil1x1_g1_nhwc"


def _by(values: Ints) -> str:
    return "x".join(map(str, values))


def _lettered(letters: str, sizes: Ints) -> str:
    return "".join(f"{letter}{size}" for letter, size in zip(letters[-len(sizes) :], sizes, strict=True))


def format_problem(problem: Problem) -> str:
    """The canonical text of `problem`; `parse_problem` returns an equal problem."""
    axes = problem.axes
    parts = [_DTYPE_CODES[problem.dtype]]
    window = _lettered("trs", problem.kernel)
    if isinstance(problem, ConvProblem):
        image = f"n{problem.batch}c{problem.in_channels}{_lettered('dhw', problem.in_size)}"
        parts += [image, f"k{problem.out_channels}{window}"]
        if problem.stride != (1,) * axes:
            parts.append(f"stride{_by(problem.stride)}")
    else:
        parts.insert(0, problem.kind)
        image = f"n{problem.batch}c{problem.channels}{_lettered('dhw', problem.in_size)}"
        parts += [image, window, f"stride{_by(problem.stride)}"]
    if any(pad for pair in problem.pads for pad in pair):
        parts.append("pad" + ",".join(f"{low}:{high}" for low, high in problem.pads))
    if problem.dilation != (1,) * axes:
        parts.append(f"dil{_by(problem.dilation)}")
    if isinstance(problem, ConvProblem):
        if problem.groups != 1:
            parts.append(f"g{problem.groups}")
    else:
        if problem.ceil_mode:
            parts.append("ceil")
        if not problem.count_include_pad:
            parts.append("nopad")
        if problem.divisor_override is not None:
            parts.append(f"div{problem.divisor_override}")
    if problem.channels_last:
        parts.append("nhwc")
    return "_".join(parts)


def _int(value: str) -> int:
    """A number with no more before it than a minus: `int` itself would take "+1", " 1" and "1_0"."""
    if not re.fullmatch(f"-?{_NUMBER}", value):
        raise ValueError(value)
    return int(value)


def _ints(value: str) -> Ints:
    return tuple(_int(part) for part in value.split("x"))


def _pads(value: str) -> Pads:
    pairs = tuple(tuple(_int(part) for part in pair.split(":")) for pair in value.split(","))
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(value)
    return pairs  # type: ignore[return-value]


#: prefix -> (field, reader of the rest); a flag has no rest.
_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "stride": ("stride", _ints),
    "pad": ("pads", _pads),
    "dil": ("dilation", _ints),
    "div": ("divisor_override", _int),
    "g": ("groups", _int),
}
_FLAGS = {"ceil": ("ceil_mode", True), "nopad": ("count_include_pad", False), "nhwc": ("channels_last", True)}
_CONV_ONLY = {"groups"}
_POOL_ONLY = {"ceil_mode", "count_include_pad", "divisor_override"}


def _read_field(part: str) -> tuple[str, Any]:
    if part in _FLAGS:
        return _FLAGS[part]
    for prefix, (name, read) in _FIELDS.items():
        if part.startswith(prefix):
            return name, read(part[len(prefix) :])
    raise ValueError(part)


def parse_problem(text: str) -> Problem:
    """Read a problem back from its text form.

    Parameters
    ----------
    text : str
        As printed by ``str(problem)``; parameters at their default may be left out, and so may ``f32`` and ``n1``.

    Returns
    -------
    ConvProblem or PoolProblem
        A pool without a stride gets its kernel as the stride.

    Raises
    ------
    TypeError
        When `text` is not a string.
    InvalidProblem
        When the text is not of this form, names a parameter twice, or describes an invalid problem.

    Examples
    --------
    >>> import fastconv
    >>> problem = fastconv.parse_problem("f32_n8c64h56w56_k64r3s3_pad1:1,1:1")
    >>> problem.output_shape
    (8, 64, 56, 56)
    >>> str(problem)
    'f32_n8c64h56w56_k64r3s3_pad1:1,1:1'
    """
    if not isinstance(text, str):
        raise TypeError(f"a problem's text must be a str, got {type(text).__name__}")
    head = _HEAD.match(text)
    rest = text[head.end() :] if head else ""
    if head is None or (rest and not rest.startswith("_")) or bool(head["kind"]) == bool(head["k"]):
        raise InvalidProblem(
            f"not a problem's text: {shown(text)}; the form is {_FORM} or max_f32_n1c3h32w32_r2s2_stride2x2"
        )
    if bool(head["d"]) != bool(head["t"]):
        raise InvalidProblem(f"three axes need both d (input planes) and t (kernel planes): {shown(text)}")
    found: dict[str, Any] = {}
    for part in rest.split("_")[1:]:
        try:
            name, value = _read_field(part)
        except ValueError:
            raise InvalidProblem(f"cannot read {shown(part)} in the problem's text {shown(text)}") from None
        if name in found:
            raise InvalidProblem(f"{shown(part)} repeats a parameter in the problem's text {shown(text)}")
        if name in (_CONV_ONLY if head["kind"] else _POOL_ONLY):
            raise InvalidProblem(f"{shown(part)} does not belong to this kind of problem: {shown(text)}")
        found[name] = value

    sizes = {
        letter: int(value) for letter, value in head.groupdict().items() if value and letter not in ("kind", "dtype")
    }
    in_size = tuple(sizes[letter] for letter in "dhw" if letter in sizes)
    kernel = tuple(sizes[letter] for letter in "trs" if letter in sizes)
    axes = len(in_size)
    found.setdefault("stride", kernel if head["kind"] else (1,) * axes)
    found.setdefault("pads", ((0, 0),) * axes)
    found.setdefault("dilation", (1,) * axes)
    dtype, batch = _DTYPES[head["dtype"] or "f32"], sizes.get("n", 1)
    if head["kind"]:
        return PoolProblem(head["kind"], dtype, batch, sizes["c"], in_size, kernel, **found)
    return ConvProblem(dtype, batch, sizes["c"], in_size, sizes["k"], kernel, **found)
