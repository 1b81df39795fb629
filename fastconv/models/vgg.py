"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", table 1.

Stages of 3 x 3 convolutions that keep the size, each ended by a 2 x 2 maximum that halves it; three fully
connected layers. The configurations differ in the stages alone.
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

#: Configuration -> five stages of (out_channels, kernel size); "LRN" marks the one normalisation of A-LRN.
_Entry = tuple[int, int] | str
VGG: dict[str, tuple[tuple[_Entry, ...], ...]] = {
    "A": (((64, 3),), ((128, 3),), ((256, 3),) * 2, ((512, 3),) * 2, ((512, 3),) * 2),
    "A-LRN": (((64, 3), "LRN"), ((128, 3),), ((256, 3),) * 2, ((512, 3),) * 2, ((512, 3),) * 2),
    "B": (((64, 3),) * 2, ((128, 3),) * 2, ((256, 3),) * 2, ((512, 3),) * 2, ((512, 3),) * 2),
    "C": (
        ((64, 3),) * 2,
        ((128, 3),) * 2,
        ((256, 3), (256, 3), (256, 1)),
        ((512, 3), (512, 3), (512, 1)),
        ((512, 3), (512, 3), (512, 1)),
    ),
    "D": (((64, 3),) * 2, ((128, 3),) * 2, ((256, 3),) * 3, ((512, 3),) * 3, ((512, 3),) * 3),
    "E": (((64, 3),) * 2, ((128, 3),) * 2, ((256, 3),) * 4, ((512, 3),) * 4, ((512, 3),) * 4),
}

_NAMES = {"D": "VGG-16", "E": "VGG-19"}


def vgg(configuration: str = "D", classes: int = 1000) -> Network:
    """A column of the paper's table 1; D is VGG-16, E is VGG-19.

    Parameters
    ----------
    configuration : {"A", "A-LRN", "B", "C", "D", "E"}
    classes : int
        Outputs of the last layer.

    Raises
    ------
    ValueError
        For another configuration.

    Examples
    --------
    >>> sum(isinstance(layer, (Convolution, Linear)) for layer in vgg("D").layers)
    16
    """
    if configuration not in VGG:
        raise ValueError(f"configuration must be one of {', '.join(VGG)}, got {shown(configuration)}")
    layers: list[Layer] = []
    for stage in VGG[configuration]:
        for entry in stage:
            if isinstance(entry, str):
                layers.append(LocalResponseNorm())
            else:
                channels, size = entry
                layers += [Convolution(channels, (size, size), padding=(size // 2, size // 2)), ReLU()]
        layers.append(Pool("max", (2, 2), (2, 2)))
    layers.append(Flatten())
    for _ in range(2):
        layers += [Linear(4096), ReLU(), Dropout()]
    layers += [Linear(classes), Softmax()]
    name = _NAMES.get(configuration, f"VGG configuration {configuration}")
    return Network(name, (3, 224, 224), tuple(layers))
