"""Other libraries, called as their users would: one file for each, which nobody loads who does not ask for it.

Every peer gets as many threads as fastconv has when it gets ready (`fastconv.get_num_threads`).
"""

from __future__ import annotations

import importlib
import sys

from bench.candidates import Candidate

#: The class of each peer. It imports its library when it is made, not before.
_CLASSES = {
    "torch": ("bench.peers.torch", "Torch"),
    "torch_channels_last": ("bench.peers.torch", "Torch"),
    "onnxruntime": ("bench.peers.onnxruntime", "OnnxRuntime"),
    "openvino": ("bench.peers.openvino", "OpenVino"),
    "ncnn": ("bench.peers.ncnn", "Ncnn"),
}
NAMES = tuple(_CLASSES)


def find(name: str) -> Candidate:
    """The peer of that name.

    Raises
    ------
    ValueError
        When it is unknown or not installed.
    """
    if name not in NAMES:
        raise ValueError(f"unknown peer {name!r}; the names are {', '.join(NAMES)}")
    module, made = _CLASSES[name]
    try:
        peer: Candidate = getattr(importlib.import_module(module), made)(name)
    except ImportError as error:
        raise ValueError(
            f"the peer {name} is not installed ({error}): see the extras peers and all-peers, or --peers"
        ) from None
    return peer


def set_num_threads(threads: int) -> None:
    """The thread count of every peer that has one for its process, and is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
