"""Winograd's minimal filtering: the matrices, from their interpolation points, and the C that applies them.

F(m, r) computes m outputs of a correlation with r taps from n = m + r - 1 inputs by n products instead of m r::

    y = A^T [(G g) o (B^T d)]                      y, g, d of m, r, n elements
    g' = G^T [sum over tiles of (A y') o (B^T d)]      the gradient by g, for gradients y'

By Toom and Cook: g and y' are polynomials, evaluated at n - 1 points and at infinity; their products interpolate.
In two dimensions each matrix is applied to the columns and then to the rows. Points come as 0 and pairs +-p, so that
both of a pair share the even and the odd powers.

Run as a script, with the name of a file: writes simd.h's vectors through each matrix, for the compiler to unroll.

S. Winograd, Arithmetic Complexity of Computations, 1980. A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural
Networks, CVPR 2016. Points: B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for
Deep Neural Networks, ACM TOMS 46(4), 2020.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

#: Taps of a kernel along each axis.
TAPS = 3

#: Positive points of F(m, 3), each with its negative; 0 and infinity come with all of them. F(2, 3) needs no rounding
#: but that of halves: integers stay exact. Fractions near 1 keep the powers of the others near each other: the error
#: of F(4, 3) is a half to a quarter of that of the points 0, 1, 2.
POINTS = {
    2: (Fraction(1),),
    4: (Fraction(2, 3), Fraction(3, 2)),
    6: (Fraction(1, 2), Fraction(1), Fraction(2)),
}

#: Rows of rational numbers.
Matrix = tuple[tuple[Fraction, ...], ...]


class Matrices(NamedTuple):
    """The three matrices of F(m, r); see the module's formulas."""

    at: Matrix  # (m, n)
    g: Matrix  # (n, r)
    bt: Matrix  # (n, n)


def _product(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)])]
    return coefficients


@lru_cache(maxsize=8)
def matrices(outputs: int) -> Matrices:
    """The matrices of F(outputs, 3), exactly.

    Examples
    --------
    >>> for row in matrices(2).bt:
    ...     print(*row)
    -1 0 1 0
    0 1 1 0
    0 -1 1 0
    0 -1 0 1
    """
    points = [Fraction(0), *(sign * point for point in POINTS[outputs] for sign in (1, -1))]
    size = len(points) + 1
    infinity = [Fraction(0)] * size
    at = [[point**power for point in points] + [Fraction(power == outputs - 1)] for power in range(outputs)]
    g, bt = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        g.append([point**power / scale for power in range(TAPS)])
        bt.append([*_product(others), Fraction(0)])
    g.append([*infinity[: TAPS - 1], Fraction(1)])
    bt.append(_product(points))
    return Matrices(*(tuple(tuple(row) for row in matrix) for matrix in (at, g, bt)))


def _largest(matrix: Matrix, of: list[Fraction]) -> Fraction:
    """Largest element of the matrix of squares times a vector."""
    return max(sum((value**2 * x for value, x in zip(row, of)), Fraction(0)) for row in matrix)


@lru_cache(maxsize=8)
def amplification(outputs: int) -> tuple[float, float]:
    """How many times the rounding errors of the products' sums grow: in results, and in gradients of the weight.

    On independent N(0, 1) data, the standard deviation of the transformed products, carried through the last matrix to
    the worst of its elements, over that of the result. (Both are squares of the one-dimensional figure's root.)

    Examples
    --------
    >>> [round(figure, 2) for figure in amplification(4)]
    [7.13, 5.84]
    """
    at, g, bt = matrices(outputs)
    squares = [[sum((value**2 for value in row), Fraction(0)) for row in matrix] for matrix in (bt, g, tuple(zip(*at)))]
    inputs, filters, grads = squares
    results = _largest(at, [x * y for x, y in zip(inputs, filters)]) / TAPS
    taps = _largest(tuple(zip(*g)), [x * y for x, y in zip(inputs, grads)]) / outputs
    return float(results), float(taps)


def bound_factor(outputs: int) -> float:
    """By how much the matrices can grow rounding errors, whatever the data.

    With u the unit roundoff and m roundings on the way of a product to a result (C channels: at most C + 40)::

        |error| <= m u / (1 - m u) * bound_factor * sum over c of  (sum of |x| over a tile) * (sum of |w| over the taps)

    for every result of the tile, and likewise for grad_input; the factor is the largest coefficient of a product of one
    input and one tap when every matrix is replaced by its absolute values. (N. Higham, Accuracy and Stability of
    Numerical Algorithms, 2002, section 3.1.)

    Examples
    --------
    >>> [round(bound_factor(outputs)) for outputs in (2, 4, 6)]
    [4, 31, 204]
    """
    at, g, bt = matrices(outputs)
    coefficients = (
        sum((abs(row[f] * g[f][tap] * bt[f][place]) for f in range(len(bt))), Fraction(0))
        for row in at
        for tap in range(TAPS)
        for place in range(len(bt))
    )
    return float(max(coefficients)) ** 2


# -- C ----------------------------------------------------------------------------------------------


def _number(value: Fraction) -> str:
    if value.denominator == 1:
        return f"(FC_REAL){value.numerator}"
    return f"(FC_REAL)({value.numerator}.0 / {value.denominator})"


def _sum(terms: list[tuple[Fraction, str]]) -> str:
    """The sum of coefficient * name: names alone first, so that each of the others is one multiply-add."""
    ordered = sorted(
        ((value, name) for value, name in terms if value), key=lambda term: (abs(term[0]) != 1, term[0] < 0)
    )
    text = ""
    for value, name in ordered:
        sign = " + " if value > 0 else " - "
        factor = name if abs(value) == 1 else f"{_number(abs(value))} * {name}"
        text += f"{sign}{factor}" if text else (factor if value > 0 else f"-{factor}")
    return text


def _by_rows(matrix: Matrix) -> list[str]:
    """y = matrix x, where rows come in pairs that differ in the sign of some columns."""
    lines, row = [], 0
    while row < len(matrix):
        one = matrix[row]
        two = matrix[row + 1] if row + 1 < len(matrix) else None
        if two is None or any(abs(a) != abs(b) for a, b in zip(one, two)) or one == two:
            lines.append(f"y[{row}] = {_sum([(value, f'x[{j}]') for j, value in enumerate(one)])};")
            row += 1
            continue
        same = [(a, f"x[{j}]") for j, (a, b) in enumerate(zip(one, two)) if a and a == b]
        opposite = [(a, f"x[{j}]") for j, (a, b) in enumerate(zip(one, two)) if a and a == -b]
        lead = opposite[-1][0]
        lines.append(f"const FC_(fc_vector) same{row} = {_sum(same)};")
        lines.append(f"const FC_(fc_vector) opposite{row} = {_sum([(a / lead, name) for a, name in opposite])};")
        lines.append(f"y[{row}] = {_sum([(Fraction(1), f'same{row}'), (lead, f'opposite{row}')])};")
        lines.append(f"y[{row + 1}] = {_sum([(Fraction(1), f'same{row}'), (-lead, f'opposite{row}')])};")
        row += 2
    return lines


def _by_columns(matrix: Matrix) -> list[str]:
    """y = matrix x, where columns come in pairs that differ in the sign of some rows."""
    lines, terms = [], [[] for _ in matrix]  # type: tuple[list[str], list[list[tuple[Fraction, str]]]]
    columns = list(zip(*matrix))
    column = 0
    while column < len(columns):
        one = columns[column]
        two = columns[column + 1] if column + 1 < len(columns) else None
        paired = two is not None and all(abs(a) == abs(b) for a, b in zip(one, two)) and one != two
        if paired:
            lines.append(f"const FC_(fc_vector) sum{column} = x[{column}] + x[{column + 1}];")
            lines.append(f"const FC_(fc_vector) difference{column} = x[{column}] - x[{column + 1}];")
        for row, value in enumerate(one):
            name = f"x[{column}]"
            if two is not None and paired:
                name = f"sum{column}" if value == two[row] else f"difference{column}"
            terms[row].append((value, name))
        column += 2 if paired else 1
    return lines + [f"y[{row}] = {_sum(found)};" for row, found in enumerate(terms)]


def _function(name: str, lines: list[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"FC_INLINE void FC_({name})(const FC_(fc_vector) *x, FC_(fc_vector) *y) {{\n{body}\n}}\n"


def header() -> str:
    """C functions of vectors for each size m: fc_input_m (B^T), fc_output_m (A^T), fc_filter_m (G) and, for the
    gradient by the weight, fc_grad_m (A) and fc_taps_m (G^T)."""
    parts = ["/* Written by fastconv/winograd.py. Included once for each type. */\n"]
    for outputs in POINTS:
        at, g, bt = matrices(outputs)
        parts += [
            _function(f"fc_input_{outputs}", _by_rows(bt)),
            _function(f"fc_output_{outputs}", _by_columns(at)),
            _function(f"fc_filter_{outputs}", _by_rows(g)),
            _function(f"fc_grad_{outputs}", _by_rows(tuple(zip(*at)))),
            _function(f"fc_taps_{outputs}", _by_columns(tuple(zip(*g)))),
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(header())
