"""Edges of a real photograph by every algorithm: whole numbers, so that all must agree to the bit."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from time import perf_counter

import numpy as np

import fastconv
from bench.report import frames

#: Sobel's kernels: the change from left to right, and from top to bottom.
SOBEL = np.array([[[[1, 0, -1], [2, 0, -2], [1, 0, -1]]], [[[1, 2, 1], [0, 0, 0], [-1, -2, -1]]]], np.float32)
SHOWN_WIDTH = 256  # pixels; the maps are computed in full


@dataclass(frozen=True)
class Image:
    """A picture with what is said about it."""

    title: str
    note: str
    source: str  # data: address
    alt: str
    equal: bool = True


@dataclass(frozen=True)
class Photograph:
    """The photograph and its edge maps."""

    images: list[Image]
    note: str


def grayscale() -> np.ndarray:
    """The photograph that matplotlib ships (Grace Hopper, 1906-1992), as whole grey levels (H, W) in float32."""
    import matplotlib.cbook
    from PIL import Image as Picture

    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    with Picture.open(path) as picture:
        return np.asarray(picture.convert("L")).astype(np.float32)


def expected(photo: np.ndarray) -> np.ndarray:
    """(2, H, W): the two derivatives in whole numbers, by shifting the picture."""
    padded = np.pad(photo.astype(np.int64), 1)
    height, width = photo.shape
    kernels = SOBEL[:, 0].astype(np.int64)
    return np.stack(
        [
            sum(kernel[r, s] * padded[r : r + height, s : s + width] for r in range(3) for s in range(3))
            for kernel in kernels
        ]
    )


def edges(gradients: np.ndarray) -> np.ndarray:
    """(H, W) grey levels of the gradient's length, dark on light."""
    length = np.hypot(*gradients.astype(np.float64))
    levels: np.ndarray = 255 - np.minimum(length * (255 / np.percentile(length, 99.5)), 255)
    return levels.astype(np.uint8)


def png(levels: np.ndarray) -> str:
    """Grey levels as a data: address, scaled down to the width that is shown."""
    from PIL import Image as Picture

    picture = Picture.fromarray(levels.astype(np.uint8))
    if picture.width > SHOWN_WIDTH:
        size = (SHOWN_WIDTH, round(picture.height * SHOWN_WIDTH / picture.width))
        picture = picture.resize(size, Picture.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def photograph(algorithms: list[str] | None = None, photo: np.ndarray | None = None) -> Photograph:
    """Compute the edges by each algorithm (by default all that are available) and compare them."""
    photo = grayscale() if photo is None else photo
    names = algorithms or [entry.name for entry in fastconv.algorithms("conv") if entry.available]
    height, width = photo.shape
    want = expected(photo)
    images = [Image("The photograph", f"{width} × {height}, grey", png(photo), "Portrait photograph of Grace Hopper")]
    images += [_map(name, photo, want) for name in names]
    note = (
        f"fastconv.conv2d(photo, sobel, padding=1, algorithm=name) on {width} × {height} pixels, all algorithms on the "
        f"whole picture; shown {min(width, SHOWN_WIDTH)} pixels wide. Grey levels and kernels are whole numbers, so "
        "every sum is exact in float32 and the maps must be equal to the bit; those of a transform within its stated "
        "error."
    )
    return Photograph(images, note)


def _map(name: str, photo: np.ndarray, want: np.ndarray) -> Image:
    try:
        fastconv.conv2d(photo[None, None, :8, :8], SOBEL, padding=1, algorithm=name)  # compile, if it must
        start = perf_counter()
        got = fastconv.conv2d(photo[None, None], SOBEL, padding=1, algorithm=name)[0]
        seconds = perf_counter() - start
    except NotImplementedError as refusal:
        return Image(name, str(refusal), "", "", equal=False)
    wrong, off = int(np.count_nonzero(got != want)), float(np.abs(got - want).max() / np.abs(want).max())
    right = not wrong or off <= 2 * _stated_error(name, photo)
    how = "equal to the bit" if not wrong else f"within {off:.0e} of the largest"
    note = f"{how}, {frames.duration(seconds)}" if right else f"{wrong:,} values differ"
    return Image(name, note, png(edges(got)), f"Edges of the photograph computed by {name}", right)


def _stated_error(name: str, photo: np.ndarray) -> float:
    """What a transform may err; 0 for who sums the definition's own products."""
    table = fastconv.explain((1, 1, *photo.shape), SOBEL.shape, padding=1)
    (entry,) = (entry for entry in table.candidates if entry.algorithm.name == name)
    return entry.error if entry.algorithm.transforms else 0.0
