"""What a network holds and does, counted without allocating a weight: shapes, activations, parameters, MACs.

`summarise` walks the layers once; a convention says which of these figures a table shows, and how. The table of
the CS231n lecture is the first:

    convention "cs231n": activations of the input, convolutions, pools and fully connected layers (what is computed
    in place costs nothing); weights without biases; one image; two significant digits with K and M (thousands and
    millions), plain below 10,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastconv import models
from fastconv.errors import shown
from fastconv.models import Convolution, Flatten, Layer, Linear, Network, Pool
from fastconv.problem import ConvProblem, Ints, PoolProblem

CONVENTIONS = ("cs231n",)


@dataclass(frozen=True)
class LayerSummary:
    """One layer as counted, for one image."""

    layer: Layer | None  # None: the input
    input_shape: Ints
    output_shape: Ints  # (C, H, W), or (features,)
    weights: int = 0
    biases: int = 0
    macs: int = 0

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases

    @property
    def activations(self) -> int:
        """Values it produces."""
        return math.prod(self.output_shape)

    @property
    def stored(self) -> bool:
        """Whether its result is memory of its own: not computed in place, and not a view."""
        return self.layer is None or isinstance(self.layer, (Convolution, Pool, Linear))


@dataclass(frozen=True)
class Summary:
    """A network, counted."""

    network: Network
    layers: tuple[LayerSummary, ...]  # the input first

    @property
    def stored(self) -> tuple[LayerSummary, ...]:
        """The layers that have memory of their own."""
        return tuple(entry for entry in self.layers if entry.stored)

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(entry.weights for entry in self.layers)

    @property
    def biases(self) -> int:
        """Biases of all layers."""
        return sum(entry.biases for entry in self.layers)

    @property
    def parameters(self) -> int:
        """Weights and biases of all layers."""
        return self.weights + self.biases

    @property
    def activations(self) -> int:
        """Values that one image's forward pass stores, the input included."""
        return sum(entry.activations for entry in self.stored)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return sum(entry.macs for entry in self.layers)


def summarise(network: Network) -> Summary:
    """Count a network, layer by layer.

    Raises
    ------
    InvalidProblem
        When a layer's window does not fit what comes before it.

    Examples
    --------
    >>> summarise(models.find("vgg16")).parameters
    138357544
    """
    shape = network.input_shape
    found = [LayerSummary(None, shape, shape)]
    for layer in network.layers:
        found.append(_count(layer, shape))
        shape = found[-1].output_shape
    return Summary(network, tuple(found))


def _count(layer: Layer, shape: Ints) -> LayerSummary:
    if isinstance(layer, Convolution):
        pads = tuple((pad, pad) for pad in layer.padding)
        problem = ConvProblem(
            "float32", 1, shape[0], shape[1:], layer.out_channels, layer.kernel, layer.stride, pads, layer.dilation,
            layer.groups,
        )  # fmt: skip
        weights = math.prod(problem.weight_shape)
        biases = layer.out_channels if layer.bias else 0
        return LayerSummary(layer, shape, problem.output_shape[1:], weights, biases, problem.macs)
    if isinstance(layer, Pool):
        pads = tuple((pad, pad) for pad in layer.padding)
        pool = PoolProblem(
            layer.kind, "float32", 1, shape[0], shape[1:], layer.kernel, layer.stride, pads, ceil_mode=layer.ceil_mode
        )
        return LayerSummary(layer, shape, pool.output_shape[1:])
    if isinstance(layer, Linear):
        weights = math.prod(shape) * layer.out_features
        biases = layer.out_features if layer.bias else 0
        return LayerSummary(layer, shape, (layer.out_features,), weights, biases, weights)
    if isinstance(layer, Flatten):
        return LayerSummary(layer, shape, (math.prod(shape),))
    return LayerSummary(layer, shape, shape)


# -- The CS231n table -------------------------------------------------------------------------------


def short(count: int) -> str:
    """Two significant digits with K or M, plain below 10,000.

    Examples
    --------
    >>> [short(count) for count in (4096, 25088, 150528, 3211264)]
    ['4096', '25K', '150K', '3.2M']
    """
    if count < 10_000:
        return str(count)
    for unit, scale in (("M", 1_000_000), ("K", 1_000)):
        if count >= scale:
            digits = len(str(count // scale))
            cut = 10 ** max(digits - 2, 0)  # 150,528 is 150K: cut, as the lecture does
            return f"{count // scale // cut * cut}{unit}" if digits > 1 else f"{count / scale:.1f}{unit}"
    raise AssertionError(count)


def cs231n_cells(summary: Summary) -> list[tuple[str, str, str, str]]:
    """The lecture's rows: (layer, shape, memory, params)."""
    rows = []
    flattened_from: Ints | None = None
    for entry in summary.layers:
        if isinstance(entry.layer, Flatten):
            flattened_from = entry.input_shape
        if not entry.stored:
            continue
        last = _channels_last(entry.output_shape)
        features = len(entry.output_shape) == 1
        shape = "[" + "x".join(map(str, (1, 1, *last) if features else last)) + "]"
        memory = short(entry.activations)
        if not features:
            memory = f"{'*'.join(map(str, last))}={memory}"
        params = "0"
        if entry.weights:
            params = f"{_weights_formula(entry, flattened_from)} = {entry.weights:,}"
        if isinstance(entry.layer, Linear):
            flattened_from = None
        rows.append((_label(entry.layer), shape, memory, params))
    return rows


def _channels_last(shape: Ints) -> Ints:
    return (*shape[1:], shape[0]) if len(shape) > 1 else shape


def _label(layer: Layer | None) -> str:
    if isinstance(layer, Convolution):
        size = str(layer.kernel[0]) if len(set(layer.kernel)) == 1 else "x".join(map(str, layer.kernel))
        return f"CONV{size}-{layer.out_channels}"
    if isinstance(layer, Pool):
        return f"POOL{layer.kernel[0]}"
    return "INPUT" if layer is None else "FC"


def _weights_formula(entry: LayerSummary, flattened_from: Ints | None) -> str:
    if isinstance(entry.layer, Convolution):
        window = (*entry.layer.kernel, entry.input_shape[0] // entry.layer.groups)
        return f"({'*'.join(map(str, window))})*{entry.layer.out_channels}"
    inputs = _channels_last(flattened_from or entry.input_shape)
    return "*".join(map(str, (*inputs, *entry.output_shape)))


def cs231n(summary: Summary) -> str:
    """The table as the lecture prints it, the totals as they are, and what differs from the published ones."""
    rows = cs231n_cells(summary)
    heads = [f"{label}: {shape}" for label, shape, _, _ in rows]
    width, memory_width = max(map(len, heads)), max(len(memory) for _, _, memory, _ in rows)
    lines = [
        f"{head:{width}}  memory:  {memory:{memory_width}}  params: {params}"
        for head, (_, _, memory, params) in zip(heads, rows, strict=True)
    ]
    return "\n".join([*lines, "", *totals(summary)])


def totals(summary: Summary) -> list[str]:
    """Totals under the table, and the footnote where the published total is another."""
    nbytes = 4 * summary.activations
    lines = [
        f"TOTAL memory: {summary.activations:,} values * 4 bytes = {nbytes / 2**20:.1f} MiB per image (forward only)",
        f"TOTAL params: {summary.weights:,} weights; {summary.parameters:,} with biases",
        f"TOTAL work:   {summary.macs:,} multiply-accumulates per image (forward only)",
    ]
    if summary.network.name == "VGG-16":
        lines += ["", FOOTNOTE]
    return lines


FOOTNOTE = (
    'The lecture\'s published total, "24M * 4 bytes ~= 93MB / image", does not follow from its own rows: they sum to '
    "15.2M values, 58.1 MiB."
)


def table(name: str, convention: str = "cs231n") -> str:
    """The table of the network called `name`, as text.

    Raises
    ------
    ValueError
        For an unknown network or convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {shown(convention)}; the conventions are {', '.join(CONVENTIONS)}")
    return cs231n(summarise(models.find(name)))
