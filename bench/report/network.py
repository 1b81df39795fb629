"""VGG-16 as the lecture counts it, and its two remarks as a picture."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report import plots
from fastconv import models, summary


@dataclass(frozen=True)
class NetworkTable:
    """The rows of the lecture, the totals, and two plots."""

    rows: list[tuple[str, str, str, str]]
    totals: list[str]
    footnote: str
    plots: list[str]
    remarks: list[str]
    command: str


def vgg16() -> NetworkTable:
    """Count the network and draw where its memory and its parameters are."""
    counted = summary.summarise(models.find("vgg16"))
    rows = summary.cs231n_cells(counted)
    stored = counted.stored
    names = [label for label, _, _, _ in rows]
    memory = [4 * entry.activations / 2**20 for entry in stored]
    weights = [entry.weights / 1e6 for entry in stored]
    early = [name in ("CONV3-64", "CONV3-128") for name in names]
    connected = [name == "FC" for name in names]
    share_memory = sum(value for value, mark in zip(memory, early, strict=True) if mark) / sum(memory)
    share_weights = sum(value for value, mark in zip(weights, connected, strict=True) if mark) / sum(weights)
    remarks = [
        f"Most memory is in the early convolutions: the first four hold {share_memory:.0%} of the activations.",
        f"Most parameters are in the fully connected layers: the three hold {share_weights:.0%} of the weights.",
    ]
    pictures = [
        plots.columns("Memory of activations", "MiB per image, float32", names, memory, early, remarks[0]),
        plots.columns("Parameters", "millions of weights", names, weights, connected, remarks[1]),
    ]
    totals = [line for line in summary.totals(counted) if line.startswith("TOTAL")]
    return NetworkTable(rows, totals, summary.FOOTNOTE, pictures, remarks, "fastconv table vgg16 --convention cs231n")
