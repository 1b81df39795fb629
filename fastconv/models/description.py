"""The words in which a network is described: one frozen value per layer.

A layer says what it is, not what it computes with: input sizes follow from the layers before it, weights belong to
whoever runs the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fastconv.problem import Ints


@dataclass(frozen=True)
class Convolution:
    """`out_channels` filters of `kernel` over all input channels of their group."""

    out_channels: int
    kernel: Ints
    stride: Ints = (1, 1)
    padding: Ints = (0, 0)
    dilation: Ints = (1, 1)
    groups: int = 1
    bias: bool = True


@dataclass(frozen=True)
class Pool:
    """The maximum ("max") or average ("avg") of every window."""

    kind: str
    kernel: Ints
    stride: Ints
    padding: Ints = (0, 0)
    ceil_mode: bool = False


@dataclass(frozen=True)
class Linear:
    """A fully connected layer."""

    out_features: int
    bias: bool = True


@dataclass(frozen=True)
class ReLU:
    """max(0, x), in place."""


@dataclass(frozen=True)
class LocalResponseNorm:
    """Division by the local energy over neighbouring channels."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0


@dataclass(frozen=True)
class Dropout:
    """In training, each element is dropped with `probability`."""

    probability: float = 0.5


@dataclass(frozen=True)
class Flatten:
    """From (C, H, W) to a vector."""


@dataclass(frozen=True)
class Softmax:
    """Scores to probabilities."""


Layer: TypeAlias = Convolution | Pool | Linear | ReLU | LocalResponseNorm | Dropout | Flatten | Softmax


@dataclass(frozen=True)
class Network:
    """A chain of layers, and the (C, H, W) it was published for."""

    name: str
    input_shape: Ints
    layers: tuple[Layer, ...]
