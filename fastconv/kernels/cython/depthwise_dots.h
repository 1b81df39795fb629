/*
 * Depthwise grad_weight: products of two planes, tap by tap, summed in vectors of pixels. A part of depthwise.h, which
 * includes it once for each type; hence no guard.
 *
 * sums[t] += what the block adds to tap t = r * k + s, in vectors; totals[lane] likewise the gradients alone, in double: equal
 * gradients drift in float after some tens of additions; NULL where they are not wanted. b->to is grad_output.
 * A masked vector counts in some lanes alone: the others may hold a NaN, which must stay where it is.
 */
FC_INLINE FC_VECTOR FC_(fc_keep)(const int masked, FC_INTEGERS mask, FC_VECTOR x) {
    return masked ? (FC_VECTOR)(mask & (FC_INTEGERS)x) : x;
}

/* `many` rows of the kernel from row r0 on, for `rows` rows of grad_output. */
FC_INLINE void FC_(fc_dot_rows)(const int rows, const int many, const int k, const int stride, const int masked,
                                const FC_REAL *x, ptrdiff_t pitch, ptrdiff_t odd, const FC_REAL *grad,
                                ptrdiff_t grad_row, FC_INTEGERS mask, FC_VECTOR *sums, FC_VECTOR *all) {
    FC_VECTOR g[4];
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
        g[j] = FC_(fc_keep)(masked, mask, FC_(fc_load)(grad + j * grad_row));
        FC_HOLD(g[j]);
        *all += g[j];
    }
#pragma GCC unroll 7
    for (int s = 0; s < k; s++)
#pragma GCC unroll 16
        for (int i = 0; i < (rows - 1) * stride + many; i++) {
            const FC_REAL *from = x + (stride == 1 ? s : s / 2 + s % 2 * odd) + i * pitch;
            FC_VECTOR v = FC_(fc_keep)(masked, mask, FC_(fc_load)(from));
            FC_HOLD(v);
#pragma GCC unroll 4
            for (int j = 0; j < rows; j++) {
                const int r = i - j * stride;
                if (r >= 0 && r < many) sums[s * many + r] += g[j] * v;
            }
        }
}

FC_INLINE void FC_(fc_add_lanes)(double *totals, FC_VECTOR x) {
    typedef double wide __attribute__((vector_size(8 * FC_LANES)));
    typedef double wide_memory __attribute__((vector_size(8 * FC_LANES), aligned(8), may_alias));
    *(wide_memory *)totals += __builtin_convertvector(x, wide);
}

FC_INLINE void FC_(fc_dot_columns)(const int many, const int k, const int stride, const int masked,
                                   const fc_planes *b, const FC_REAL *x, ptrdiff_t i, FC_INTEGERS mask,
                                   FC_VECTOR *sums, double *totals) {
    const FC_REAL *grad = (const FC_REAL *)b->to + i;
    FC_VECTOR all = {0};
    ptrdiff_t j = 0;
#pragma GCC unroll 1
    for (; j + 4 <= b->rows; j += 4) {
        FC_(fc_dot_rows)(4, many, k, stride, masked, x + i + j * stride * b->pitch, b->pitch, b->odd,
                         grad + j * b->to_row, b->to_row, mask, sums, &all);
        if (totals && j % 32 == 28) FC_(fc_add_lanes)(totals, all), all = (FC_VECTOR){0};
    }
#pragma GCC unroll 1
    for (; j < b->rows; j++)
        FC_(fc_dot_rows)(1, many, k, stride, masked, x + i + j * stride * b->pitch, b->pitch, b->odd,
                         grad + j * b->to_row, b->to_row, mask, sums, &all);
    if (totals) FC_(fc_add_lanes)(totals, all);
}

FC_INLINE void FC_(fc_dot_some)(const int many, const int k, const int stride, const int r0, const fc_planes *b,
                                FC_VECTOR *into, double *totals) {
    const FC_INTEGERS lane = {FC_LIST(FC_NUMBER)};
    const FC_REAL *x = (const FC_REAL *)b->x + r0 * b->pitch;
    FC_VECTOR sums[25];
    ptrdiff_t i = 0;
#pragma GCC unroll 25
    for (int t = 0; t < many * k; t++) sums[t] = (FC_VECTOR){0};
#pragma GCC unroll 1
    for (; i + FC_LANES <= b->columns; i += FC_LANES)
        FC_(fc_dot_columns)(many, k, stride, 0, b, x, i, lane, sums, totals);
    if (i == 0) /* rows shorter than a vector: grad_output is in a buffer, its planes in slots */
        FC_(fc_dot_columns)(many, k, stride, 1, b, x, 0, (lane & (FC_INT)(b->slot - 1)) < (FC_INT)b->columns, sums,
                            totals);
    else if (i < b->columns) /* the last vector ends with the row, and counts what is left */
        FC_(fc_dot_columns)(many, k, stride, 1, b, x, b->columns - FC_LANES,
                            lane >= (FC_INT)(i + FC_LANES - b->columns), sums, totals);
#pragma GCC unroll 7
    for (int s = 0; s < k; s++)
#pragma GCC unroll 5
        for (int r = 0; r < many; r++) into[(r0 + r) * k + s] += sums[s * many + r];
}

/* Taps of any kernel, one at a time. */
static inline void FC_(fc_dot_any)(const fc_planes *b, FC_VECTOR *into, double *totals) {
    fc_planes one = *b;
    one.pitch = b->row_step;
    for (ptrdiff_t t = 0; t < b->taps; t++) {
        one.x = (const FC_REAL *)b->x + b->places[t];
        FC_(fc_dot_some)(1, 1, 1, 0, &one, into + t, t == 0 ? totals : 0);
    }
}

/* Rows of the kernel whose sums fit the registers. */
#define FC_FIVES (FC_BYTES == 64 ? 3 : 2)
#define FC_SEVENS (FC_BYTES == 64 ? 3 : 1)
#define FC_DOT_FIVE(DOT, S, b, into, totals)                                                  \
    for (int r = 0; r + FC_FIVES <= 5; r += FC_FIVES)                                         \
        FC_(DOT)(FC_FIVES, 5, S, r, b, into, r == 0 ? totals : 0);                            \
    FC_(DOT)(5 % FC_FIVES, 5, S, 5 - 5 % FC_FIVES, b, into, 0);
#define FC_DOT_SEVEN(DOT, S, b, into, totals)                                                 \
    for (int r = 0; r + FC_SEVENS <= 7; r += FC_SEVENS)                                       \
        FC_(DOT)(FC_SEVENS, 7, S, r, b, into, r == 0 ? totals : 0);                           \
    if (7 % FC_SEVENS) FC_(DOT)(7 % FC_SEVENS, 7, S, 7 - 7 % FC_SEVENS, b, into, 0);

static inline void FC_(fc_dot_planes)(const fc_planes *b, void *into, double *totals) {
    FC_VECTOR *sums = (FC_VECTOR *)into;
    switch (b->kernel * 2 + b->stride) {
    case 3 * 2 + 1: FC_(fc_dot_some)(3, 3, 1, 0, b, sums, totals); break;
    case 3 * 2 + 2: FC_(fc_dot_some)(3, 3, 2, 0, b, sums, totals); break;
    case 5 * 2 + 1: FC_DOT_FIVE(fc_dot_some, 1, b, sums, totals) break;
    case 5 * 2 + 2: FC_DOT_FIVE(fc_dot_some, 2, b, sums, totals) break;
    case 7 * 2 + 1: FC_DOT_SEVEN(fc_dot_some, 1, b, sums, totals) break;
    case 7 * 2 + 2: FC_DOT_SEVEN(fc_dot_some, 2, b, sums, totals) break;
    default: FC_(fc_dot_any)(b, sums, totals);
    }
}

/* One step of what follows, of vectors in registers: their number becomes half. */
FC_INLINE void FC_(fc_fold)(const int many, FC_VECTOR *rows) {
    if (many % 2) rows[many] = (FC_VECTOR){0};
#pragma GCC unroll 5
    for (int i = 0; i < (many + 1) / 2; i++)
        rows[i] = FC_MIX(rows[2 * i], rows[2 * i + 1], FC_EVENS) + FC_MIX(rows[2 * i], rows[2 * i + 1], FC_ODDS);
}

/* The same of 3 x 3 taps: with one image and 7 x 7 maps, the loop over memory took as long as their products. */
FC_INLINE void FC_(fc_collect_nine)(const int slot, FC_VECTOR *sums, double *to) {
    FC_VECTOR rows[10];
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) rows[i] = sums[i], sums[i] = (FC_VECTOR){0};
    if (slot > 1) FC_(fc_fold)(9, rows);
    if (slot > 2) FC_(fc_fold)(5, rows);
    if (slot > 4) FC_(fc_fold)(3, rows);
    if (slot > 8) FC_(fc_fold)(2, rows);
#pragma GCC unroll 9
    for (int i = 0; i < (9 + slot - 1) / slot; i++) FC_(fc_add_lanes)(to + i * FC_LANES, rows[i]);
}

/*
 * Adds the lanes of each slot of n vectors of sums to to[t * slots + g], and clears the sums. Neighbouring lanes of
 * two vectors are added into one, until a slot is one lane: half the shuffles of a transpose, fewer for 9 taps.
 * `to` has room for whole vectors.
 */
static inline void FC_(fc_collect)(void *from, ptrdiff_t n, ptrdiff_t slot, double *to) {
    FC_VECTOR *sums = (FC_VECTOR *)from;
    if (n == 9 && slot == FC_LANES) return FC_(fc_collect_nine)(FC_LANES, sums, to);
    if (n == 9 && slot == FC_LANES / 2) return FC_(fc_collect_nine)(FC_LANES / 2, sums, to);
    for (ptrdiff_t t = 0; t < n; t += FC_LANES, to += FC_LANES * (FC_LANES / slot)) {
        FC_VECTOR rows[FC_LANES + 1];
        ptrdiff_t many = n - t < FC_LANES ? n - t : FC_LANES;
        for (ptrdiff_t i = 0; i < many; i++) {
            rows[i] = sums[t + i], sums[t + i] = (FC_VECTOR){0};
            __asm__ volatile("" ::: "memory"); /* else the loop becomes two calls, which take longer than the sums */
        }
        for (ptrdiff_t width = slot; width > 1; width /= 2) {
            rows[many] = (FC_VECTOR){0};
            many = (many + 1) / 2;
            for (ptrdiff_t i = 0; i < many; i++)
                rows[i] = FC_MIX(rows[2 * i], rows[2 * i + 1], FC_EVENS) +
                          FC_MIX(rows[2 * i], rows[2 * i + 1], FC_ODDS);
        }
        for (ptrdiff_t i = 0; i < many; i++) FC_(fc_add_lanes)(to + i * FC_LANES, rows[i]);
    }
}

/* to[t] = totals[t * step] for n taps: one at a time, as gcc makes gathers and scatters of so few. */
static inline void FC_(fc_write_totals)(const double *totals, ptrdiff_t step, ptrdiff_t n, FC_REAL *to) {
    for (ptrdiff_t t = 0; t < n; t++) {
        to[t] = (FC_REAL)totals[t * step];
        __asm__ volatile("" ::: "memory");
    }
}

/* -- Products: rows in registers, those of grad_output too ----------------------------------------- */

FC_INLINE void FC_(fc_small_dot_rows)(const int planes, const int rows, const int many, const int k, const int stride,
                                      const int r0, const fc_planes *b, ptrdiff_t j, FC_INTEGERS mask,
                                      FC_VECTOR *sums, FC_VECTOR *all) {
    const FC_(fc_sides) n = FC_(fc_sides_of)(b->from_columns), counted = FC_(fc_sides_of)(b->columns);
    const FC_(fc_span) rest = FC_(fc_small_rest)(planes, b);
    const FC_REAL *grad = (const FC_REAL *)b->to + j * b->to_row;
    ptrdiff_t h = b->first + j * stride + r0;
    const FC_REAL *from = (const FC_REAL *)b->from + h * b->from_row;
    FC_VECTOR g[7];
#pragma GCC unroll 7
    for (int i = 0; i < rows; i++, grad += b->to_row) {
        g[i] = FC_(fc_small_load)(planes, grad, b->to_plane, counted);
        *all += g[i];
    }
#pragma GCC unroll 24
    for (int i = 0; i < (rows - 1) * stride + many; i++, h++, from += b->from_row) {
        FC_VECTOR row[2];
        FC_(fc_small_row)(planes, stride, b, from, h, n, rest, row);
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
    fc_planes b = *given;
    const FC_INTEGERS lane = {FC_LIST(FC_NUMBER)};
    const FC_INTEGERS mask = (lane & (FC_INT)(FC_LANES / planes - 1)) < (FC_INT)b.columns;
    FC_VECTOR sums[25], all = {0};
#pragma GCC unroll 25
    for (int t = 0; t < many * k; t++) sums[t] = (FC_VECTOR){0};
#pragma GCC unroll 1
    for (ptrdiff_t image = 0; image < b.images; image++) {
#pragma GCC unroll 1
        for (ptrdiff_t j = 0; j < b.rows;) {
            if (k == 3 && FC_MOST_SMALL >= 7 && b.rows - j >= 7)
                FC_(fc_small_dot_rows)(planes, 7, many, k, stride, r0, &b, j, mask, sums, &all), j += 7;
            else if (b.rows - j >= 4)
                FC_(fc_small_dot_rows)(planes, 4, many, k, stride, r0, &b, j, mask, sums, &all), j += 4;
            else
                FC_(fc_small_dot_rows)(planes, 1, many, k, stride, r0, &b, j, mask, sums, &all), j += 1;
            if (totals && (j % 32 < 4 || j >= b.rows)) FC_(fc_add_lanes)(totals, all), all = (FC_VECTOR){0};
        }
        b.from = (const FC_REAL *)b.from + b.from_image;
        b.to = (FC_REAL *)b.to + b.to_image;
    }
#pragma GCC unroll 7
    for (int s = 0; s < k; s++)
#pragma GCC unroll 5
        for (int r = 0; r < many; r++) into[(r0 + r) * k + s] += sums[s * many + r];
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

#undef FC_FIVES
#undef FC_SEVENS
#undef FC_DOT_FIVE
#undef FC_DOT_SEVEN
