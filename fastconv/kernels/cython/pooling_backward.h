/*
 * Gradients of pooling of one FC_REAL. A part of pooling.h, which includes it once for each type; hence no
 * guard.
 *
 * A maximum's are scattered by index. An average's are collected, row by row: every element of grad_input adds up what
 * the windows that cover it hand down, so nothing is cleared first and each row is written once. The rows of what
 * windows hand down, their shares, lie in L1 between zeros.
 */

/*
 * plane[indices[i]] += from[i] for i < n, in order, up to the first index that is not below `end`: then it returns 0.
 *
 * One by one: two to three cycles an output. Rows of vectors that compared the indices of all windows around them took
 * four, and more where rows are shorter than a vector. Unrolled it is a third slower, and so is checking beforehand.
 */
static inline int FC_(fc_scatter)(const FC_REAL *from, const int64_t *indices, ptrdiff_t n, size_t end,
                                  FC_REAL *plane) {
#pragma GCC unroll 1
    for (ptrdiff_t i = 0; i < n; i++) {
        if ((size_t)indices[i] >= end) return 0;
        plane[indices[i]] += from[i];
    }
    return 1;
}

/*
 * The same of four planes abreast, one behind the other, whose indices are below `size`. Where windows overlap, many
 * share a maximum, and each sum waits for the last one: 2.3 times as fast for 13 x 13 windows at a stride of 1, from
 * memory 1.5, and for 9 x 9 1.2; for 5 x 5 1.15 and 0.95, as four planes are as many streams.
 */
static inline int FC_(fc_scatter_abreast)(const FC_REAL *from, const int64_t *indices, ptrdiff_t n, size_t size,
                                          FC_REAL *planes) {
#pragma GCC unroll 1
    for (ptrdiff_t i = 0; i < n; i++) {
        fc_prefetch((const char *)(indices + 4 * n + 4 * i)); /* of the next four planes, as they lie in memory */
        const size_t a = (size_t)indices[i], b = (size_t)indices[i + n];
        const size_t c = (size_t)indices[i + 2 * n], d = (size_t)indices[i + 3 * n];
        if (a >= size || b >= size || c >= size || d >= size) return 0;
        planes[a] += from[i];
        planes[size + b] += from[i + n];
        planes[2 * size + c] += from[i + 2 * n];
        planes[3 * size + d] += from[i + 3 * n];
    }
    return 1;
}

/* `rows` times: to[i] = from[i] / (counts[i] * taller) for i < n, then 0 to whole vectors. */
static inline void FC_(fc_shares)(const FC_REAL *from, const FC_REAL *counts, FC_REAL taller, ptrdiff_t n, FC_REAL *to,
                                  ptrdiff_t rows, ptrdiff_t to_step) {
    for (ptrdiff_t j = 0; j < rows; j++, from += n, to += to_step) {
        ptrdiff_t i = 0;
        for (; i + FC_LANES <= n; i += FC_LANES) {
            FC_FETCH(from + i);
            FC_(fc_store)(to + i, FC_(fc_load)(from + i) / (FC_(fc_load)(counts + i) * taller));
        }
        if (i < n) { /* 0 / 1: counts go on */
            const FC_(fc_vector) x = FC_(fc_load_some)(from + i, n - i) / (FC_(fc_load)(counts + i) * taller);
            FC_(fc_store)(to + i, FC_(fc_choose)(FC_(fc_first)(n - i), x, (FC_(fc_vector)){0}));
        }
    }
}

/* What LANES neighbours of one phase add up. */
FC_INLINE FC_(fc_vector) FC_(fc_collect_phase)(const int step, const int phase, ptrdiff_t kernel,
                                               const FC_REAL *from) {
    FC_(fc_vector) sum = phase < kernel ? FC_(fc_load)(from) : (FC_(fc_vector)){0};
#pragma GCC unroll 3
    for (ptrdiff_t s = phase + step; s < kernel; s += step) sum += FC_(fc_load)(from - s / step);
    return sum;
}

/* For a stride of 2: an odd row begins with the second phase. */
FC_INLINE void FC_(fc_collect_pairs)(const int odd, ptrdiff_t kernel, const FC_REAL *from, FC_REAL *to, ptrdiff_t n) {
    const FC_(fc_integers) lower = {FC_PASTE(FC_LIST_, FC_LANES)(FC_ZIP, 0)};
    const FC_(fc_integers) upper = {FC_PASTE(FC_LIST_, FC_LANES)(FC_ZIP, FC_LANES / 2)};
    for (ptrdiff_t i = 0; i < n; i += 2 * FC_LANES, from += FC_LANES) {
        const FC_(fc_vector) x = FC_(fc_collect_phase)(2, odd, kernel, from);
        const FC_(fc_vector) y = FC_(fc_collect_phase)(2, 1 - odd, kernel, from + odd);
        FC_(fc_store_some)(to + i, FC_SHUFFLE(x, y, lower, FC_ZIP, 0), n - i);
        if (n - i > FC_LANES)
            FC_(fc_store_some)(to + i + FC_LANES, FC_SHUFFLE(x, y, upper, FC_ZIP, FC_LANES / 2), n - i - FC_LANES);
    }
}

FC_INLINE void FC_(fc_collect_row)(ptrdiff_t kernel, ptrdiff_t step, const FC_REAL *from, ptrdiff_t low, FC_REAL *to,
                                   ptrdiff_t n) {
    if (step == 1) {
        for (ptrdiff_t i = 0; i < n; i += FC_LANES)
            FC_(fc_store_some)(to + i, FC_(fc_collect_phase)(1, 0, kernel, from + low + i), n - i);
    } else if (step == 2) {
        if (low & 1) FC_(fc_collect_pairs)(1, kernel, from + low / 2, to, n);
        else FC_(fc_collect_pairs)(0, kernel, from + low / 2, to, n);
    } else {
        ptrdiff_t phase = low % step, place = low / step;
        for (ptrdiff_t i = 0; i < n; i++) {
            FC_REAL sum = 0;
            for (ptrdiff_t s = phase, k = place; s < kernel; s += step, k--) sum += from[k];
            to[i] = sum;
            if (++phase == step) phase = 0, place++;
        }
    }
}

/*
 * For each of `rows`, `copies` times: n elements add up the shares of the windows of `kernel` columns that cover them;
 * windows are `step` apart, and the first begins `low` before the elements. Exactly n results are written at a time, one
 * behind the other: where two rows were written in turn, memory took twice the time. Shares are read from element
 * -(kernel - 1) / step up to whole vectors behind (low + n) / step + 1, and are 0 where there is no window.
 */
static inline void FC_(fc_collect)(ptrdiff_t kernel, ptrdiff_t step, const FC_REAL *from, ptrdiff_t low, FC_REAL *to,
                                   ptrdiff_t n, ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t copies) {
#define FC_ROWS_OF(KERNEL)                                    \
    for (ptrdiff_t j = 0; j < rows; j++, from += from_step)   \
        for (ptrdiff_t copy = 0; copy < copies; copy++, to += n) FC_(fc_collect_row)(KERNEL, step, from, low, to, n)
    switch (kernel) {
    case 2: FC_ROWS_OF(2); break;
    case 3: FC_ROWS_OF(3); break;
    default: FC_ROWS_OF(kernel);
    }
#undef FC_ROWS_OF
}

/* to[j * n + i] = from[j] / divisor for i < n, j < planes: the gradient of whole planes. */
static inline void FC_(fc_fill_planes)(const FC_REAL *from, ptrdiff_t n, ptrdiff_t planes, FC_REAL *to,
                                       double divisor) {
    for (ptrdiff_t j = 0; j < planes; j++, to += n) {
        const FC_(fc_vector) share = (FC_(fc_vector)){0} + from[j] / (FC_REAL)divisor;
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) FC_(fc_store_some)(to + i, share, n - i);
    }
}
