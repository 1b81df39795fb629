/*
 * Pooling forward, row by row. The file includes itself once for each type.
 *
 * Windows are separable. `down` merges the rows under a row of windows; `across` merges what their columns hold. In
 * between lies a padded row in L1, split by stride: column c + padding is element (c + padding) / step of phase
 * (c + padding) % step, so that the taps of neighbouring windows are neighbours. Phases are `pitch` apart.
 *
 * Without labels `down` is first: the input is read once, and where it is. A maximum with labels goes across first,
 * so that of equal maxima the first of the first row wins. `taps` is a constant, or 0: `many`.
 */
#ifndef FC_REAL

#ifndef FASTCONV_POOLING_H
#define FASTCONV_POOLING_H

#include "simd.h"

/* Bytes ahead of a load that are asked for: planes follow each other, so this is right across their ends, and the
   hardware does not fetch beyond a page of 4 KiB. Not far: 8 KiB drive its own fetching out of step where rows are read
   one after the other (103 MB of 2 x 2 windows: 6.7 ms; 4.4 with 1 KiB, 4.7 with none). */
#define FC_AHEAD 1024
/* Rows of so many bytes are read one after the other, not in turn: 4.4 ms, too, where it was 10.5 with 1 KiB ahead. */
#define FC_LONG_ROW 448
#define FC_FETCH(FROM) fc_prefetch((const char *)(FROM) + FC_AHEAD)

#define FC_LANE(L, D) (L)
#define FC_TWICE_1(L, D) (2 * (L) + 1)
/* Lanes of x and y in turn, from lane D of both. */
#define FC_ZIP(L, D) ((D) + (L) / 2 + ((L) & 1) * FC_LANES)

#define FC_REAL float
#define FC_INT int32_t
#define FC_(NAME) NAME##_f32
#if FC_BYTES == 64
#define FC_LANES 16
#elif FC_BYTES == 32
#define FC_LANES 8
#else
#define FC_LANES 4
#endif
#include "pooling.h"

#define FC_REAL double
#define FC_INT int64_t
#define FC_(NAME) NAME##_f64
#if FC_BYTES == 64
#define FC_LANES 8
#elif FC_BYTES == 32
#define FC_LANES 4
#else
#define FC_LANES 2
#endif
#include "pooling.h"

#endif /* FASTCONV_POOLING_H */

#else /* For one FC_REAL, with FC_INT of its size, FC_LANES in a vector, and FC_(name) */

#include "masks.h"

FC_INLINE FC_(fc_vector) FC_(fc_merge)(const int maximum, FC_(fc_vector) x, FC_(fc_vector) y) {
    return maximum ? FC_(fc_larger)(x, y) : x + y;
}

/* Merged taps of LANES neighbouring columns, or of the first `count` alone. */
FC_INLINE FC_(fc_vector) FC_(fc_column)(const int maximum, const int some, ptrdiff_t taps, const FC_REAL *from,
                                        ptrdiff_t step, ptrdiff_t count) {
    FC_(fc_vector) best = some ? FC_(fc_load_some)(from, count) : FC_(fc_load)(from);
#pragma GCC unroll 3
    for (ptrdiff_t r = 1; r < taps; r++) {
        from += step;
        best = FC_(fc_merge)(maximum, best, some ? FC_(fc_load_some)(from, count) : FC_(fc_load)(from));
    }
    return best;
}

/* -- Down ------------------------------------------------------------------------------------------------- */

/* Store `count` columns, or merge them into what is there. */
FC_INLINE void FC_(fc_put)(const int onto, const int maximum, FC_REAL *to, FC_(fc_vector) x, ptrdiff_t count) {
    FC_(fc_store_some)(to, onto ? FC_(fc_merge)(maximum, FC_(fc_load_some)(to, count), x) : x, count);
}

/* Two vectors of columns x and y, the first of which has padded position `at`, into both phases. */
FC_INLINE void FC_(fc_split)(const int onto, const int maximum, FC_(fc_vector) x, FC_(fc_vector) y, FC_REAL *to,
                             ptrdiff_t pitch, ptrdiff_t at, ptrdiff_t count) {
    const FC_(fc_integers) even = {FC_PASTE(FC_LIST_, FC_LANES)(FC_TWICE, 0)};
    const FC_(fc_integers) odd = {FC_PASTE(FC_LIST_, FC_LANES)(FC_TWICE_1, 0)};
    FC_(fc_put)(onto, maximum, to + (at & 1) * pitch + at / 2, FC_SHUFFLE(x, y, even, FC_TWICE, 0), (count + 1) / 2);
    FC_(fc_put)(onto, maximum, to + ((at + 1) & 1) * pitch + (at + 1) / 2, FC_SHUFFLE(x, y, odd, FC_TWICE_1, 0),
                count / 2);
}

/* One row, merged into what is there if `onto`; returns where a maximum of a single row is NaN. */
FC_INLINE FC_(fc_mask) FC_(fc_down_row)(const int onto, const int maximum, const int constant, ptrdiff_t many,
                                        const FC_REAL *from, ptrdiff_t row, ptrdiff_t n, FC_REAL *to, ptrdiff_t step,
                                        ptrdiff_t pitch, ptrdiff_t at) {
    const ptrdiff_t taps = constant ? constant : many;
    const FC_REAL *newest = from + (taps - 1) * row;
    const int look = maximum && constant == 1;
    FC_(fc_mask) nan = FC_(fc_is_nan)((FC_(fc_vector)){0});
    ptrdiff_t i = 0;
#define FC_COLUMN(SOME, I, COUNT) FC_(fc_column)(maximum, SOME, taps, from + (I), row, COUNT)
    if (step == 1) {
        for (; i + FC_LANES <= n; i += FC_LANES) {
            const FC_(fc_vector) x = FC_COLUMN(0, i, 0);
            FC_FETCH(newest + i);
            if (look) nan |= FC_(fc_is_nan)(x);
            FC_(fc_put)(onto, maximum, to + at + i, x, FC_LANES);
        }
        if (i < n) {
            const FC_(fc_vector) x = FC_COLUMN(1, i, n - i);
            if (look) nan |= FC_(fc_is_nan)(x);
            FC_(fc_put)(onto, maximum, to + at + i, x, n - i);
        }
    } else if (step == 2) {
        for (; i + 2 * FC_LANES <= n; i += 2 * FC_LANES) {
            const FC_(fc_vector) x = FC_COLUMN(0, i, 0), y = FC_COLUMN(0, i + FC_LANES, 0);
            FC_FETCH(newest + i);
            FC_FETCH(newest + i + FC_LANES);
            if (taps > 1) { /* two rows are new to each row of windows */
                FC_FETCH(newest + i - row);
                FC_FETCH(newest + i + FC_LANES - row);
            }
            if (look) nan |= FC_(fc_is_nan)(x) | FC_(fc_is_nan)(y);
            FC_(fc_split)(onto, maximum, x, y, to, pitch, at + i, 2 * FC_LANES);
        }
        if (i < n) {
            const FC_(fc_vector) x = FC_COLUMN(1, i, n - i);
            FC_(fc_vector) y = {0};
            if (n - i > FC_LANES) y = FC_COLUMN(1, i + FC_LANES, n - i - FC_LANES);
            if (look) nan |= FC_(fc_is_nan)(x) | FC_(fc_is_nan)(y);
            FC_(fc_split)(onto, maximum, x, y, to, pitch, at + i, n - i);
        }
    } else {
        ptrdiff_t phase = at % step, place = at / step;
        for (; i < n; i += FC_LANES) {
            const FC_(fc_vector) x = FC_COLUMN(1, i, n - i);
            if (look) nan |= FC_(fc_is_nan)(x);
            for (int lane = 0; lane < FC_LANES && i + lane < n; lane++) {
                FC_(fc_put)(onto, maximum, to + phase * pitch + place, (FC_(fc_vector)){0} + x[lane], 1);
                if (++phase == step) phase = 0, place++;
            }
        }
    }
#undef FC_COLUMN
    return nan;
}

/* Long rows one after the other: the hardware fetches one stream, of several that are read in turn none well. */
FC_INLINE FC_(fc_mask) FC_(fc_down_rows)(const int maximum, const int constant, ptrdiff_t many, const FC_REAL *from,
                                         ptrdiff_t row, ptrdiff_t n, FC_REAL *to, ptrdiff_t step, ptrdiff_t pitch,
                                         ptrdiff_t at) {
    const ptrdiff_t taps = constant ? constant : many;
    if (constant == 1 || n * (ptrdiff_t)sizeof(FC_REAL) < FC_LONG_ROW)
        return FC_(fc_down_row)(0, maximum, constant, many, from, row, n, to, step, pitch, at);
    FC_(fc_mask) nan = FC_(fc_down_row)(0, maximum, 1, 1, from, row, n, to, step, pitch, at);
    for (ptrdiff_t r = 1; r < taps; r++)
        nan |= FC_(fc_down_row)(1, maximum, 1, 1, from + r * row, row, n, to, step, pitch, at);
    return nan;
}

FC_INLINE int FC_(fc_down_of)(const int maximum, const int constant, ptrdiff_t many, const FC_REAL *from,
                              ptrdiff_t row, ptrdiff_t n, FC_REAL *to, ptrdiff_t step, ptrdiff_t pitch, ptrdiff_t at,
                              ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step) {
    FC_(fc_mask) nan = FC_(fc_is_nan)((FC_(fc_vector)){0});
#define FC_ROWS_OF(STEP) \
    for (ptrdiff_t j = 0; j < rows; j++, from += from_step, to += to_step) \
        nan |= FC_(fc_down_rows)(maximum, constant, many, from, row, n, to, STEP, pitch, at)
    if (step == 1) FC_ROWS_OF(1);
    else if (step == 2) FC_ROWS_OF(2);
    else FC_ROWS_OF(step);
#undef FC_ROWS_OF
    return FC_(fc_any)(nan);
}

/*
 * `rows` times: merge `taps` rows, `row` elements apart, of n columns, of which the first has padded position `at`.
 * Exactly n elements are read of each row, and written. Returns, for maxima of single rows, whether one is NaN.
 */
static inline int FC_(fc_down)(int maximum, ptrdiff_t taps, const FC_REAL *from, ptrdiff_t row, ptrdiff_t n,
                               FC_REAL *to, ptrdiff_t step, ptrdiff_t pitch, ptrdiff_t at, ptrdiff_t rows,
                               ptrdiff_t from_step, ptrdiff_t to_step) {
#define FC_CASE(M, T) FC_(fc_down_of)(M, T, taps, from, row, n, to, step, pitch, at, rows, from_step, to_step)
    if (maximum)
        switch (taps) {
        case 1: return FC_CASE(1, 1);
        case 2: return FC_CASE(1, 2);
        case 3: return FC_CASE(1, 3);
        default: return FC_CASE(1, 0);
        }
    switch (taps) {
    case 2: return FC_CASE(0, 2);
    case 3: return FC_CASE(0, 3);
    default: return FC_CASE(0, 0);
    }
#undef FC_CASE
}

/* -- Across ----------------------------------------------------------------------------------------------- */

FC_INLINE void FC_(fc_across_of)(const int maximum, const int constant, ptrdiff_t many, const FC_REAL *from,
                                 const ptrdiff_t *places, FC_REAL *to, ptrdiff_t n, const FC_REAL *counts,
                                 FC_REAL taller, ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step) {
    const ptrdiff_t taps = constant ? constant : many;
    const ptrdiff_t place[3] = {places[0], constant > 1 ? places[1] : 0, constant > 2 ? places[2] : 0};
    for (ptrdiff_t j = 0; j < rows; j++, from += from_step, to += to_step)
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
            FC_(fc_vector) best = FC_(fc_load)(from + place[0] + i);
#pragma GCC unroll 3
            for (ptrdiff_t s = 1; s < taps; s++)
                best = FC_(fc_merge)(maximum, best, FC_(fc_load)(from + (constant ? place[s] : places[s]) + i));
            if (!maximum) best /= FC_(fc_load)(counts + i) * taller;
            FC_(fc_store_some)(to + i, best, n - i);
        }
}

/*
 * `rows` times: merge the taps of n windows. Tap s of window i is from[places[s] + i]; an average is divided by
 * counts[i] * taller. Whole vectors are read of `from` and `counts`; exactly n results are written.
 */
static inline void FC_(fc_across)(int maximum, ptrdiff_t taps, const FC_REAL *from, const ptrdiff_t *places,
                                  FC_REAL *to, ptrdiff_t n, const FC_REAL *counts, FC_REAL taller, ptrdiff_t rows,
                                  ptrdiff_t from_step, ptrdiff_t to_step) {
#define FC_CASE(M, T) FC_(fc_across_of)(M, T, taps, from, places, to, n, counts, taller, rows, from_step, to_step)
    if (maximum)
        switch (taps) {
        case 2: FC_CASE(1, 2); break;
        case 3: FC_CASE(1, 3); break;
        default: FC_CASE(1, 0);
        }
    else
        switch (taps) {
        case 2: FC_CASE(0, 2); break;
        case 3: FC_CASE(0, 3); break;
        default: FC_CASE(0, 0);
        }
#undef FC_CASE
}

/* -- With labels ------------------------------------------------------------------------------------------
 * The label of a maximum is the distance of its element from the first of its window, whether that is inside or not.
 * Where no NaN is near (`careful` 0) comparing is all; else the first NaN wins.
 */
FC_INLINE FC_(fc_mask) FC_(fc_better)(const int careful, FC_(fc_vector) x, FC_(fc_vector) best) {
    if (!careful) return FC_(fc_above)(x, best);
    return FC_(fc_above)(x, best) | (FC_(fc_is_nan)(x) & ~FC_(fc_is_nan)(best));
}

FC_INLINE void FC_(fc_across_labels_of)(const int careful, const int constant, ptrdiff_t many, const FC_REAL *from,
                                        const ptrdiff_t *places, FC_INT dilation, FC_REAL *to, FC_INT *labels,
                                        ptrdiff_t n, ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step) {
    const ptrdiff_t taps = constant ? constant : many;
    const ptrdiff_t place[3] = {places[0], constant > 1 ? places[1] : 0, constant > 2 ? places[2] : 0};
    for (ptrdiff_t j = 0; j < rows; j++, from += from_step, to += to_step, labels += to_step)
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
            FC_(fc_vector) best = FC_(fc_load)(from + place[0] + i);
            FC_(fc_integers) label = {0}, here = {0};
#pragma GCC unroll 3
            for (ptrdiff_t s = 1; s < taps; s++) {
                const FC_(fc_vector) x = FC_(fc_load)(from + (constant ? place[s] : places[s]) + i);
                const FC_(fc_mask) better = FC_(fc_better)(careful, x, best);
                here += dilation;
                best = FC_(fc_choose)(better, x, best);
                label = FC_(fc_choose_integers)(better, here, label);
            }
            FC_(fc_store)(to + i, best);
            FC_(fc_store_integers)(labels + i, label);
        }
}

/*
 * `rows` times: maxima of the columns of n windows and their labels, in whole vectors, for which `to` and `labels`
 * have room.
 */
static inline void FC_(fc_across_labels)(int careful, ptrdiff_t taps, const FC_REAL *from, const ptrdiff_t *places,
                                         FC_INT dilation, FC_REAL *to, FC_INT *labels, ptrdiff_t n, ptrdiff_t rows,
                                         ptrdiff_t from_step, ptrdiff_t to_step) {
#define FC_CASE(C, T) \
    FC_(fc_across_labels_of)(C, T, taps, from, places, dilation, to, labels, n, rows, from_step, to_step)
    if (careful) FC_CASE(1, 0);
    else if (taps == 2) FC_CASE(0, 2);
    else if (taps == 3) FC_CASE(0, 3);
    else FC_CASE(0, 0);
#undef FC_CASE
}

/* Store the first `count` of a vector of indices. gcc 12 widens a vector by parts, over memory; hence the intrinsics. */
FC_INLINE void FC_(fc_store_indices)(int64_t *to, FC_(fc_integers) x, ptrdiff_t count) {
#if FC_BYTES == 64 && FC_LANES == 16
    const __m512i first = _mm512_cvtepi32_epi64(_mm512_castsi512_si256((__m512i)x));
    const __m512i second = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((__m512i)x, 1));
    if (count >= 16) {
        _mm512_storeu_si512(to, first);
        _mm512_storeu_si512(to + 8, second);
    } else {
        const unsigned lanes = (1u << count) - 1;
        _mm512_mask_storeu_epi64(to, (__mmask8)lanes, first);
        _mm512_mask_storeu_epi64(to + 8, (__mmask8)(lanes >> 8), second);
    }
#elif FC_BYTES == 8 * FC_LANES
    FC_(fc_store_some)((FC_REAL *)to, (FC_(fc_vector))x, count);
#else
    typedef int64_t wide __attribute__((vector_size(2 * FC_BYTES)));
    typedef int64_t wide_memory __attribute__((vector_size(2 * FC_BYTES), aligned(8)));
    const wide indices = __builtin_convertvector(x, wide);
    if (count >= FC_LANES) *(wide_memory *)to = indices;
    else for (ptrdiff_t lane = 0; lane < count; lane++) to[lane] = indices[lane];
#endif
}

FC_INLINE int FC_(fc_down_labels_of)(const int careful, const int constant, ptrdiff_t many, const FC_REAL *from,
                                     const FC_INT *labels, ptrdiff_t pitch, FC_INT row, FC_INT base, FC_INT step,
                                     FC_REAL *to, int64_t *indices, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t from_step,
                                     ptrdiff_t to_step, FC_INT base_step) {
    const ptrdiff_t taps = constant ? constant : many;
    const FC_(fc_integers) lane = {FC_PASTE(FC_LIST_, FC_LANES)(FC_LANE, 0)};
    const FC_(fc_vector) lowest = (FC_(fc_vector)){0} - (FC_REAL)__builtin_inff();
    FC_(fc_mask) empty = FC_(fc_is_nan)((FC_(fc_vector)){0});
    for (ptrdiff_t j = 0; j < rows; j++, from += from_step, labels += from_step, to += to_step, indices += to_step) {
        FC_(fc_integers) begin = lane * step + base;
        base += base_step;
        for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
            FC_(fc_vector) best = FC_(fc_load)(from + i);
            FC_(fc_integers) label = FC_(fc_load_integers)(labels + i), further = {0};
#pragma GCC unroll 3
            for (ptrdiff_t r = 1; r < taps; r++) {
                const FC_(fc_vector) x = FC_(fc_load)(from + r * pitch + i);
                const FC_(fc_mask) better = FC_(fc_better)(careful, x, best);
                further += row;
                best = FC_(fc_choose)(better, x, best);
                label =
                    FC_(fc_choose_integers)(better, FC_(fc_load_integers)(labels + r * pitch + i) + further, label);
            }
            empty |= FC_(fc_equal)(best, lowest) & FC_(fc_first)(n - i);
            FC_(fc_store_some)(to + i, best, n - i);
            FC_(fc_store_indices)(indices + i, label + begin, n - i);
            begin += FC_LANES * step;
        }
    }
    return FC_(fc_any)(empty);
}

/*
 * `rows` times: merge `taps` rows of maxima and labels, `pitch` apart, those of the next row of the input `row`
 * further. The index of a maximum is base + i * step + its label. Returns whether any is -inf: its window may hold
 * nothing, and the label be one of padding. Exactly n maxima and indices are written in each row.
 */
static inline int FC_(fc_down_labels)(int careful, ptrdiff_t taps, const FC_REAL *from, const FC_INT *labels,
                                      ptrdiff_t pitch, FC_INT row, FC_INT base, FC_INT step, FC_REAL *to,
                                      int64_t *indices, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t from_step,
                                      ptrdiff_t to_step, FC_INT base_step) {
#define FC_CASE(C, T)                                                                                             \
    FC_(fc_down_labels_of)(C, T, taps, from, labels, pitch, row, base, step, to, indices, n, rows, from_step, to_step, \
                           base_step)
    if (careful) return FC_CASE(1, 0);
    if (taps == 2) return FC_CASE(0, 2);
    if (taps == 3) return FC_CASE(0, 3);
    return FC_CASE(0, 0);
#undef FC_CASE
}

/* -- Whole planes ----------------------------------------------------------------------------------------- */

/* to[j] = the maximum of n neighbours at from + j * n, or their sum / divisor, for j < planes <= LANES. */
FC_INLINE void FC_(fc_planes_of)(const int maximum, const FC_REAL *from, ptrdiff_t n, ptrdiff_t planes, FC_REAL *to,
                                 FC_REAL divisor) {
    FC_(fc_vector) rows[FC_LANES];
    const FC_(fc_vector) none = (FC_(fc_vector)){0} - (maximum ? (FC_REAL)__builtin_inff() : 0);
#pragma GCC unroll 1
    for (int j = 0; j < FC_LANES; j++) {
        FC_(fc_vector) best = none;
        if (j < planes) {
            ptrdiff_t i = 0;
            while (i + FC_LANES <= n) { /* sums of 16 vectors, then of these: one long chain would drift */
                FC_(fc_vector) part = none;
                for (int v = 0; v < 16 && i + FC_LANES <= n; v++, i += FC_LANES) {
                    FC_FETCH(from + i);
                    part = FC_(fc_merge)(maximum, part, FC_(fc_load)(from + i));
                }
                best = FC_(fc_merge)(maximum, best, part);
            }
            if (i < n) {
                FC_(fc_vector) rest = FC_(fc_load_some)(from + i, n - i);
                if (maximum) rest = FC_(fc_choose)(FC_(fc_first)(n - i), rest, none);
                best = FC_(fc_merge)(maximum, best, rest);
            }
            from += n;
        }
        rows[j] = best;
    }
    FC_(fc_transpose)(rows);
    FC_(fc_vector) best = rows[0];
#pragma GCC unroll 16
    for (int j = 1; j < FC_LANES; j++) best = FC_(fc_merge)(maximum, best, rows[j]);
    FC_(fc_store_some)(to, maximum ? best : best / divisor, planes);
}

static inline void FC_(fc_planes)(int maximum, const FC_REAL *from, ptrdiff_t n, ptrdiff_t planes, FC_REAL *to,
                                  double divisor) {
    for (ptrdiff_t j = 0; j < planes; j += FC_LANES) {
        const ptrdiff_t some = planes - j < FC_LANES ? planes - j : FC_LANES;
        if (maximum) FC_(fc_planes_of)(1, from + j * n, n, some, to + j, 0);
        else FC_(fc_planes_of)(0, from + j * n, n, some, to + j, (FC_REAL)divisor);
    }
}

#include "pooling_around.h"
#include "pooling_backward.h"
#include "pooling_channels.h"

#undef FC_REAL
#undef FC_INT
#undef FC_
#undef FC_LANES

#endif /* FC_REAL */
