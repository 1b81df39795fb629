/*
 * Winograd's transforms, on vectors over channels: whatever is done to one element of a tile is done to FC_LANES
 * channels of it. What a size F(m, 3) needs is in winograd_size.h, its matrices in what fastconv/winograd.py writes.
 * The file includes itself once for each type.
 */
#ifndef FC_REAL

#ifndef FASTCONV_WINOGRAD_H
#define FASTCONV_WINOGRAD_H

#include "simd.h"

/* Rows of u that are fetched before they are needed: measured, see winograd.pyx. */
#define FC_AHEAD_ROWS 16

#define FC_REAL float
#define FC_(NAME) NAME##_f32
#define FC_LANES (FC_BYTES / 4)
#include "winograd.h"

#define FC_REAL double
#define FC_(NAME) NAME##_f64
#define FC_LANES (FC_BYTES / 8)
#include "winograd.h"

#endif /* FASTCONV_WINOGRAD_H */

#else /* For one FC_REAL, with FC_LANES in a vector, and FC_(name) */

/* FC_LANES neighbours of a row of the source, of FC_LANES channels: to[column][channel]. Of the columns those from
   `first` on and before `last` exist, of the channels the first `channels`; all else is 0. Sixteen planes are too many
   streams for the hardware to fetch ahead: three vectors ahead by hand take 10 % from 64 channels of 224 x 224. */
FC_INLINE void FC_(fc_pixels_in)(const FC_REAL *from, ptrdiff_t c_step, ptrdiff_t w_step, ptrdiff_t channels,
                                 ptrdiff_t first, ptrdiff_t last, FC_REAL *to) {
    const FC_(fc_vector) zero = {0};
    if (c_step == 1) {
        for (ptrdiff_t j = 0; j < FC_LANES; j++)
            FC_(fc_store)(to + j * FC_LANES,
                          j >= first && j < last ? FC_(fc_load_some)(from + j * w_step, channels) : zero);
        return;
    }
    FC_(fc_vector) rows[FC_LANES];
    if (first == 0 && last == FC_LANES && channels >= FC_LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < FC_LANES; i++) {
            rows[i] = FC_(fc_load)(from + i * c_step);
            __builtin_prefetch(from + i * c_step + 3 * FC_LANES, 0, 3);
        }
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < FC_LANES; i++)
            rows[i] = i < channels && first < last
                          ? FC_(fc_load_lanes)(from + i * c_step + first, first, last - first) : zero;
    }
    FC_(fc_transpose)(rows);
#pragma GCC unroll 16
    for (int j = 0; j < FC_LANES; j++) FC_(fc_store)(to + j * FC_LANES, rows[j]);
}

/* The other way: n neighbours of a row of the destination, from[column][channel]. */
static inline void FC_(fc_pixels_out)(const FC_REAL *from, ptrdiff_t n, FC_REAL *to, ptrdiff_t c_step,
                                      ptrdiff_t w_step, ptrdiff_t channels) {
    if (w_step == 1) {
        FC_(fc_transpose_all)(from, FC_LANES, to, c_step, n, channels);
        return;
    }
    for (ptrdiff_t j = 0; j < n; j++) FC_(fc_store_some)(to + j * w_step, FC_(fc_load)(from + j * FC_LANES), channels);
}

/* -- The product ------------------------------------------------------------------------------------------
 * sums[i][:] = sum over channels of v[i][channel] * u[channel][:], for i < rows and one or two vectors of columns.
 * One chain for all channels: chains of 128, added up in memory, err less from 256 channels on, but took 4 to 8 % longer.
 * v is [block of channels][v_step / FC_LANES rows][channel of the block], u is [channel][2 vectors].
 */
FC_INLINE void FC_(fc_product_of)(const int rows, const int vectors, const FC_REAL *v, ptrdiff_t v_step,
                                  ptrdiff_t channels, const FC_REAL *u, FC_REAL *sums, ptrdiff_t sum_step) {
    FC_(fc_vector) c[FC_ROWS][2] = {{{0}}};
    while (channels > 0) {
        const FC_REAL *x = v, *end = v + (channels < FC_LANES ? channels : FC_LANES);
#pragma GCC unroll 1
        for (; x < end; x++) {
            __builtin_prefetch(u + FC_AHEAD_ROWS * 2 * FC_LANES, 0, 3);
            const FC_(fc_vector) u0 = FC_(fc_load)(u), u1 = vectors > 1 ? FC_(fc_load)(u + FC_LANES) : u0;
            if (vectors > 1) __builtin_prefetch(u + (FC_AHEAD_ROWS * 2 + 1) * FC_LANES, 0, 3);
            u += 2 * FC_LANES;
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++) {
                c[i][0] += x[i * FC_LANES] * u0;
                if (vectors > 1) c[i][1] += x[i * FC_LANES] * u1;
            }
        }
        v += v_step;
        channels -= FC_LANES;
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int k = 0; k < vectors; k++) FC_(fc_store)(sums + i * sum_step + k * FC_LANES, c[i][k]);
}

static inline void FC_(fc_product)(ptrdiff_t rows, int vectors, const FC_REAL *v, ptrdiff_t v_step,
                                   ptrdiff_t channels, const FC_REAL *u, FC_REAL *sums, ptrdiff_t sum_step) {
#define FC_CASE(R)                                                                              \
    case 2 * R: FC_(fc_product_of)(R, 1, v, v_step, channels, u, sums, sum_step); break;        \
    case 2 * R + 1: FC_(fc_product_of)(R, 2, v, v_step, channels, u, sums, sum_step); break;
    switch (2 * (int)rows + (vectors > 1)) { FC_EACH_ROWS(FC_CASE) }
#undef FC_CASE
}

/* sums[i][:] (+)= sum over tiles of v[tile][i] * d[tile][:], for the FC_OUTER_ROWS of i and one or two vectors: the
   product for grad_weight. v is [tile][FC_LANES], d is [tile][2 vectors]. */
#define FC_OUTER_ROWS (FC_LANES < (FC_BYTES == 64 ? 8 : 4) ? FC_LANES : (FC_BYTES == 64 ? 8 : 4))
FC_INLINE void FC_(fc_outer_of)(const int vectors, const FC_REAL *v, ptrdiff_t tiles, const FC_REAL *d, FC_REAL *sums,
                                int add) {
    FC_(fc_vector) c[FC_OUTER_ROWS][2] = {{{0}}};
#pragma GCC unroll 1
    for (ptrdiff_t tile = 0; tile < tiles; tile++, v += FC_LANES, d += 2 * FC_LANES) {
        const FC_(fc_vector) d0 = FC_(fc_load)(d), d1 = vectors > 1 ? FC_(fc_load)(d + FC_LANES) : d0;
#pragma GCC unroll 8
        for (int i = 0; i < FC_OUTER_ROWS; i++) {
            c[i][0] += v[i] * d0;
            if (vectors > 1) c[i][1] += v[i] * d1;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < FC_OUTER_ROWS; i++)
#pragma GCC unroll 2
        for (int k = 0; k < vectors; k++) {
            FC_REAL *to = sums + (2 * i + k) * FC_LANES;
            FC_(fc_store)(to, add ? FC_(fc_load)(to) + c[i][k] : c[i][k]);
        }
}

/* The same for all FC_LANES of i. */
static inline void FC_(fc_outer)(int vectors, const FC_REAL *v, ptrdiff_t tiles, const FC_REAL *d, FC_REAL *sums,
                                 int add) {
    for (int i = 0; i < FC_LANES; i += FC_OUTER_ROWS)
        if (vectors > 1) FC_(fc_outer_of)(2, v + i, tiles, d, sums + 2 * i * FC_LANES, add);
        else FC_(fc_outer_of)(1, v + i, tiles, d, sums + 2 * i * FC_LANES, add);
}

#include "winograd_matrices.h"

#define FC_SIZE 2
#include "winograd_size.h"
#define FC_SIZE 4
#include "winograd_size.h"
#define FC_SIZE 6
#include "winograd_size.h"

/* Which of them, by a variable. */
#define FC_BY_SIZE(NAME, ...)                            \
    switch (size) {                                      \
        case 2: FC_(NAME##_2)(__VA_ARGS__); break;       \
        case 4: FC_(NAME##_4)(__VA_ARGS__); break;       \
        default: FC_(NAME##_6)(__VA_ARGS__);             \
    }

static inline void FC_(fc_winograd_columns)(int size, int grad, const FC_REAL *from, ptrdiff_t c_step,
                                            ptrdiff_t h_step, ptrdiff_t w_step, ptrdiff_t channels, ptrdiff_t row,
                                            ptrdiff_t rows, ptrdiff_t column, ptrdiff_t columns, ptrdiff_t count,
                                            FC_REAL *to) {
    FC_BY_SIZE(fc_columns, grad, from, c_step, h_step, w_step, channels, row, rows, column, columns, count, to)
}

static inline void FC_(fc_winograd_tiles)(int size, int grad, const FC_REAL *columns, ptrdiff_t tiles, FC_REAL *to,
                                          ptrdiff_t f_step, ptrdiff_t t_step) {
    FC_BY_SIZE(fc_tiles, grad, columns, tiles, to, f_step, t_step)
}

static inline void FC_(fc_winograd_gradients)(int size, const FC_REAL *sums, ptrdiff_t f_step, FC_REAL *to) {
    FC_BY_SIZE(fc_gradients, sums, f_step, to)
}

static inline void FC_(fc_winograd_outputs)(int size, const FC_REAL *sums, ptrdiff_t tile_step, ptrdiff_t f_step,
                                            ptrdiff_t tiles, const FC_REAL *bias, int relu, FC_REAL *to,
                                            ptrdiff_t row_step) {
    FC_BY_SIZE(fc_outputs, sums, tile_step, f_step, tiles, bias, relu, to, row_step)
}

static inline void FC_(fc_winograd_filter)(int size, const FC_REAL *taps, int turned, FC_REAL *to, ptrdiff_t f_step) {
    FC_BY_SIZE(fc_filters, taps, turned, to, f_step)
}

#undef FC_BY_SIZE
#undef FC_OUTER_ROWS
#undef FC_REAL
#undef FC_
#undef FC_LANES

#endif /* FC_REAL */
