/*
 * Depthwise convolution of channels-last images: vectors run along the channels, a tap is one multiply-add for each.
 *
 * A run is some pixels of a row whose taps lie `source_step` elements apart, in one list: of each tap the source of
 * the first pixel and the weights, n channels of each. Vectors of the last channels are partial.
 * The file includes itself once for each type.
 */
#ifndef FC_REAL

#ifndef FASTCONV_DEPTHWISE_CHANNELS_H
#define FASTCONV_DEPTHWISE_CHANNELS_H

#include "simd.h"

/* Pixels of a run that gathers; with two vectors each they share the weights, and hide a multiply-add's latency. */
enum { FC_RUN = 4 };

#define FC_REAL float
#define FC_(NAME) NAME##_f32
#define FC_LANES (FC_BYTES / 4)
#include "depthwise_channels.h"

#define FC_REAL double
#define FC_(NAME) NAME##_f64
#define FC_LANES (FC_BYTES / 8)
#include "depthwise_channels.h"

#endif /* FASTCONV_DEPTHWISE_CHANNELS_H */

#else /* For one FC_REAL */

#define FC_VECTOR FC_(fc_vector)

FC_INLINE FC_VECTOR FC_(fc_load_channels)(const int some, const FC_REAL *from, ptrdiff_t n) {
    return some ? FC_(fc_load_some)(from, n) : FC_(fc_load)(from);
}

/* -- Gathering: forward and grad_input -------------------------------------------------------------------- */

/* Channels c.. of a run, `some`: the n that are left. */
FC_INLINE void FC_(fc_gather_vectors)(const int pixels, const int vectors, const int some,
                                      const FC_REAL *const *sources, const FC_REAL *const *weights, ptrdiff_t taps,
                                      ptrdiff_t source_step, const FC_REAL *bias, FC_REAL *to, ptrdiff_t to_step,
                                      ptrdiff_t c, ptrdiff_t n, int relu) {
    FC_VECTOR sums[FC_RUN][4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++) sums[i][v] = FC_(fc_load_channels)(some, bias + c + v * FC_LANES, n);
#pragma GCC unroll 1
    for (ptrdiff_t l = 0; l < taps; l++) {
        const FC_REAL *x = sources[l] + c, *w = weights[l] + c;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const FC_VECTOR weight = FC_(fc_load_channels)(some, w + v * FC_LANES, n);
#pragma GCC unroll 4
            for (int i = 0; i < pixels; i++)
                sums[i][v] += weight * FC_(fc_load_channels)(some, x + i * source_step + v * FC_LANES, n);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            FC_(fc_store_some)(to + i * to_step + c + v * FC_LANES,
                               relu ? FC_(fc_relu)(sums[i][v]) : sums[i][v], some ? n : FC_LANES);
}

FC_INLINE void FC_(fc_gather_channels)(const int pixels, const int vectors, const FC_REAL *const *sources,
                                       const FC_REAL *const *weights, ptrdiff_t taps, ptrdiff_t source_step,
                                       const FC_REAL *bias, FC_REAL *to, ptrdiff_t to_step, ptrdiff_t n, int relu) {
    ptrdiff_t c = 0;
#define FC_GATHER(VECTORS, SOME) \
    FC_(fc_gather_vectors)(pixels, VECTORS, SOME, sources, weights, taps, source_step, bias, to, to_step, c, n - c, relu)
    for (; c + vectors * FC_LANES <= n; c += vectors * FC_LANES) FC_GATHER(vectors, 0);
    for (; c + FC_LANES <= n; c += FC_LANES) FC_GATHER(1, 0);
    if (c < n) FC_GATHER(1, 1);
#undef FC_GATHER
}

/* A run of FC_RUN pixels or of one. */
static inline void FC_(fc_gather_run)(ptrdiff_t pixels, const FC_REAL *const *sources, const FC_REAL *const *weights,
                                      ptrdiff_t taps, ptrdiff_t source_step, const FC_REAL *bias, FC_REAL *to,
                                      ptrdiff_t to_step, ptrdiff_t n, int relu) {
    if (pixels == FC_RUN)
        FC_(fc_gather_channels)(FC_RUN, 2, sources, weights, taps, source_step, bias, to, to_step, n, relu);
    else
        FC_(fc_gather_channels)(1, 4, sources, weights, taps, source_step, bias, to, to_step, n, relu);
}

/* -- Products: grad_weight -------------------------------------------------------------------------------- */

/* sums[l * width] += the products of a run with tap l, of one vector of channels, of which `some` are there: n. */
FC_INLINE void FC_(fc_dot_taps)(const int taps, const int some, const FC_REAL *const *sources, ptrdiff_t source_step,
                                const FC_REAL *grad, ptrdiff_t grad_step, ptrdiff_t pixels, ptrdiff_t c, ptrdiff_t n,
                                FC_REAL *sums, ptrdiff_t width) {
    FC_VECTOR totals[9];
    const FC_REAL *x[9];
#pragma GCC unroll 9
    for (int l = 0; l < taps; l++)
        totals[l] = FC_(fc_load_channels)(some, sums + l * width + c, n), x[l] = sources[l] + c;
    grad += c;
#pragma GCC unroll 1
    for (ptrdiff_t i = 0; i < pixels; i++, grad += grad_step) {
        const FC_VECTOR g = FC_(fc_load_channels)(some, grad, n);
#pragma GCC unroll 9
        for (int l = 0; l < taps; l++) totals[l] += g * FC_(fc_load_channels)(some, x[l] + i * source_step, n);
    }
#pragma GCC unroll 9
    for (int l = 0; l < taps; l++) FC_(fc_store_some)(sums + l * width + c, totals[l], some ? n : FC_LANES);
}

static inline void FC_(fc_dot_run)(const FC_REAL *const *sources, ptrdiff_t taps, ptrdiff_t source_step,
                                   const FC_REAL *grad, ptrdiff_t grad_step, ptrdiff_t pixels, ptrdiff_t n,
                                   FC_REAL *sums, ptrdiff_t width) {
    for (ptrdiff_t c = 0; c < n; c += FC_LANES)
        for (ptrdiff_t l = 0; l < taps;) {
#define FC_DOT(TAPS)                                                                                              \
    do {                                                                                                          \
        if (c + FC_LANES <= n)                                                                                    \
            FC_(fc_dot_taps)(TAPS, 0, sources + l, source_step, grad, grad_step, pixels, c, n - c, sums + l * width, \
                             width);                                                                              \
        else                                                                                                      \
            FC_(fc_dot_taps)(TAPS, 1, sources + l, source_step, grad, grad_step, pixels, c, n - c, sums + l * width, \
                             width);                                                                              \
        l += TAPS;                                                                                                \
    } while (0)
            if (taps - l >= 9) FC_DOT(9);
            else if (taps - l >= 3) FC_DOT(3);
            else FC_DOT(1);
#undef FC_DOT
        }
}

#undef FC_VECTOR
#undef FC_REAL
#undef FC_
#undef FC_LANES

#endif /* FC_REAL */
