/*
 * Pooling of channels-last images of one FC_REAL, forward and backward: a window at a time, vectors along its channels.
 * A part of pooling.h, which includes it once for each type; hence no guard.
 *
 * Of a window there are `rows` x `columns` pixels, row_step and column_step elements apart; those that are inside, and
 * `from` or `to` is the first of these, n channels. The index of pixel (r, s) in its plane is
 * first + r * index_row + s * index_column.
 */

/* The largest of `count` channels, or of LANES of them, and where it is: *index, which is given for what has none. */
FC_INLINE FC_(fc_vector) FC_(fc_window_max)(const int some, const int where, const FC_REAL *from, ptrdiff_t rows,
                                            ptrdiff_t columns, ptrdiff_t row_step, ptrdiff_t column_step,
                                            ptrdiff_t count, FC_INT first, FC_INT index_row, FC_INT index_column,
                                            FC_(fc_integers) *index) {
    FC_(fc_vector) best = (FC_(fc_vector)){0} - (FC_REAL)__builtin_inff();
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t s = 0; s < columns; s++) {
            const FC_REAL *at = from + r * row_step + s * column_step;
            const FC_(fc_vector) x = some ? FC_(fc_load_some)(at, count) : FC_(fc_load)(at);
            if (where) {
                const FC_(fc_mask) better = FC_(fc_better)(1, x, best);
                const FC_INT here = first + (FC_INT)r * index_row + (FC_INT)s * index_column;
                best = FC_(fc_choose)(better, x, best);
                *index = FC_(fc_choose_integers)(better, (FC_(fc_integers)){0} + here, *index);
            } else {
                best = FC_(fc_larger)(best, x);
            }
        }
    return best;
}

FC_INLINE FC_(fc_vector) FC_(fc_window_sum)(const int some, const FC_REAL *from, ptrdiff_t rows, ptrdiff_t columns,
                                            ptrdiff_t row_step, ptrdiff_t column_step, ptrdiff_t count) {
    FC_(fc_vector) sum = {0};
    for (ptrdiff_t r = 0; r < rows; r++) { /* a sum for each row: one long chain would err 16 times as much */
        FC_(fc_vector) row = {0};
        for (ptrdiff_t s = 0; s < columns; s++) {
            const FC_REAL *at = from + r * row_step + s * column_step;
            row += some ? FC_(fc_load_some)(at, count) : FC_(fc_load)(at);
        }
        sum += row;
    }
    return sum;
}

/* What n channels of a window come to: maxima, or sums / divisor. */
static inline void FC_(fc_pool_channels)(int maximum, const FC_REAL *from, ptrdiff_t rows, ptrdiff_t columns,
                                         ptrdiff_t row_step, ptrdiff_t column_step, ptrdiff_t n, FC_REAL divisor,
                                         FC_REAL *to) {
    FC_(fc_integers) nowhere = {0};
    for (ptrdiff_t c = 0; c < n; c += FC_LANES) {
        FC_(fc_vector) x;
#define FC_OF(SOME)                                                                                                \
    (maximum ? FC_(fc_window_max)(SOME, 0, from + c, rows, columns, row_step, column_step, n - c, 0, 0, 0, &nowhere) \
             : FC_(fc_window_sum)(SOME, from + c, rows, columns, row_step, column_step, n - c) / divisor)
        if (c + FC_LANES <= n) x = FC_OF(0);
        else x = FC_OF(1);
#undef FC_OF
        FC_(fc_store_some)(to + c, x, n - c);
    }
}

/* Maxima and where they are; `start` is the index of a window without one. */
static inline void FC_(fc_label_channels)(const FC_REAL *from, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                                          ptrdiff_t column_step, ptrdiff_t n, FC_INT start, FC_INT first,
                                          FC_INT index_row, FC_INT index_column, FC_REAL *to, int64_t *indices) {
    for (ptrdiff_t c = 0; c < n; c += FC_LANES) {
        FC_(fc_integers) index = (FC_(fc_integers)){0} + start;
        const FC_(fc_vector) best = FC_(fc_window_max)(1, 1, from + c, rows, columns, row_step, column_step, n - c,
                                                       first, index_row, index_column, &index);
        FC_(fc_store_some)(to + c, best, n - c);
        FC_(fc_store_indices)(indices + c, index, n - c);
    }
}

/* Indices as integers of the element's size; those that do not fit become ones that are none of a plane. */
FC_INLINE FC_(fc_integers) FC_(fc_load_indices)(const int64_t *from, ptrdiff_t count) {
#if FC_BYTES == 64 && FC_LANES == 16
    const unsigned lanes = count >= 16 ? 0xffff : (1u << count) - 1;
    const __m256i first = _mm512_cvtsepi64_epi32(_mm512_maskz_loadu_epi64((__mmask8)lanes, from));
    const __m256i second = _mm512_cvtsepi64_epi32(_mm512_maskz_loadu_epi64((__mmask8)(lanes >> 8), from + 8));
    return (FC_(fc_integers))_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
#elif FC_BYTES == 8 * FC_LANES
    return (FC_(fc_integers))FC_(fc_load_some)((const FC_REAL *)from, count);
#else
    FC_(fc_integers) x = {0};
    for (ptrdiff_t lane = 0; lane < FC_LANES && lane < count; lane++)
        x[lane] = from[lane] == (FC_INT)from[lane] ? (FC_INT)from[lane] : -1;
    return x;
#endif
}

/*
 * Adds n gradients to the pixels of their window whose index they have: a comparison and a masked addition for each. An
 * index that is none of these is looked for in the whole plane, of `size` pixels, pixel_step apart; returns 0 if it is not
 * there. Without `indices` they are found again in `values`, as fc_label_channels does.
 */
static inline int FC_(fc_scatter_channels)(const FC_REAL *grad, const int64_t *indices, const FC_REAL *values,
                                           ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                                           ptrdiff_t column_step, ptrdiff_t n, FC_INT start, FC_INT first,
                                           FC_INT index_row, FC_INT index_column, FC_REAL *to, FC_REAL *plane,
                                           ptrdiff_t pixel_step, ptrdiff_t size) {
    int inside = 1;
    for (ptrdiff_t c = 0; c < n; c += FC_LANES) {
        const FC_(fc_vector) g = FC_(fc_load_some)(grad + c, n - c);
        FC_(fc_mask) left = FC_(fc_first)(n - c);
        FC_(fc_integers) index = (FC_(fc_integers)){0} + start;
        if (indices) index = FC_(fc_load_indices)(indices + c, n - c);
        else
            (void)FC_(fc_window_max)(1, 1, values + c, rows, columns, row_step, column_step, n - c, first, index_row,
                                     index_column, &index);
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t s = 0; s < columns; s++) {
                FC_REAL *at = to + c + r * row_step + s * column_step;
                const FC_INT wanted = first + (FC_INT)r * index_row + (FC_INT)s * index_column;
                const FC_(fc_mask) here = FC_(fc_same)(index, (FC_(fc_integers)){0} + wanted) & left;
                left &= ~here;
                FC_(fc_store_some)(at, FC_(fc_add_where)(here, FC_(fc_load_some)(at, n - c), g), n - c);
            }
        if (!FC_(fc_any)(left)) continue;
        for (ptrdiff_t lane = 0; lane < FC_LANES && c + lane < n; lane++) {
            if (!FC_(fc_lane)(left, lane)) continue;
            if (index[lane] >= 0 && index[lane] < size) plane[index[lane] * pixel_step + c + lane] += g[lane];
            else inside = 0;
        }
    }
    return inside;
}

/* Adds the gradients of averages, / divisor, to all pixels of their window. */
static inline void FC_(fc_spread_channels)(const FC_REAL *grad, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                                           ptrdiff_t column_step, ptrdiff_t n, FC_REAL divisor, FC_REAL *to) {
    for (ptrdiff_t c = 0; c < n; c += FC_LANES) {
        const FC_(fc_vector) share = FC_(fc_load_some)(grad + c, n - c) / divisor;
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t s = 0; s < columns; s++) {
                FC_REAL *at = to + c + r * row_step + s * column_step;
                FC_(fc_store_some)(at, FC_(fc_load_some)(at, n - c) + share, n - c);
            }
    }
}
