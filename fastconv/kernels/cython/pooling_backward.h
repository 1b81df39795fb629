/*
 * Gradients of pooling, row by row, of one FC_REAL. A part of simd.h, which includes it once for each type; hence no
 * guard.
 *
 * Every element of a row of grad_input collects from the windows that cover it: nothing is cleared first, and each
 * row is written once. The rows of gradients lie in L1 between padding that nothing matches and that adds nothing;
 * those of a maximum have labels beside them, as in pooling.h.
 */

/* The first `count` of a vector of indices, those behind 0; and all of their upper halves added by `or`. */
FC_INLINE FC_(fc_integers) FC_(fc_load_indices)(const int64_t *from, ptrdiff_t count, FC_(fc_integers) *upper) {
#if FC_BYTES == 4 * FC_LANES
    const FC_(fc_integers) even = {FC_PASTE(FC_LIST_, FC_LANES)(FC_TWICE, 0)};
    const FC_(fc_integers) odd = {FC_PASTE(FC_LIST_, FC_LANES)(FC_TWICE_1, 0)};
    FC_(fc_integers) parts[2] = {{0}};
#if FC_BYTES == 64
    parts[0] = (FC_(fc_integers))_mm512_maskz_loadu_epi64((__mmask8)(count >= 8 ? 0xff : (1u << count) - 1), from);
    if (count > 8)
        parts[1] =
            (FC_(fc_integers))_mm512_maskz_loadu_epi64((__mmask8)(count >= 16 ? 0xff : (1u << (count - 8)) - 1), from + 8);
#else
    if (count >= FC_LANES) {
        parts[0] = FC_(fc_load_integers)((const FC_INT *)from);
        parts[1] = FC_(fc_load_integers)((const FC_INT *)from + FC_LANES);
    } else {
        for (int i = 0; i < count; i++) memcpy((char *)parts + 8 * i, from + i, 8);
    }
#endif
    *upper |= FC_SHUFFLE(parts[0], parts[1], odd, FC_TWICE_1, 0);
    return FC_SHUFFLE(parts[0], parts[1], even, FC_TWICE, 0);
#else
    (void)upper;
    return (FC_(fc_integers))FC_(fc_load_some)((const FC_REAL *)from, count);
#endif
}

FC_INLINE int FC_(fc_labels_of)(const int constant, ptrdiff_t many, ptrdiff_t columns, const int64_t *indices,
                                ptrdiff_t n, FC_INT base, FC_INT step, FC_INT width, FC_INT left, FC_INT *to,
                                ptrdiff_t rows, ptrdiff_t to_step, FC_INT base_step) {
    const ptrdiff_t kernel = constant ? constant : many;
    const FC_(fc_integers) lane = {FC_PASTE(FC_LIST_, FC_LANES)(FC_LANE, 0)}, none = {0};
    FC_(fc_integers) upper = {0};
    FC_(fc_mask) strange = FC_(fc_is_nan)((FC_(fc_vector)){0});
    for (ptrdiff_t j = 0; j < rows; j++, indices += n, to += to_step, base += base_step)
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
            const FC_(fc_mask) real = FC_(fc_first)(n - i);
            const FC_(fc_integers) begin = (lane + (FC_INT)i) * step;
            const FC_(fc_integers) label = FC_(fc_load_indices)(indices + i, n - i, &upper) - (begin + base);
            FC_(fc_integers) column = label;
            __builtin_prefetch(indices + i + FC_(fc_ahead));
            __builtin_prefetch(indices + i + FC_(fc_ahead) + FC_BYTES / 8);
#pragma GCC unroll 3
            for (ptrdiff_t r = 1; r < kernel; r++)
                column = FC_(fc_choose_integers)(FC_(fc_below)(column, none + width), column, column - width);
            strange |= real & ~(FC_(fc_below)(column, none + (FC_INT)columns)
                                & FC_(fc_below)(column + begin + left, none + width));
            FC_(fc_store_integers)(to + i, FC_(fc_choose_integers)(real, label, none - 1));
        }
    strange |= ~FC_(fc_same)(upper, none);
    return FC_(fc_any)(strange);
}

/*
 * `rows` times: the labels of n maxima of windows of kernel x columns, from their flat indices in rows of `width`. The
 * window of output i begins at index base + i * step, in column i * step + left. Labels behind the n-th are -1, to
 * whole vectors. Returns whether any index is not one of its window: then labels say nothing.
 */
static inline int FC_(fc_labels)(ptrdiff_t kernel, ptrdiff_t columns, const int64_t *indices, ptrdiff_t n, FC_INT base,
                                 FC_INT step, FC_INT width, FC_INT left, FC_INT *to, ptrdiff_t rows,
                                 ptrdiff_t to_step, FC_INT base_step) {
#define FC_CASE(R) \
    FC_(fc_labels_of)(R, kernel, columns, indices, n, base, step, width, left, to, rows, to_step, base_step)
    return kernel == 2 ? FC_CASE(2) : kernel == 3 ? FC_CASE(3) : FC_CASE(0);
#undef FC_CASE
}

/* `rows` times: to[i] = from[i] / (counts[i] * taller) for i < n, then 0 to whole vectors; counts NULL: from[i]. */
static inline void FC_(fc_shares)(const FC_REAL *from, const FC_REAL *counts, FC_REAL taller, ptrdiff_t n, FC_REAL *to,
                                  ptrdiff_t rows, ptrdiff_t to_step) {
    const FC_(fc_vector) zero = {0};
    for (ptrdiff_t j = 0; j < rows; j++, from += n, to += to_step)
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
            FC_(fc_vector) x = FC_(fc_load_some)(from + i, n - i);
            __builtin_prefetch(from + i + FC_(fc_ahead));
            if (counts) x = FC_(fc_choose)(FC_(fc_first)(n - i), x / (FC_(fc_load)(counts + i) * taller), zero);
            FC_(fc_store)(to + i, x);
        }
}

/* What LANES neighbours of one phase collect: element `place` of the rows is the window that begins there. */
FC_INLINE FC_(fc_vector) FC_(fc_collect_phase)(const int maximum, const int step, const int phase, ptrdiff_t kernel,
                                               const struct fc_cover *covers, ptrdiff_t count, ptrdiff_t place) {
    FC_(fc_vector) sum = {0};
#pragma GCC unroll 3
    for (ptrdiff_t k = 0; k < count; k++) {
        const FC_REAL *grads = (const FC_REAL *)covers[k].grads + place;
        const FC_INT *labels = (const FC_INT *)covers[k].labels + place;
#pragma GCC unroll 3
        for (ptrdiff_t s = phase; s < kernel; s += step) {
            const FC_(fc_vector) more = sum + FC_(fc_load)(grads - s / step);
            if (maximum) {
                const FC_(fc_integers) wanted = (FC_(fc_integers)){0} + (FC_INT)(covers[k].label + s);
                sum = FC_(fc_choose)(FC_(fc_same)(FC_(fc_load_integers)(labels - s / step), wanted), more, sum);
            } else {
                sum = more;
            }
        }
    }
    return sum;
}

/* For a stride of 2: an odd row begins with the second phase. */
FC_INLINE void FC_(fc_collect_pairs)(const int maximum, const int odd, ptrdiff_t kernel,
                                     const struct fc_cover *covers, ptrdiff_t count, ptrdiff_t place, FC_REAL *to,
                                     ptrdiff_t n) {
    const FC_(fc_integers) lower = {FC_PASTE(FC_LIST_, FC_LANES)(FC_ZIP, 0)};
    const FC_(fc_integers) upper = {FC_PASTE(FC_LIST_, FC_LANES)(FC_ZIP, FC_LANES / 2)};
    for (ptrdiff_t i = 0; i < n; i += 2 * FC_LANES, place += FC_LANES) {
        const FC_(fc_vector) x = FC_(fc_collect_phase)(maximum, 2, odd, kernel, covers, count, place);
        const FC_(fc_vector) y = FC_(fc_collect_phase)(maximum, 2, 1 - odd, kernel, covers, count, place + odd);
        FC_(fc_store_some)(to + i, FC_SHUFFLE(x, y, lower, FC_ZIP, 0), n - i);
        if (n - i > FC_LANES)
            FC_(fc_store_some)(to + i + FC_LANES, FC_SHUFFLE(x, y, upper, FC_ZIP, FC_LANES / 2), n - i - FC_LANES);
    }
}

FC_INLINE void FC_(fc_collect_of)(const int maximum, const int constant, ptrdiff_t many, ptrdiff_t step,
                                  struct fc_cover *covers, ptrdiff_t count, ptrdiff_t low, FC_REAL *to, ptrdiff_t n,
                                  ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step) {
    const ptrdiff_t kernel = constant ? constant : many;
    for (ptrdiff_t j = 0; j < rows; j++, to += to_step) {
        if (step == 1) {
            for (ptrdiff_t i = 0; i < n; i += FC_LANES)
                FC_(fc_store_some)(to + i, FC_(fc_collect_phase)(maximum, 1, 0, kernel, covers, count, low + i), n - i);
        } else if (step == 2) {
            if (low & 1) FC_(fc_collect_pairs)(maximum, 1, kernel, covers, count, low / 2, to, n);
            else FC_(fc_collect_pairs)(maximum, 0, kernel, covers, count, low / 2, to, n);
        } else {
            for (ptrdiff_t i = 0; i < n; i++) {
                FC_REAL sum = 0;
                for (ptrdiff_t k = 0; k < count; k++) {
                    const FC_REAL *grads = (const FC_REAL *)covers[k].grads;
                    const FC_INT *labels = (const FC_INT *)covers[k].labels;
                    for (ptrdiff_t s = (low + i) % step, place = (low + i) / step; s < kernel; s += step, place--)
                        if (!maximum || labels[place] == covers[k].label + s) sum += grads[place];
                }
                to[i] = sum;
            }
        }
        for (ptrdiff_t k = 0; k < count; k++) {
            covers[k].grads = (const FC_REAL *)covers[k].grads + from_step;
            if (maximum) covers[k].labels = (const FC_INT *)covers[k].labels + from_step;
        }
    }
}

/*
 * `rows` times: a row of n elements collects from `count` rows of windows of `kernel` columns, `step` apart, the first
 * of which begins `low` before the row; then all of `covers` move on by from_step. Exactly n results are written; the
 * rows are read from element -(kernel - 1) / step up to whole vectors behind (low + n) / step + 1.
 */
static inline void FC_(fc_collect)(int maximum, ptrdiff_t kernel, ptrdiff_t step, struct fc_cover *covers,
                                   ptrdiff_t count, ptrdiff_t low, FC_REAL *to, ptrdiff_t n, ptrdiff_t rows,
                                   ptrdiff_t from_step, ptrdiff_t to_step) {
#define FC_CASE(M, S, COUNT) \
    FC_(fc_collect_of)(M, S, kernel, step, covers, COUNT, low, to, n, rows, from_step, to_step)
    if (maximum)
        switch (kernel) {
        case 2:
            if (count == 1) FC_CASE(1, 2, 1);
            else FC_CASE(1, 2, count);
            break;
        case 3:
            if (count == 1) FC_CASE(1, 3, 1);
            else if (count == 2) FC_CASE(1, 3, 2);
            else if (count == 3) FC_CASE(1, 3, 3);
            else FC_CASE(1, 3, count);
            break;
        default: FC_CASE(1, 0, count);
        }
    else
        switch (kernel) {
        case 2: FC_CASE(0, 2, count); break;
        case 3: FC_CASE(0, 3, count); break;
        default: FC_CASE(0, 0, count);
        }
#undef FC_CASE
}

/* to[j * n + i] = from[j] / divisor for i < n, j < planes: the gradient of whole planes. */
static inline void FC_(fc_fill_planes)(const FC_REAL *from, ptrdiff_t n, ptrdiff_t planes, FC_REAL *to,
                                       double divisor) {
    for (ptrdiff_t j = 0; j < planes; j++, to += n) {
        const FC_(fc_vector) share = (FC_(fc_vector)){0} + from[j] / (FC_REAL)divisor;
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) FC_(fc_store_some)(to + i, share, n - i);
    }
}
