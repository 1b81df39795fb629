"""Networks as data: what layers they have, in which order, with which parameters; one file per family.

`find` knows them by name; `fastconv.summary` counts them; nothing here allocates a weight.
"""

from __future__ import annotations

from fastconv.errors import shown
from fastconv.models.description import (
    Convolution,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalResponseNorm,
    Network,
    Pool,
    ReLU,
    Softmax,
)
from fastconv.models.vgg import VGG, vgg

__all__ = [
    "Convolution",
    "Dropout",
    "Flatten",
    "Layer",
    "Linear",
    "LocalResponseNorm",
    "Network",
    "Pool",
    "ReLU",
    "Softmax",
    "find",
    "names",
    "vgg",
]

_ALIASES = {"vgg11": "vgg-a", "vgg13": "vgg-b", "vgg16": "vgg-d", "vgg19": "vgg-e"}


def names() -> list[str]:
    """The names that `find` knows."""
    return sorted([*(f"vgg-{configuration.lower()}" for configuration in VGG), *_ALIASES])


def find(name: str) -> Network:
    """The network of that name, with 1000 classes.

    Raises
    ------
    ValueError
        For another name.

    Examples
    --------
    >>> find("vgg16").name
    'VGG-16'
    """
    known = _ALIASES.get(name.lower(), name.lower())
    for configuration in VGG:
        if known == f"vgg-{configuration.lower()}":
            return vgg(configuration)
    raise ValueError(f"unknown network {shown(name)}; the names are {', '.join(names())}")
