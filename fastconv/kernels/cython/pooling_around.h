/*
 * The 3 x 3 elements around every element of a plane of one FC_REAL: their maxima, and their averages. Where all averages
 * divide alike their gradients are averages too, of gradients. A part of pooling.h, which includes it once for each type;
 * hence no guard.
 *
 * Straight from the plane, down its columns, what a row comes to in registers: it is used three times. Twice as fast as
 * down and across, over padded rows (planes of 28 x 28: 32 instead of 56 us for 0.6 MB).
 */

/* Lanes one before those of y, after x; and one behind those of x, before y. */
#define FC_BEFORE(L, D) (FC_LANES - 1 + (L))
#define FC_BEHIND(L, D) (1 + (L))

/* Three neighbours merged, in a row of n: of LANES columns from `i` on, of which the first or last may be the row's. */
FC_INLINE FC_(fc_vector) FC_(fc_three)(const int maximum, const int some, const int leftmost, const int rightmost,
                                       const FC_REAL *row, ptrdiff_t i, ptrdiff_t n, FC_(fc_vector) none) {
    const FC_(fc_integers) before = {FC_PASTE(FC_LIST_, FC_LANES)(FC_BEFORE, 0)};
    const FC_(fc_integers) behind = {FC_PASTE(FC_LIST_, FC_LANES)(FC_BEHIND, 0)};
    FC_(fc_vector) x = some ? FC_(fc_load_some)(row, n) : FC_(fc_load)(row + i);
    if (some && maximum) x = FC_(fc_choose)(FC_(fc_first)(n), x, none);
    const FC_(fc_vector) left = leftmost ? FC_SHUFFLE(none, x, before, FC_BEFORE, 0) : FC_(fc_load)(row + i - 1);
    const FC_(fc_vector) right = rightmost ? FC_SHUFFLE(x, none, behind, FC_BEHIND, 0) : FC_(fc_load)(row + i + 1);
    return FC_(fc_merge)(maximum, FC_(fc_merge)(maximum, left, x), right);
}

/* x / divisor to the last bit. A division takes as long as ten other operations: with fused ones the product with the
   inverse is taken, and what it leaves over divided once more. Of an infinity nothing is left. */
FC_INLINE FC_(fc_vector) FC_(fc_quotient)(FC_(fc_vector) x, FC_(fc_vector) divisor, FC_(fc_vector) inverse) {
#if defined(__FMA__)
    const FC_(fc_vector) quotient = x * inverse, rest = x - quotient * divisor;
    return quotient + FC_(fc_choose)(FC_(fc_is_nan)(rest), (FC_(fc_vector)){0}, rest) * inverse;
#else
    (void)inverse;
    return x / divisor;
#endif
}

/* Columns [i, i + LANES) of rows [first, last) of `size`. */
FC_INLINE void FC_(fc_around_columns)(const int maximum, const int some, const int leftmost, const int rightmost,
                                      const FC_REAL *from, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first, ptrdiff_t last,
                                      ptrdiff_t i, FC_(fc_vector) divisor, FC_REAL *to) {
#define FC_ROW(ROW) FC_(fc_three)(maximum, some, leftmost, rightmost, from + (ROW) * n, i, n, none)
    const FC_(fc_vector) none = (FC_(fc_vector)){0} - (maximum ? (FC_REAL)__builtin_inff() : 0);
    const FC_(fc_vector) inverse = 1 / divisor;
    FC_(fc_vector) above = none, here = FC_ROW(first);
    if (first > 0) above = FC_ROW(first - 1);
    for (ptrdiff_t p = first; p < last; p++) {
        FC_(fc_vector) below = none;
        if (p + 1 < size) below = FC_ROW(p + 1);
        FC_(fc_vector) x = FC_(fc_merge)(maximum, FC_(fc_merge)(maximum, above, here), below);
        if (!maximum) x = FC_(fc_quotient)(x, divisor, inverse);
        if (some) FC_(fc_store_some)(to + p * n, x, n);
        else FC_(fc_store)(to + p * n + i, x);
        above = here;
        here = below;
    }
#undef FC_ROW
}

FC_INLINE void FC_(fc_around_of)(const int maximum, const FC_REAL *from, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                                 ptrdiff_t last, const FC_REAL *counts, FC_REAL taller, FC_REAL *to) {
#define FC_COLUMNS(SOME, LEFTMOST, RIGHTMOST, I)                                                      \
    FC_(fc_around_columns)(maximum, SOME, LEFTMOST, RIGHTMOST, from, size, n, first, last, I,         \
                           maximum ? (FC_(fc_vector)){0} : FC_(fc_load)(counts + (I)) * taller, to)
    if (n < FC_LANES) {
        FC_COLUMNS(1, 1, 1, 0);
    } else if (n == FC_LANES) {
        FC_COLUMNS(0, 1, 1, 0);
    } else {
        FC_COLUMNS(0, 1, 0, 0);
        for (ptrdiff_t i = FC_LANES; i + FC_LANES < n; i += FC_LANES) FC_COLUMNS(0, 0, 0, i);
        FC_COLUMNS(0, 0, 1, n - FC_LANES); /* some of these once more */
    }
#undef FC_COLUMNS
}

/*
 * Rows [first, last) of maxima of the elements around, or of their averages, of a plane of `size` rows of n. What lies
 * outside counts as nothing, or 0; a sum is divided by counts[i] * taller.
 */
static inline void FC_(fc_around)(int maximum, const FC_REAL *from, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                                  ptrdiff_t last, const FC_REAL *counts, FC_REAL taller, FC_REAL *to) {
    /* From memory: 103 MB of 112 x 112 planes in 2.9 ms instead of 3.8, in cache nothing is lost. */
    fc_touch((const char *)(from + first * n), ((last < size ? last + 1 : size) - first) * n * (ptrdiff_t)sizeof(FC_REAL));
    if (maximum) FC_(fc_around_of)(1, from, size, n, first, last, counts, taller, to);
    else FC_(fc_around_of)(0, from, size, n, first, last, counts, taller, to);
}

/* Maxima, and their indices less the lane. */
typedef struct {
    FC_(fc_vector) best;
    FC_(fc_integers) index;
} FC_(fc_found);

/* y, which comes later, only where it is better. */
FC_INLINE FC_(fc_found) FC_(fc_better_of)(const int careful, FC_(fc_found) x, FC_(fc_found) y) {
    const FC_(fc_mask) better = FC_(fc_better)(careful, y.best, x.best);
    return (FC_(fc_found)){FC_(fc_choose)(better, y.best, x.best),
                           FC_(fc_choose_integers)(better, y.index, x.index)};
}

FC_INLINE FC_(fc_found) FC_(fc_three_found)(const int careful, const int some, const int leftmost, const int rightmost,
                                            const FC_REAL *row, ptrdiff_t i, ptrdiff_t n, FC_INT index,
                                            FC_(fc_mask) *nan) {
    const FC_(fc_integers) before = {FC_PASTE(FC_LIST_, FC_LANES)(FC_BEFORE, 0)};
    const FC_(fc_integers) behind = {FC_PASTE(FC_LIST_, FC_LANES)(FC_BEHIND, 0)};
    const FC_(fc_vector) none = (FC_(fc_vector)){0} - (FC_REAL)__builtin_inff();
    const FC_(fc_integers) zero = {0};
    FC_(fc_vector) x = some ? FC_(fc_load_some)(row, n) : FC_(fc_load)(row + i);
    if (some) x = FC_(fc_choose)(FC_(fc_first)(n), x, none);
    if (!careful) *nan |= FC_(fc_is_nan)(x);
    const FC_(fc_found) left = {leftmost ? FC_SHUFFLE(none, x, before, FC_BEFORE, 0) : FC_(fc_load)(row + i - 1),
                                zero + (index - 1)};
    const FC_(fc_found) here = {x, zero + index};
    const FC_(fc_found) right = {rightmost ? FC_SHUFFLE(x, none, behind, FC_BEHIND, 0) : FC_(fc_load)(row + i + 1),
                                 zero + (index + 1)};
    return FC_(fc_better_of)(careful, FC_(fc_better_of)(careful, left, here), right);
}

FC_INLINE void FC_(fc_around_found_columns)(const int careful, const int some, const int leftmost, const int rightmost,
                                            const FC_REAL *from, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                                            ptrdiff_t last, ptrdiff_t i, FC_REAL *to, int64_t *indices,
                                            FC_(fc_mask) *nan, FC_(fc_mask) *empty) {
#define FC_ROW(ROW) \
    FC_(fc_three_found)(careful, some, leftmost, rightmost, from + (ROW) * n, i, n, (FC_INT)((ROW) * n + i), nan)
    const FC_(fc_integers) lane = {FC_PASTE(FC_LIST_, FC_LANES)(FC_LANE, 0)};
    const FC_(fc_vector) none = (FC_(fc_vector)){0} - (FC_REAL)__builtin_inff();
    const FC_(fc_found) nothing = {none, {0}};
    const ptrdiff_t count = some ? n : FC_LANES;
    FC_(fc_found) above = nothing, here = FC_ROW(first);
    if (first > 0) above = FC_ROW(first - 1);
    for (ptrdiff_t p = first; p < last; p++) {
        FC_(fc_found) below = nothing;
        if (p + 1 < size) below = FC_ROW(p + 1);
        const FC_(fc_found) found = FC_(fc_better_of)(careful, FC_(fc_better_of)(careful, above, here), below);
        *empty |= FC_(fc_equal)(found.best, none) & FC_(fc_first)(count);
        FC_(fc_store_some)(to + p * n + i, found.best, count);
        FC_(fc_store_indices)(indices + p * n + i, found.index + lane, count);
        above = here;
        here = below;
    }
#undef FC_ROW
}

FC_INLINE int FC_(fc_around_found_of)(const int careful, const FC_REAL *from, ptrdiff_t size, ptrdiff_t n,
                                      ptrdiff_t first, ptrdiff_t last, FC_REAL *to, int64_t *indices,
                                      FC_(fc_mask) *nan) {
#define FC_COLUMNS(SOME, LEFTMOST, RIGHTMOST, I)                                                                       \
    FC_(fc_around_found_columns)(careful, SOME, LEFTMOST, RIGHTMOST, from, size, n, first, last, I, to, indices, nan, \
                                 &empty)
    FC_(fc_mask) empty = FC_(fc_is_nan)((FC_(fc_vector)){0});
    if (n < FC_LANES) {
        FC_COLUMNS(1, 1, 1, 0);
    } else if (n == FC_LANES) {
        FC_COLUMNS(0, 1, 1, 0);
    } else {
        FC_COLUMNS(0, 1, 0, 0);
        for (ptrdiff_t i = FC_LANES; i + FC_LANES < n; i += FC_LANES) FC_COLUMNS(0, 0, 0, i);
        FC_COLUMNS(0, 0, 1, n - FC_LANES);
    }
#undef FC_COLUMNS
    return FC_(fc_any)(empty);
}

/*
 * Maxima as above, with their indices. Returns whether any is -inf: its index may be one of padding. NaN is looked for
 * beside the work, which is done again where there is one.
 */
static inline int FC_(fc_around_found)(const FC_REAL *from, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                                       ptrdiff_t last, FC_REAL *to, int64_t *indices) {
    FC_(fc_mask) nan = FC_(fc_is_nan)((FC_(fc_vector)){0});
    fc_touch((const char *)(from + first * n), ((last < size ? last + 1 : size) - first) * n * (ptrdiff_t)sizeof(FC_REAL));
    const int empty = FC_(fc_around_found_of)(0, from, size, n, first, last, to, indices, &nan);
    return FC_(fc_any)(nan) ? FC_(fc_around_found_of)(1, from, size, n, first, last, to, indices, &nan) : empty;
}
#undef FC_BEFORE
#undef FC_BEHIND
