"""Draw the pictures of the documents: python docs/make_pictures.py (needs matplotlib)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fastconv

HERE = Path(__file__).resolve().parent
SIZE, MOVED_BY, WINDOW = 48, 2, 8
EDGES = np.array([[[[1, 0, -1], [2, 0, -2], [1, 0, -1]]]], np.float32)


def drawing() -> np.ndarray:
    """A house with a round window, (1, 1, SIZE, SIZE), away from the borders."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    walls = (rows > 22) & (rows < 40) & (columns > 11) & (columns < 35)
    roof = (rows >= 9) & (rows <= 22) & (abs(columns - 23) <= (rows - 8) * 1.1)
    window = np.hypot(rows - 30, columns - 19) < 4
    door = (rows > 29) & (rows < 40) & (columns > 26) & (columns < 32)
    image = np.select([window, door, roof, walls], [0.9, 0.15, 0.75, 0.5], 0.0)
    return image[None, None].astype(np.float32)


def move(images: np.ndarray, pixels: int) -> np.ndarray:
    return np.roll(images, pixels, axis=3)


def edges(images: np.ndarray) -> np.ndarray:
    """Strength of vertical edges, whichever side is brighter."""
    return np.abs(fastconv.conv2d(images, EDGES, padding=1, padding_mode="circular"))


def changes(window: int, moves: list[int]) -> list[float]:
    """How much the pooled edges of the moved drawing differ from those of the drawing, relative to their norm."""
    before = fastconv.max_pool2d(edges(drawing()), window)
    after = (fastconv.max_pool2d(edges(move(drawing(), pixels)), window) for pixels in moves)
    return [float(np.linalg.norm(pooled - before) / np.linalg.norm(before)) for pooled in after]


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(7.5, 7.6), dpi=80, layout="constrained")
    still, moved = drawing(), move(drawing(), MOVED_BY)
    for row, (name, image) in enumerate((("drawing", still), (f"moved by {MOVED_BY} pixels", moved))):
        stages = (image, edges(image), fastconv.max_pool2d(edges(image), WINDOW))
        for axis, stage, title in zip(
            axes[row], stages, (name, "its edges", f"maxima over {WINDOW}x{WINDOW}"), strict=True
        ):
            axis.imshow(stage[0, 0], cmap="gray", vmin=0, vmax=max(1.0, float(stage.max())), interpolation="nearest")
            axis.set_title(title, fontsize=10)
    difference = edges(moved) - move(edges(still), MOVED_BY)
    axes[2, 0].imshow(difference[0, 0], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes[2, 0].set_title("edges of moved - moved edges", fontsize=10)
    axes[2, 0].text(
        SIZE / 2, SIZE / 2, f"{np.abs(difference).max():g} everywhere", ha="center", va="center", fontsize=10
    )
    for axis in (*axes[:2].flat, axes[2, 0]):
        axis.set_xticks([])
        axis.set_yticks([])
    grid = axes[2, 1].get_gridspec()
    for axis in axes[2, 1:]:
        axis.remove()
    plot, moves = figure.add_subplot(grid[2, 1:]), list(range(9))
    styles = ((1, "edges", "o"), (4, "maxima over 4x4", "s"), (8, "over 8x8", "^"), (SIZE, "over all", "x"))
    for window, label, marker in styles:
        plot.plot(moves, changes(window, moves), marker=marker, markersize=4, label=label)
    plot.set_xlabel("moved by, pixels")
    plot.set_title("change relative to the unmoved", fontsize=10)
    plot.set_ylim(bottom=0)
    plot.grid(alpha=0.3)
    plot.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(HERE / "equivariance.png")
