"""A kernel of the input's size: one output pixel, a linear layer of all inputs of an image."""

from __future__ import annotations

from functools import lru_cache

from fastconv.problem import ConvProblem


@lru_cache(maxsize=1024)
def as_linear(problem: ConvProblem) -> ConvProblem:
    """The same computation on the same memory, as a 1x1 convolution of one row of pixels: the images.

    ::

        output[n, k] = sum over i of  input[n, i] * weight[k, i]        i = (c, h, w)

    Arrays of (N, C, H, W) and (K, C, H, W) are matrices of C H W columns, and an image of N pixels with its channels
    last is one, too. Image by image every tile of pixels would be a single one, and in grad_input all taps but one of
    each pixel would meet zeros: 25 times the work for 5x5. Other problems are returned as they are; with their channels
    last the pixels of an image and those of a filter are in different order, and no image is no pixel.
    """
    whole = problem.kernel == problem.in_size and problem.pads == ((0, 0),) * problem.axes
    other_order = problem.channels_last and problem.kernel != (1, 1)
    if not whole or not problem.batch or problem.axes != 2 or other_order:
        return problem
    features = problem.in_channels * problem.kernel[0] * problem.kernel[1]
    return ConvProblem(
        problem.dtype, 1, features, (1, problem.batch), problem.out_channels, (1, 1), groups=problem.groups,
        channels_last=True,
    )  # fmt: skip
