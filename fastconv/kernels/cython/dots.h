/*
 * The dots tile: products of two sets of planes, summed over their pixels. Vectors run along rows of pixels, so that
 * nothing is transposed. A part of simd.h, which includes it once for each type; hence no guard.
 */

/* What FC_LANES rows sum up to, each in its lane: halves are added as a transpose would bring them together. */
#define FC_UPPER(L, D) ((L) & (D) ? FC_LANES + (L) - (D) : (L))
#define FC_LOWER(L, D) ((L) & (D) ? FC_LANES + (L) : (L) + (D))
#define FC_FOLD(D)                                                                                  \
    do {                                                                                            \
        const FC_(fc_integers) upper = {FC_PASTE(FC_LIST_, FC_LANES)(FC_UPPER, D)};                 \
        const FC_(fc_integers) lower = {FC_PASTE(FC_LIST_, FC_LANES)(FC_LOWER, D)};                 \
        _Pragma("GCC unroll 16") for (int i = 0; i < FC_LANES; i += 2 * D)                          \
            rows[i] = FC_SHUFFLE(rows[i], rows[i + D], upper, FC_UPPER, D)                          \
                    + FC_SHUFFLE(rows[i], rows[i + D], lower, FC_LOWER, D);                         \
    } while (0)
FC_INLINE FC_(fc_vector) FC_(fc_row_sums)(FC_(fc_vector) rows[FC_LANES]) {
    FC_FOLD(1);
#if FC_LANES > 2
    FC_FOLD(2);
#endif
#if FC_LANES > 4
    FC_FOLD(4);
#endif
#if FC_LANES > 8
    FC_FOLD(8);
#endif
    return rows[0];
}
#undef FC_FOLD
#undef FC_UPPER
#undef FC_LOWER

/*
 * sums[k * k_step + l] (+)= sum over (n, j, i) of y[k * y_k + n * y_n + j * y_row + i] * x[places[l] + n * x_n +
 * j * x_row + i], for k < ks and l < ls, j < rows and i < columns. Beyond the last column both are 0: a NaN there
 * stays where it is. Sums start from 0 in every call: long ones are thereby made in chunks.
 */
FC_INLINE void FC_(fc_dots_of)(const int ks, const int ls, const FC_REAL *y, ptrdiff_t y_k, ptrdiff_t y_n,
                               ptrdiff_t y_row, const FC_REAL *x, const ptrdiff_t *places, ptrdiff_t x_n,
                               ptrdiff_t x_row, ptrdiff_t images, ptrdiff_t rows, ptrdiff_t columns, FC_REAL *sums,
                               ptrdiff_t k_step, int add) {
    FC_(fc_vector) sum[FC_DOTS_KS][FC_DOTS_LS] = {{{0}}};
    const FC_REAL *planes[FC_DOTS_LS];
#pragma GCC unroll 8
    for (int l = 0; l < ls; l++) planes[l] = x + places[l];
    for (ptrdiff_t n = 0; n < images; n++)
        for (ptrdiff_t j = 0; j < rows; j++) {
            const FC_REAL *grad = y + n * y_n + j * y_row;
            const ptrdiff_t from = n * x_n + j * x_row;
            ptrdiff_t i = 0;
#pragma GCC unroll 1
            for (; i + FC_LANES <= columns; i += FC_LANES) {
                FC_(fc_vector) g[FC_DOTS_KS];
#pragma GCC unroll 4
                for (int k = 0; k < ks; k++) g[k] = FC_(fc_load)(grad + k * y_k + i);
#pragma GCC unroll 8
                for (int l = 0; l < ls; l++) {
                    const FC_(fc_vector) v = FC_(fc_load)(planes[l] + from + i);
#pragma GCC unroll 4
                    for (int k = 0; k < ks; k++) sum[k][l] += g[k] * v;
                }
            }
            if (i < columns) {
                FC_(fc_vector) g[FC_DOTS_KS];
#pragma GCC unroll 4
                for (int k = 0; k < ks; k++) g[k] = FC_(fc_load_some)(grad + k * y_k + i, columns - i);
#pragma GCC unroll 8
                for (int l = 0; l < ls; l++) {
                    const FC_(fc_vector) v = FC_(fc_load_some)(planes[l] + from + i, columns - i);
#pragma GCC unroll 4
                    for (int k = 0; k < ks; k++) sum[k][l] += g[k] * v;
                }
            }
        }
    FC_REAL totals[(FC_DOTS_KS * FC_DOTS_LS + FC_LANES - 1) / FC_LANES * FC_LANES];
#pragma GCC unroll 16
    for (int first = 0; first < ks * ls; first += FC_LANES) {
        FC_(fc_vector) part[FC_LANES];
#pragma GCC unroll 16
        for (int i = 0; i < FC_LANES; i++)
            part[i] = first + i < ks * ls ? sum[(first + i) / ls][(first + i) % ls] : (FC_(fc_vector)){0};
        FC_(fc_store)(totals + first, FC_(fc_row_sums)(part));
    }
    for (int k = 0; k < ks; k++)
        for (int l = 0; l < ls; l++) {
            FC_REAL *to = sums + k * k_step + l;
            *to = add ? *to + totals[k * ls + l] : totals[k * ls + l];
        }
}

static inline void FC_(fc_dots)(ptrdiff_t ks, ptrdiff_t ls, const FC_REAL *y, ptrdiff_t y_k, ptrdiff_t y_n,
                                ptrdiff_t y_row, const FC_REAL *x, const ptrdiff_t *places, ptrdiff_t x_n,
                                ptrdiff_t x_row, ptrdiff_t images, ptrdiff_t rows, ptrdiff_t columns, FC_REAL *sums,
                                ptrdiff_t k_step, int add) {
#define FC_CASE(KS, LS)                                                                                          \
    case 8 * KS + LS:                                                                                            \
        FC_(fc_dots_of)(KS, LS, y, y_k, y_n, y_row, x, places, x_n, x_row, images, rows, columns, sums, k_step, add); \
        break;
    switch (8 * (int)ks + (int)ls) { FC_EACH_DOTS(FC_CASE) }
#undef FC_CASE
}
