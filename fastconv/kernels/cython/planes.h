/*
 * Work on planes of one FC_REAL: copies with padding, sums. A part of simd.h, which
 * includes it once for each type; hence no guard.
 */

/* to[i] = from[2 * i] for i < n. */
static inline void FC_(fc_copy_even)(FC_REAL *to, const FC_REAL *from, ptrdiff_t n) {
    const FC_(fc_integers) even = {FC_PASTE(FC_LIST_, FC_LANES)(FC_TWICE, 0)};
    for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
        const ptrdiff_t left = 2 * (n - i) - 1; /* the element after the last that is needed may not exist */
        const FC_(fc_vector) x = FC_(fc_load_some)(from + 2 * i, left);
        const FC_(fc_vector) y = left > FC_LANES ? FC_(fc_load_some)(from + 2 * i + FC_LANES, left - FC_LANES) : x;
        FC_(fc_store_some)(to + i, FC_SHUFFLE(x, y, even, FC_TWICE, 0), n - i);
    }
}

/* 0 for `before` elements, then n copied, then 0 for `after`: no calls, for the rows of small maps. */
static inline void FC_(fc_copy_padded)(FC_REAL *to, const FC_REAL *from, ptrdiff_t before, ptrdiff_t n,
                                       ptrdiff_t after) {
#if FC_BYTES == 64
    if (before + n + after <= FC_LANES) { /* a row of a 7 x 7 or 14 x 14 map: what is masked is not read */
        FC_(fc_store_some)(to, (FC_(fc_vector))FC_MASKED_LOAD(((1u << n) - 1) << before, from - before),
                           before + n + after);
        return;
    }
#endif
    const FC_(fc_vector) zero = {0};
    for (ptrdiff_t i = 0; i < before; i += FC_LANES) FC_(fc_store_some)(to + i, zero, before - i);
    to += before;
    for (ptrdiff_t i = 0; i < n; i += FC_LANES)
        FC_(fc_store_some)(to + i, FC_(fc_load_some)(from + i, n - i), n - i);
    to += n;
    for (ptrdiff_t i = 0; i < after; i += FC_LANES) FC_(fc_store_some)(to + i, zero, after - i);
}

/* The same of every second element. */
static inline void FC_(fc_copy_even_padded)(FC_REAL *to, const FC_REAL *from, ptrdiff_t before, ptrdiff_t n,
                                            ptrdiff_t after) {
#if FC_BYTES == 64
    if (before + n + after <= FC_LANES) {
        const FC_(fc_integers) even = {FC_PASTE(FC_LIST_, FC_LANES)(FC_TWICE, 0)};
        const unsigned wanted = _pdep_u32(((1u << n) - 1) << before, 0x55555555);
        const FC_(fc_vector) x = (FC_(fc_vector))FC_MASKED_LOAD(wanted, from - 2 * before);
        const FC_(fc_vector) y = (FC_(fc_vector))FC_MASKED_LOAD(wanted >> FC_LANES, from - 2 * before + FC_LANES);
        FC_(fc_store_some)(to, FC_SHUFFLE(x, y, even, FC_TWICE, 0), before + n + after);
        return;
    }
#endif
    FC_(fc_copy_padded)(to, from, before, 0, 0);
    FC_(fc_copy_even)(to + before, from, n);
    FC_(fc_copy_padded)(to + before + n, from, after, 0, 0);
}

/* The sum of n neighbours, in chunks of a few vectors that are added up in double. */
static inline double FC_(fc_sum_run)(const FC_REAL *from, ptrdiff_t n) {
    double total = 0;
    ptrdiff_t i = 0;
    while (n - i >= FC_LANES) {
        FC_(fc_vector) sum = FC_(fc_load)(from + i);
        for (int v = 1; v < 16 && n - i >= 2 * FC_LANES; v++) sum += FC_(fc_load)(from + (i += FC_LANES));
        i += FC_LANES;
        for (int lane = 0; lane < FC_LANES; lane++) total += (double)sum[lane];
    }
    for (; i < n; i++) total += (double)from[i];
    return total;
}

FC_INLINE FC_(fc_vector) FC_(fc_select)(FC_(fc_integers) mask, FC_(fc_vector) x, FC_(fc_vector) y) {
    return (FC_(fc_vector))((mask & (FC_(fc_integers))x) | (~mask & (FC_(fc_integers))y));
}
