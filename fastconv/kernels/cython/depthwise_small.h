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

/* n elements of one plane, or of two side by side. */
FC_INLINE FC_VECTOR FC_(fc_small_load)(const int planes, const FC_REAL *from, ptrdiff_t plane_step, ptrdiff_t n) {
    const FC_VECTOR x = FC_(fc_load_some)(from, n);
    if (planes == 1) return x;
    return (FC_VECTOR)((FC_INTEGERS)x | (FC_INTEGERS)FC_(fc_load_lanes)(from + plane_step, FC_LANES / 2, n));
}

/* Row h of the source, of one plane or of two side by side: stride 1 one vector; stride 2 the even columns, then the
   odd ones. */
FC_INLINE void FC_(fc_small_row)(const int planes, const int stride, const fc_planes *b, ptrdiff_t h, FC_VECTOR *row) {
    const FC_REAL *from = (const FC_REAL *)b->from + h * b->from_row;
    const ptrdiff_t n = b->from_columns;
    if (h < 0 || h >= b->from_rows) {
        row[0] = row[1] = (FC_VECTOR){0};
    } else if (stride == 1) {
        row[0] = FC_(fc_small_load)(planes, from, b->from_plane, n);
    } else {
        const FC_VECTOR x = FC_(fc_load_some)(from, n);
        const FC_VECTOR y = planes == 2 ? FC_(fc_load_some)(from + b->from_plane, n)
                                        : FC_(fc_load_most)(from + FC_LANES, n - FC_LANES);
        row[0] = FC_MIX(x, y, FC_EVENS);
        row[1] = FC_MIX(x, y, FC_ODDS);
    }
}

/* What tap column s sees of a row. */
FC_INLINE FC_VECTOR FC_(fc_small_tap)(const int k, const int stride, const int s, const FC_VECTOR *row) {
    const int d = s - k / 2; /* rounded down: */
    return stride == 1 ? FC_(fc_rotate)(row[0], d) : FC_(fc_rotate)(row[d & 1], (d - (d & 1)) / 2);
}

FC_INLINE void FC_(fc_small_gather_rows)(const int planes, const int rows, const int k, const int stride, const fc_planes *b,
                                         const FC_VECTOR *w, FC_VECTOR bias, ptrdiff_t j) {
    FC_VECTOR sums[FC_TALL];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[r] = bias;
#pragma GCC unroll 24
    for (int i = 0; i < (rows - 1) * stride + k; i++) {
        FC_VECTOR row[2];
        FC_(fc_small_row)(planes, stride, b, b->first + j * stride + i, row);
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
    for (int r = 0; r < rows; r++) {
        const FC_VECTOR x = b->relu ? FC_(fc_relu)(sums[r]) : sums[r];
        FC_(fc_store_some)(to + r * b->to_row, x, b->columns);
        if (planes == 2)
            FC_(fc_store_lanes)(to + b->to_plane + r * b->to_row, x, FC_LANES / 2, b->columns);
    }
}

FC_INLINE void FC_(fc_small_gather_all)(const int planes, const int k, const int stride, const fc_planes *given) {
    const fc_planes b = *given; /* in registers: it is not what the results overwrite */
    const FC_VECTOR *weights = (const FC_VECTOR *)b.weights, bias = *(const FC_VECTOR *)b.bias;
    FC_VECTOR w[9];
    if (k == 3)
#pragma GCC unroll 9
        for (int t = 0; t < 9; t++) w[t] = weights[t];
    for (ptrdiff_t j = 0; j < b.rows;) {
#define FC_CASE(R)                                                                               \
    if (b.rows - j >= R) {                                                                       \
        FC_(fc_small_gather_rows)(planes, R, k, stride, &b, k == 3 ? w : weights, bias, j);      \
        j += R;                                                                                  \
    }
        FC_EACH_SMALL(FC_CASE)
#undef FC_CASE
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

/* -- Products: as in depthwise.h, grad_output too a row to a vector ----------------------------------------- */

FC_INLINE void FC_(fc_small_dot_rows)(const int planes, const int rows, const int many, const int k, const int stride,
                                      const int r0, const fc_planes *b, ptrdiff_t j, FC_INTEGERS mask,
                                      FC_VECTOR *sums, FC_VECTOR *all) {
    const FC_REAL *grad = (const FC_REAL *)b->to + j * b->to_row;
    FC_VECTOR g[7];
#pragma GCC unroll 7
    for (int i = 0; i < rows; i++) {
        g[i] = FC_(fc_small_load)(planes, grad + i * b->to_row, b->to_plane, b->columns);
        *all += g[i];
    }
#pragma GCC unroll 24
    for (int i = 0; i < (rows - 1) * stride + many; i++) {
        FC_VECTOR row[2];
        FC_(fc_small_row)(planes, stride, b, b->first + j * stride + r0 + i, row);
#pragma GCC unroll 7
        for (int s = 0; s < k; s++) {
            const FC_VECTOR v = FC_(fc_keep)(1, mask, FC_(fc_small_tap)(k, stride, s, row));
#pragma GCC unroll 7
            for (int y = 0; y < rows; y++)
                if (i - y * stride >= 0 && i - y * stride < many) sums[s * many + i - y * stride] += g[y] * v;
        }
    }
}

FC_INLINE void FC_(fc_small_dot_some)(const int planes, const int many, const int k, const int stride, const int r0,
                                      const fc_planes *given, FC_VECTOR *into, double *totals) {
    const fc_planes b = *given;
    const FC_INTEGERS lane = {FC_LIST(FC_NUMBER)};
    const FC_INTEGERS mask = (lane & (FC_INT)(FC_LANES / planes - 1)) < (FC_INT)b.columns;
    FC_VECTOR sums[25], all = {0};
#pragma GCC unroll 25
    for (int t = 0; t < many * k; t++) sums[t] = (FC_VECTOR){0};
#pragma GCC unroll 1
    for (ptrdiff_t j = 0; j < b.rows;) {
#define FC_CASE(R)                                                                               \
    if (b.rows - j >= R) {                                                                       \
        FC_(fc_small_dot_rows)(planes, R, many, k, stride, r0, &b, j, mask, sums, &all);         \
        j += R;                                                                                  \
    }
        FC_EACH_SMALL(FC_CASE)
#undef FC_CASE
        if (totals && (j % 32 < 4 || j >= b.rows)) FC_(fc_add_lanes)(totals, all), all = (FC_VECTOR){0};
    }
#pragma GCC unroll 7
    for (int s = 0; s < k; s++)
#pragma GCC unroll 5
        for (int r = 0; r < many; r++) into[s * k + r0 + r] += sums[s * many + r];
}

#define fc_small_dot_one_f32(...) fc_small_dot_some_f32(1, __VA_ARGS__)
#define fc_small_dot_two_f32(...) fc_small_dot_some_f32(2, __VA_ARGS__)
#define fc_small_dot_one_f64(...) fc_small_dot_some_f64(1, __VA_ARGS__)
#define fc_small_dot_two_f64(...) fc_small_dot_some_f64(2, __VA_ARGS__)
static inline void FC_(fc_small_dot_planes)(const fc_planes *b, void *into, double *totals) {
    FC_VECTOR *sums = (FC_VECTOR *)into;
    switch (4 * b->kernel + 2 * b->stride + (b->planes > 1)) {
#define FC_CASES(S)                                                                             \
    case 12 + 2 * S: FC_(fc_small_dot_one)(3, 3, S, 0, b, sums, totals); break;                 \
    case 13 + 2 * S: FC_(fc_small_dot_two)(3, 3, S, 0, b, sums, totals); break;                 \
    case 20 + 2 * S: FC_DOT_FIVE(fc_small_dot_one, S, b, sums, totals) break;                   \
    case 21 + 2 * S: FC_DOT_FIVE(fc_small_dot_two, S, b, sums, totals) break;                   \
    case 28 + 2 * S: FC_DOT_SEVEN(fc_small_dot_one, S, b, sums, totals) break;                  \
    case 29 + 2 * S: FC_DOT_SEVEN(fc_small_dot_two, S, b, sums, totals) break;
        FC_CASES(1) FC_CASES(2)
#undef FC_CASES
    }
}
