/*
 * Depthwise convolution where a row (or a row of several planes side by side) fits a vector with its padding: rows
 * stay in registers, and a tap is a rotation, which brings the zeros behind the data to their front. No buffer: what
 * was just stored to one would be loaded at other addresses, which waits for the store (14x14: 1.6 times as long).
 *
 * The kernel is 3, 5 or 7 wide and high, with padding k / 2 on its low sides. A part of depthwise.h, which includes
 * it once for each type; hence no guard.
 */

/* Lane l is lane l + d of x, round the end. */
FC_INLINE FC_VECTOR FC_(fc_rotate)(FC_VECTOR x, const int d) {
    switch (d) {
    case -3: return FC_MIX(x, x, FC_BACK_3);
    case -2: return FC_MIX(x, x, FC_BACK_2);
    case -1: return FC_MIX(x, x, FC_BACK_1);
    case 1: return FC_MIX(x, x, FC_ON_1);
    case 2: return FC_MIX(x, x, FC_ON_2);
    case 3: return FC_MIX(x, x, FC_ON_3);
    default: return x;
    }
}

/* Where a row of each plane lies in a vector. */
typedef struct {
    FC_(fc_span) first, second;
} FC_(fc_sides);

FC_INLINE FC_(fc_sides) FC_(fc_sides_of)(ptrdiff_t n) {
    return (FC_(fc_sides)){FC_(fc_span_of)(0, n), FC_(fc_span_of)(FC_LANES / 2, n)};
}

/* A row of one plane, or of two side by side. */
FC_INLINE FC_VECTOR FC_(fc_small_load)(const int planes, const FC_REAL *from, ptrdiff_t plane_step,
                                       FC_(fc_sides) n) {
    const FC_VECTOR x = FC_(fc_load_span)(from, n.first);
    if (planes == 1) return x;
    return (FC_VECTOR)((FC_INTEGERS)x | (FC_INTEGERS)FC_(fc_load_span)(from + plane_step - FC_LANES / 2, n.second));
}

FC_INLINE void FC_(fc_small_store)(const int planes, FC_REAL *to, ptrdiff_t plane_step, FC_VECTOR x,
                                   FC_(fc_sides) n) {
    FC_(fc_store_span)(to, x, n.first);
    if (planes == 2) FC_(fc_store_span)(to + plane_step - FC_LANES / 2, x, n.second);
}

/* Row h of the source, of one plane or of two side by side: stride 1 one vector; stride 2 the even columns, then the
   odd ones. */
FC_INLINE void FC_(fc_small_row)(const int planes, const int stride, const fc_planes *b, const FC_REAL *from,
                                 ptrdiff_t h, FC_(fc_sides) n, FC_(fc_span) rest, FC_VECTOR *row) {
    row[0] = row[1] = (FC_VECTOR){0};
    if (__builtin_expect((size_t)h >= (size_t)b->from_rows, 0)) return;
    if (stride == 1) {
        row[0] = FC_(fc_small_load)(planes, from, b->from_plane, n);
    } else {
        const FC_VECTOR x = FC_(fc_load_span)(from, n.first);
        const FC_VECTOR y = FC_(fc_load_span)(from + (planes == 2 ? b->from_plane : FC_LANES), rest);
        row[0] = FC_MIX(x, y, FC_EVENS);
        row[1] = FC_MIX(x, y, FC_ODDS);
    }
}

/* Of the same, the second vector. */
FC_INLINE FC_(fc_span) FC_(fc_small_rest)(const int planes, const fc_planes *b) {
    const ptrdiff_t beyond = b->from_columns - FC_LANES;
    return FC_(fc_span_of)(0, planes == 2 ? b->from_columns : beyond > 0 ? beyond : 0);
}

/* What tap column s sees of a row. */
FC_INLINE FC_VECTOR FC_(fc_small_tap)(const int k, const int stride, const int s, const FC_VECTOR *row) {
    const int d = s - k / 2; /* rounded down: */
    return stride == 1 ? FC_(fc_rotate)(row[0], d) : FC_(fc_rotate)(row[d & 1], (d - (d & 1)) / 2);
}

FC_INLINE void FC_(fc_small_gather_rows)(const int planes, const int rows, const int k, const int stride,
                                         const fc_planes *b, const FC_VECTOR *w, FC_VECTOR bias, ptrdiff_t j) {
    const FC_(fc_sides) n = FC_(fc_sides_of)(b->from_columns), written = FC_(fc_sides_of)(b->columns);
    const FC_(fc_span) rest = FC_(fc_small_rest)(planes, b);
    ptrdiff_t h = b->first + j * stride;
    const FC_REAL *from = (const FC_REAL *)b->from + h * b->from_row;
    FC_VECTOR sums[FC_TALL];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[r] = bias;
#pragma GCC unroll 24
    for (int i = 0; i < (rows - 1) * stride + k; i++, h++, from += b->from_row) {
        FC_VECTOR row[2];
        FC_(fc_small_row)(planes, stride, b, from, h, n, rest, row);
#pragma GCC unroll 7
        for (int s = 0; s < k; s++) {
            const FC_VECTOR v = FC_(fc_small_tap)(k, stride, s, row);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                if (i - r * stride >= 0 && i - r * stride < k) sums[r] += w[s * k + i - r * stride] * v;
        }
    }
    FC_REAL *to = (FC_REAL *)b->to + j * b->to_row;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++, to += b->to_row)
        FC_(fc_small_store)(planes, to, b->to_plane, b->relu ? FC_(fc_relu)(sums[r]) : sums[r], written);
}

FC_INLINE void FC_(fc_small_gather_all)(const int planes, const int k, const int stride, const fc_planes *given) {
    const fc_planes b = *given; /* in registers: it is not what the results overwrite */
    const FC_VECTOR *weights = (const FC_VECTOR *)b.weights, bias = *(const FC_VECTOR *)b.bias;
    FC_VECTOR w[9];
    if (k == 3) FC_(fc_three)(planes, &b, w);
    for (ptrdiff_t j = 0; j < b.rows;) {
        const FC_VECTOR *x = k == 3 ? w : weights;
        const ptrdiff_t left = b.rows - j;
        if (k == 3 && FC_MOST_SMALL >= 7 && left >= 7)
            FC_(fc_small_gather_rows)(planes, 7, k, stride, &b, x, bias, j), j += 7;
        else if (left >= 4)
            FC_(fc_small_gather_rows)(planes, 4, k, stride, &b, x, bias, j), j += 4;
        else if (k == 3 && left >= 2)
            FC_(fc_small_gather_rows)(planes, 2, k, stride, &b, x, bias, j), j += 2;
        else
            FC_(fc_small_gather_rows)(planes, 1, k, stride, &b, x, bias, j), j += 1;
    }
}

static inline void FC_(fc_small_gather)(const fc_planes *b) {
#define FC_CASE(K, S)                                                                 \
    case 2 * K + S:                                                                   \
        if (b->planes == 1) FC_(fc_small_gather_all)(1, K, S, b);                     \
        else FC_(fc_small_gather_all)(2, K, S, b);                                    \
        break;
    switch (2 * b->kernel + b->stride) {
        FC_CASE(3, 1) FC_CASE(3, 2) FC_CASE(5, 1) FC_CASE(5, 2) FC_CASE(7, 1) FC_CASE(7, 2)
    }
#undef FC_CASE
}

/* -- Scattering: grad_input of stride 2 -----------------------------------------------------------------------
 * As fc_scatter_tile, with rotations for its loads; padding is 2 * (k / 4), or one more if it is odd.
 */
FC_INLINE void FC_(fc_small_scatter_rows)(const int planes, const int rows, const int k, const int odd,
                                          const fc_planes *b, const FC_VECTOR *w, FC_VECTOR bias, ptrdiff_t j) {
    const int least = -((k - 1 - odd) / 2);
    const FC_(fc_sides) n = FC_(fc_sides_of)(b->from_columns);
    const FC_(fc_span) written = FC_(fc_span_of)(0, b->columns);
    const FC_(fc_span) rest = planes == 2 ? written : FC_(fc_span_of)(0, b->columns > FC_LANES ? b->columns - FC_LANES : 0);
    ptrdiff_t h = b->first + j;
    const FC_REAL *from = (const FC_REAL *)b->from + h * b->from_row;
    FC_VECTOR sums[FC_PAIRS][2][2];
#pragma GCC unroll 16
    for (int a = 0; a < 4 * rows; a++) sums[a / 4][a / 2 % 2][a % 2] = bias;
#pragma GCC unroll 8
    for (int i = 0; i < rows + odd - least; i++, h++, from += b->from_row) {
        FC_VECTOR row[2];
        FC_(fc_small_row)(planes, 1, b, from, h, n, n.first, row);
#pragma GCC unroll 5
        for (int u = least; u <= odd; u++) {
            const FC_VECTOR v = FC_(fc_rotate)(row[0], k / 4 + u);
#pragma GCC unroll 4
            for (int p = 0; p < rows; p++)
#pragma GCC unroll 4
                for (int ab = 0; ab < 4; ab++) {
                    const int t = i - p + least, r = ab / 2 + odd - 2 * t, s = ab % 2 + odd - 2 * u;
                    if (t <= odd && r >= 0 && r < k && s >= 0 && s < k) sums[p][ab / 2][ab % 2] += w[s * k + r] * v;
                }
        }
    }
    FC_REAL *to = (FC_REAL *)b->to + 2 * j * b->to_row;
#pragma GCC unroll 8
    for (int y = 0; y < 2 * rows; y++, to += b->to_row) {
        if (2 * j + y >= b->rows) break;
        FC_VECTOR x0 = FC_MIX(sums[y / 2][y % 2][0], sums[y / 2][y % 2][1], FC_FIRST_PAIRS);
        FC_VECTOR x1 = FC_MIX(sums[y / 2][y % 2][0], sums[y / 2][y % 2][1], FC_LAST_PAIRS);
        if (b->relu) x0 = FC_(fc_relu)(x0), x1 = FC_(fc_relu)(x1);
        FC_(fc_store_span)(to, x0, written);
        FC_(fc_store_span)(to + (planes == 2 ? b->to_plane : FC_LANES), x1, rest);
    }
}

FC_INLINE void FC_(fc_small_scatter_all)(const int planes, const int k, const int odd, const fc_planes *given) {
    const fc_planes b = *given;
    const FC_VECTOR bias = *(const FC_VECTOR *)b.bias;
    FC_VECTOR w[9];
    if (k == 3) FC_(fc_three)(planes, &b, w);
    for (ptrdiff_t j = 0; 2 * j < b.rows;) {
        const FC_VECTOR *x = k == 3 ? w : (const FC_VECTOR *)b.weights;
        const ptrdiff_t left = (b.rows + 1) / 2 - j;
        if (k == 3 && FC_PAIRS >= 4 && left >= 4)
            FC_(fc_small_scatter_rows)(planes, 4, k, odd, &b, x, bias, j), j += 4;
        else if (left >= 2)
            FC_(fc_small_scatter_rows)(planes, 2, k, odd, &b, x, bias, j), j += 2;
        else
            FC_(fc_small_scatter_rows)(planes, 1, k, odd, &b, x, bias, j), j += 1;
    }
}

static inline void FC_(fc_small_scatter)(const fc_planes *b) {
#define FC_CASE(K, ODD)                                                               \
    case 2 * K + ODD:                                                                 \
        if (b->planes == 1) FC_(fc_small_scatter_all)(1, K, ODD, b);                  \
        else FC_(fc_small_scatter_all)(2, K, ODD, b);                                 \
        break;
    switch (2 * b->kernel + b->odd) {
        FC_CASE(3, 0) FC_CASE(3, 1) FC_CASE(5, 0) FC_CASE(5, 1) FC_CASE(7, 0) FC_CASE(7, 1)
    }
#undef FC_CASE
}
