/*
 * Depthwise 3 x 3 on rows of more than a vector, where they lie: no buffer, as copying is a third of the time of so
 * few products. The padding is one column and row before the data; rows outside are zeros, columns outside are
 * shifted in at the two ends of a row. A part of depthwise.h, which includes it once for each type; hence no guard.
 */

/* Where a vector lies in its row. */
#ifndef FC_LEFT
#define FC_LEFT 1
#define FC_RIGHT 2
#endif

/* What the three columns of the kernel see of a row: `row` is the place of the first pixel's middle tap. */
FC_INLINE void FC_(fc_wide_taps)(const int stride, const int edge, const FC_REAL *row, FC_VECTOR *v) {
    const FC_VECTOR zero = {0};
    if (stride == 1) {
        v[1] = FC_(fc_load)(row);
        v[0] = edge & FC_LEFT ? FC_MIX(zero, v[1], FC_BACK_1) : FC_(fc_load)(row - 1);
        v[2] = edge & FC_RIGHT ? FC_MIX(v[1], zero, FC_ON_1) : FC_(fc_load)(row + 1);
    } else {
        const FC_VECTOR x = FC_(fc_load)(row), y = FC_(fc_load)(row + FC_LANES);
        const FC_VECTOR before = edge & FC_LEFT ? zero : FC_(fc_load)(row - FC_LANES);
        v[1] = FC_MIX(x, y, FC_EVENS);
        v[2] = FC_MIX(x, y, FC_ODDS);
        v[0] = FC_MIX(before, v[2], FC_BACK_1);
    }
    FC_HOLD(v[0]);
    FC_HOLD(v[1]);
    FC_HOLD(v[2]);
}

/* The same of row h of the source, which may not exist. */
FC_INLINE void FC_(fc_wide_row)(const int stride, const int edge, const fc_planes *b, ptrdiff_t h, ptrdiff_t i,
                                FC_VECTOR *v) {
    if (h < 0 || h >= b->from_rows)
        v[0] = v[1] = v[2] = (FC_VECTOR){0};
    else
        FC_(fc_wide_taps)(stride, edge, (const FC_REAL *)b->from + h * b->from_row + i * stride, v);
}

FC_INLINE void FC_(fc_wide_tile)(const int rows, const int stride, const int edge, const fc_planes *b,
                                 const FC_VECTOR *w, FC_VECTOR bias, ptrdiff_t j, ptrdiff_t i) {
    FC_VECTOR sums[FC_TALL];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[r] = bias;
#pragma GCC unroll 24
    for (int y = 0; y < (rows - 1) * stride + 3; y++) {
        FC_VECTOR v[3];
        FC_(fc_wide_row)(stride, edge, b, b->first + j * stride + y, i, v);
#pragma GCC unroll 3
        for (int s = 0; s < 3; s++)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                if (y - r * stride >= 0 && y - r * stride < 3) sums[r] += w[s * 3 + y - r * stride] * v[s];
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        FC_(fc_store)((FC_REAL *)b->to + (j + r) * b->to_row + i, b->relu ? FC_(fc_relu)(sums[r]) : sums[r]);
}

FC_INLINE void FC_(fc_wide_rows)(const int rows, const int stride, const fc_planes *b, const FC_VECTOR *w,
                                 FC_VECTOR bias, ptrdiff_t j) {
    ptrdiff_t i = FC_LANES;
    FC_(fc_wide_tile)(rows, stride, FC_LEFT, b, w, bias, j, 0);
#pragma GCC unroll 1
    for (; i + FC_LANES < b->columns; i += FC_LANES) FC_(fc_wide_tile)(rows, stride, 0, b, w, bias, j, i);
    FC_(fc_wide_tile)(rows, stride, FC_RIGHT, b, w, bias, j, b->columns - FC_LANES);
}

FC_INLINE void FC_(fc_wide_all)(const int stride, const fc_planes *given) {
    const fc_planes b = *given;
    const FC_VECTOR bias = *(const FC_VECTOR *)b.bias;
    FC_VECTOR w[9];
    FC_(fc_three)(1, &b, w);
    for (ptrdiff_t j = 0; j < b.rows;) {
        if (FC_TALL == 8 && b.rows - j >= 8)
            FC_(fc_wide_rows)(8, stride, &b, w, bias, j), j += 8;
        else if (b.rows - j >= 4)
            FC_(fc_wide_rows)(4, stride, &b, w, bias, j), j += 4;
        else
            FC_(fc_wide_rows)(1, stride, &b, w, bias, j), j += 1;
    }
}

static inline void FC_(fc_wide_gather)(const fc_planes *b) {
    if (b->stride == 1)
        FC_(fc_wide_all)(1, b);
    else
        FC_(fc_wide_all)(2, b);
}

/* -- Products ----------------------------------------------------------------------------------------------- */

FC_INLINE void FC_(fc_wide_dot_rows)(const int rows, const int stride, const int edge, const fc_planes *b, ptrdiff_t j,
                                     ptrdiff_t i, FC_INTEGERS mask, FC_VECTOR *sums, FC_VECTOR *all) {
    const FC_REAL *grad = (const FC_REAL *)b->to + j * b->to_row + i;
    FC_VECTOR g[4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        g[r] = FC_(fc_keep)(edge & FC_RIGHT, mask, FC_(fc_load)(grad + r * b->to_row));
        FC_HOLD(g[r]);
        *all += g[r];
    }
#pragma GCC unroll 12
    for (int y = 0; y < (rows - 1) * stride + 3; y++) {
        FC_VECTOR v[3];
        FC_(fc_wide_row)(stride, edge, b, b->first + j * stride + y, i, v);
#pragma GCC unroll 3
        for (int s = 0; s < 3; s++) {
            v[s] = FC_(fc_keep)(edge & FC_RIGHT, mask, v[s]);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                if (y - r * stride >= 0 && y - r * stride < 3) sums[(y - r * stride) * 3 + s] += g[r] * v[s];
        }
    }
}

FC_INLINE void FC_(fc_wide_dot_columns)(const int stride, const int edge, const fc_planes *b, ptrdiff_t i,
                                        FC_INTEGERS mask, FC_VECTOR *sums, double *totals) {
    FC_VECTOR all = {0};
    ptrdiff_t j = 0;
#pragma GCC unroll 1
    for (; j + 4 <= b->rows; j += 4) {
        FC_(fc_wide_dot_rows)(4, stride, edge, b, j, i, mask, sums, &all);
        if (totals && j % 32 == 28) FC_(fc_add_lanes)(totals, all), all = (FC_VECTOR){0};
    }
#pragma GCC unroll 1
    for (; j < b->rows; j++) FC_(fc_wide_dot_rows)(1, stride, edge, b, j, i, mask, sums, &all);
    if (totals) FC_(fc_add_lanes)(totals, all);
}

FC_INLINE void FC_(fc_wide_dot_all)(const int stride, const fc_planes *given, FC_VECTOR *into, double *totals) {
    const fc_planes b = *given;
    const FC_INTEGERS lane = {FC_LIST(FC_NUMBER)};
    FC_VECTOR sums[9];
    ptrdiff_t i = FC_LANES;
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++) sums[t] = into[t];
    FC_(fc_wide_dot_columns)(stride, FC_LEFT, &b, 0, lane, sums, totals);
#pragma GCC unroll 1
    for (; i + FC_LANES < b.columns; i += FC_LANES) FC_(fc_wide_dot_columns)(stride, 0, &b, i, lane, sums, totals);
    /* The last vector ends with the row, and counts what is left. */
    FC_(fc_wide_dot_columns)(stride, FC_RIGHT, &b, b.columns - FC_LANES,
                             lane >= (FC_INT)(i + FC_LANES - b.columns), sums, totals);
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++) into[t] = sums[t];
}

static inline void FC_(fc_wide_dot_planes)(const fc_planes *b, void *into, double *totals) {
    if (b->stride == 1)
        FC_(fc_wide_dot_all)(1, b, (FC_VECTOR *)into, totals);
    else
        FC_(fc_wide_dot_all)(2, b, (FC_VECTOR *)into, totals);
}
