/*
 * Vectors of the instruction set that is being compiled for, in GCC's and Clang's vector extensions, and what
 * the kernels build on: the register tile and transposes. Everything exists for float (suffix _f32) and
 * double (_f64): the file includes itself once for each.
 *
 * All functions are static: each instruction set is compiled into its own modules from this one source, and
 * a shared symbol would let the linker hand AVX-512 code to a processor without it.
 */
#ifndef FC_REAL

#ifndef FASTCONV_SIMD_H
#define FASTCONV_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

/* Rows of the register tile: with two vectors of sums a row, two of b and one broadcast, 31 of AVX-512's 32
   registers and 15 of the 16 of AVX2 and SSE are in use. */
#if defined(__AVX512F__)
#define FC_BYTES 64
#define FC_ROWS 14
#define FC_EACH_ROWS(DO) \
    DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
#else
#if defined(__AVX__)
#define FC_BYTES 32
#else
#define FC_BYTES 16
#endif
#define FC_ROWS 6
#define FC_EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#endif

/* Rows of the two sets of the dots tile: their products, one set and one row of the other fit the registers. */
#define FC_DOTS_4(DO, K) DO(K, 1) DO(K, 2) DO(K, 3) DO(K, 4)
#if FC_BYTES == 64
#define FC_DOTS_KS 4
#define FC_DOTS_LS 6
#define FC_DOTS_6(DO, K) FC_DOTS_4(DO, K) DO(K, 5) DO(K, 6)
#define FC_EACH_DOTS(DO) FC_DOTS_6(DO, 1) FC_DOTS_6(DO, 2) FC_DOTS_6(DO, 3) FC_DOTS_6(DO, 4)
#else
#define FC_DOTS_KS 3
#define FC_DOTS_LS 4
#define FC_EACH_DOTS(DO) FC_DOTS_4(DO, 1) FC_DOTS_4(DO, 2) FC_DOTS_4(DO, 3)
#endif

/* Vectors of the line tile, for 1 to 4 rows: sums and the vectors of x fit the registers. */
#if FC_BYTES == 64
#define FC_LINE_VECTORS(ROWS) ((ROWS) <= 2 ? 8 : 6)
#else
#define FC_LINE_VECTORS(ROWS) ((ROWS) == 1 ? 8 : (ROWS) == 2 ? 4 : (ROWS) == 3 ? 3 : 2)
#endif

#define FC_INLINE static inline __attribute__((always_inline))

/* Asks for a cache line, into L2: what is asked for early must not drive out of L1 what is in use. */
FC_INLINE void fc_prefetch(const char *line) { __builtin_prefetch(line, 0, 2); }

/* Reads each line once, in order. The hardware fetches such a stream as fast as memory gives it, and nothing of what
   goes down the columns of a plane: who does that touches the plane first. */
static inline void fc_touch(const void *from, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) (void)*((const volatile char *)from + i);
}

/* Lists of lanes, for constant shuffles. */
#define FC_LIST_2(M, D) M(0, D), M(1, D)
#define FC_LIST_4(M, D) FC_LIST_2(M, D), M(2, D), M(3, D)
#define FC_LIST_8(M, D) FC_LIST_4(M, D), M(4, D), M(5, D), M(6, D), M(7, D)
#define FC_LIST_16(M, D) FC_LIST_8(M, D), M(8, D), M(9, D), M(10, D), M(11, D), M(12, D), M(13, D), M(14, D), M(15, D)
#define FC_TWICE(L, D) (2 * (L))
#define FC_NUMBERED(L, D) (L)
#define FC_PASTE_(A, B) A##B
#define FC_PASTE(A, B) FC_PASTE_(A, B)

#if defined(__clang__)
#define FC_SHUFFLE(X, Y, LANES, M, D) __builtin_shufflevector(X, Y, FC_PASTE(FC_LIST_, FC_LANES)(M, D))
#else
#define FC_SHUFFLE(X, Y, LANES, M, D) __builtin_shuffle(X, Y, LANES)
#endif

#define FC_REAL float
#define FC_INT int32_t
#define FC_(NAME) NAME##_f32
#if FC_BYTES == 64
#define FC_LANES 16
#define FC_MASKED_LOAD(MASK, FROM) _mm512_maskz_loadu_ps((__mmask16)(MASK), FROM)
#define FC_MASKED_STORE(TO, MASK, X) _mm512_mask_storeu_ps(TO, (__mmask16)(MASK), (__m512)(X))
#elif FC_BYTES == 32
#define FC_LANES 8
#define FC_MASKED_LOAD(MASK, FROM) _mm256_maskload_ps(FROM, (__m256i)(MASK))
#define FC_MASKED_STORE(TO, MASK, X) _mm256_maskstore_ps(TO, (__m256i)(MASK), (__m256)(X))
#else
#define FC_LANES 4
#endif
#include "simd.h"

#define FC_REAL double
#define FC_INT int64_t
#define FC_(NAME) NAME##_f64
#if FC_BYTES == 64
#define FC_LANES 8
#define FC_MASKED_LOAD(MASK, FROM) _mm512_maskz_loadu_pd((__mmask8)(MASK), FROM)
#define FC_MASKED_STORE(TO, MASK, X) _mm512_mask_storeu_pd(TO, (__mmask8)(MASK), (__m512d)(X))
#elif FC_BYTES == 32
#define FC_LANES 4
#define FC_MASKED_LOAD(MASK, FROM) _mm256_maskload_pd(FROM, (__m256i)(MASK))
#define FC_MASKED_STORE(TO, MASK, X) _mm256_maskstore_pd(TO, (__m256i)(MASK), (__m256d)(X))
#else
#define FC_LANES 2
#endif
#include "simd.h"

#endif /* FASTCONV_SIMD_H */

#else /* For one FC_REAL, with FC_INT of its size, FC_LANES in a vector, and FC_(name) */

typedef FC_REAL FC_(fc_vector) __attribute__((vector_size(FC_BYTES)));
typedef FC_INT FC_(fc_integers) __attribute__((vector_size(FC_BYTES)));
/* At any address, and beside any other type. */
typedef FC_REAL FC_(fc_memory) __attribute__((vector_size(FC_BYTES), aligned(sizeof(FC_REAL)), may_alias));

FC_INLINE FC_(fc_vector) FC_(fc_load)(const FC_REAL *from) { return *(const FC_(fc_memory) *)from; }
FC_INLINE void FC_(fc_store)(FC_REAL *to, FC_(fc_vector) x) { *(FC_(fc_memory) *)to = x; }

/* The first `count` elements alone, if fewer than a vector; the others are 0 and untouched. Masks where the
   instruction set has them: a memcpy of unknown length is a call, and tails are everywhere in 14 x 14 maps. */
FC_INLINE FC_(fc_vector) FC_(fc_load_some)(const FC_REAL *from, ptrdiff_t count) {
    if (count >= FC_LANES) return FC_(fc_load)(from);
#if FC_BYTES == 64
    return (FC_(fc_vector))FC_MASKED_LOAD((1u << count) - 1, from);
#else
    FC_(fc_vector) x = {0};
    memcpy(&x, from, (size_t)count * sizeof(FC_REAL));
    return x;
#endif
}

FC_INLINE void FC_(fc_store_some)(FC_REAL *to, FC_(fc_vector) x, ptrdiff_t count) {
    if (count >= FC_LANES) FC_(fc_store)(to, x);
#if FC_BYTES == 64
    else FC_MASKED_STORE(to, (1u << count) - 1, x);
#else
    else memcpy(to, &x, (size_t)count * sizeof(FC_REAL));
#endif
}

/* Elements from[0:count] in the lanes from `first` on, the others 0; and those lanes into to[0:count]. */
FC_INLINE FC_(fc_vector) FC_(fc_load_lanes)(const FC_REAL *from, ptrdiff_t first, ptrdiff_t count) {
#if FC_BYTES == 64
    return (FC_(fc_vector))FC_MASKED_LOAD(((1u << count) - 1) << first, from - first);
#else
    FC_(fc_vector) x = {0};
    memcpy((FC_REAL *)&x + first, from, (size_t)count * sizeof(FC_REAL));
    return x;
#endif
}

FC_INLINE void FC_(fc_store_lanes)(FC_REAL *to, FC_(fc_vector) x, ptrdiff_t first, ptrdiff_t count) {
#if FC_BYTES == 64
    FC_MASKED_STORE(to - first, ((1u << count) - 1) << first, x);
#else
    memcpy(to, (const FC_REAL *)&x + first, (size_t)count * sizeof(FC_REAL));
#endif
}

/* The same for many accesses: where the instruction set has masks, one that is made once. `from` and `to` are the place
   of lane 0, whether it is accessed or not. */
#if FC_BYTES == 64
typedef unsigned FC_(fc_span);
#elif FC_BYTES == 32
typedef FC_(fc_integers) FC_(fc_span);
#else
typedef struct {
    ptrdiff_t first, count;
} FC_(fc_span);
#endif

FC_INLINE FC_(fc_span) FC_(fc_span_of)(ptrdiff_t first, ptrdiff_t count) {
    if (count > FC_LANES - first) count = FC_LANES - first;
#if FC_BYTES == 64
    return ((1u << count) - 1) << first;
#elif FC_BYTES == 32
    const FC_(fc_integers) lane = {FC_PASTE(FC_LIST_, FC_LANES)(FC_NUMBERED, 0)};
    return (lane >= (FC_INT)first) & (lane < (FC_INT)(first + count));
#else
    return (FC_(fc_span)){first, count};
#endif
}

FC_INLINE FC_(fc_vector) FC_(fc_load_span)(const FC_REAL *from, FC_(fc_span) span) {
#if FC_BYTES >= 32
    return (FC_(fc_vector))FC_MASKED_LOAD(span, from);
#else
    if (span.count == FC_LANES) return FC_(fc_load)(from);
    return FC_(fc_load_lanes)(from + span.first, span.first, span.count);
#endif
}

FC_INLINE void FC_(fc_store_span)(FC_REAL *to, FC_(fc_vector) x, FC_(fc_span) span) {
#if FC_BYTES >= 32
    FC_MASKED_STORE(to, span, x);
#else
    if (span.count == FC_LANES) FC_(fc_store)(to, x);
    else FC_(fc_store_lanes)(to + span.first, x, span.first, span.count);
#endif
}

/* x below 0 becomes 0; NaN stays. */
FC_INLINE FC_(fc_vector) FC_(fc_relu)(FC_(fc_vector) x) {
    return (FC_(fc_vector))((FC_(fc_integers))x & ~(x < 0));
}

/* -- The register tile ------------------------------------------------------------------------------------
 * c[i][:] (+)= sum over l < count of a[offsets[l] + i] * b[l][:], for i < rows and one or two vectors of
 * columns; rows of b are b_step elements apart, those of c c_step.
 * The sum starts from 0 and what c held is added at the end: long sums are thereby made in chunks, and c is
 * not read unless `add`. The loop over l must not be unrolled (gcc then spills the sums), all others must.
 */
FC_INLINE void FC_(fc_tile_of)(const int rows, const int vectors, const FC_REAL *a, const ptrdiff_t *offsets,
                               ptrdiff_t count, const FC_REAL *b, ptrdiff_t b_step, FC_REAL *c,
                               ptrdiff_t c_step, int add) {
    FC_(fc_vector) sums[FC_ROWS][2] = {{{0}}};
#pragma GCC unroll 1
    for (ptrdiff_t l = 0; l < count; l++) {
        const FC_REAL *x = a + offsets[l];
        __builtin_prefetch(x + 2 * rows - 1, 0, 3); /* for the next tile of the row */
        const FC_(fc_vector) b0 = FC_(fc_load)(b), b1 = vectors > 1 ? FC_(fc_load)(b + FC_LANES) : b0;
        b += b_step;
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            sums[i][0] += x[i] * b0;
            if (vectors > 1) sums[i][1] += x[i] * b1;
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            FC_REAL *to = c + i * c_step + v * FC_LANES;
            FC_(fc_store)(to, add ? FC_(fc_load)(to) + sums[i][v] : sums[i][v]);
        }
}

static inline void FC_(fc_tile)(ptrdiff_t rows, int vectors, const FC_REAL *a, const ptrdiff_t *offsets,
                                ptrdiff_t count, const FC_REAL *b, ptrdiff_t b_step, FC_REAL *c,
                                ptrdiff_t c_step, int add) {
#define FC_CASE(R)                                                                          \
    case 2 * R: FC_(fc_tile_of)(R, 1, a, offsets, count, b, b_step, c, c_step, add); break; \
    case 2 * R + 1: FC_(fc_tile_of)(R, 2, a, offsets, count, b, b_step, c, c_step, add); break;
    switch (2 * (int)rows + (vectors > 1)) { FC_EACH_ROWS(FC_CASE) }
#undef FC_CASE
}

/* -- The line tile ----------------------------------------------------------------------------------------
 * c[i][:] (+)= sum over l < count of b[l * b_step + i] * x[offsets[l]:], for i < rows <= 4 and vectors <=
 * FC_LINE_VECTORS(rows) whole vectors: the other way round, for few rows that are long.
 */
FC_INLINE void FC_(fc_line_of)(const int rows, const int vectors, const FC_REAL *x, const ptrdiff_t *offsets,
                               ptrdiff_t count, const FC_REAL *b, ptrdiff_t b_step, FC_REAL *c,
                               ptrdiff_t c_step, int add) {
    FC_(fc_vector) sums[4][8] = {{{0}}};
#pragma GCC unroll 1
    for (ptrdiff_t l = 0; l < count; l++) {
        const FC_REAL *from = x + offsets[l];
        FC_(fc_vector) values[8];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) values[v] = FC_(fc_load)(from + v * FC_LANES);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sums[i][v] += b[i] * values[v];
        b += b_step;
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            FC_REAL *to = c + i * c_step + v * FC_LANES;
            FC_(fc_store)(to, add ? FC_(fc_load)(to) + sums[i][v] : sums[i][v]);
        }
}

static inline void FC_(fc_line)(ptrdiff_t rows, ptrdiff_t vectors, const FC_REAL *x, const ptrdiff_t *offsets,
                                ptrdiff_t count, const FC_REAL *b, ptrdiff_t b_step, FC_REAL *c,
                                ptrdiff_t c_step, int add) {
#define FC_CASE(R, V)                                                                                   \
    case 8 * R + V - 1:                                                                                 \
        FC_(fc_line_of)(R, V <= FC_LINE_VECTORS(R) ? V : 1, x, offsets, count, b, b_step, c, c_step, add); \
        break;
#define FC_CASES(R) \
    FC_CASE(R, 1) FC_CASE(R, 2) FC_CASE(R, 3) FC_CASE(R, 4) FC_CASE(R, 5) FC_CASE(R, 6) FC_CASE(R, 7) FC_CASE(R, 8)
    switch (8 * (int)rows + (int)vectors - 1) { FC_CASES(1) FC_CASES(2) FC_CASES(3) FC_CASES(4) }
#undef FC_CASES
#undef FC_CASE
}

/* -- Transposes ------------------------------------------------------------------------------------------- */

/* Swaps the off-diagonal blocks of D x D lanes in each pair of rows D apart. */
#define FC_UPPER(L, D) ((L) & (D) ? FC_LANES + (L) - (D) : (L))
#define FC_LOWER(L, D) ((L) & (D) ? FC_LANES + (L) : (L) + (D))
#define FC_SWAP(D)                                                                             \
    do {                                                                                       \
        const FC_(fc_integers) upper = {FC_PASTE(FC_LIST_, FC_LANES)(FC_UPPER, D)};            \
        const FC_(fc_integers) lower = {FC_PASTE(FC_LIST_, FC_LANES)(FC_LOWER, D)};            \
        _Pragma("GCC unroll 16") for (int i = 0; i < FC_LANES; i++) if (!(i & D)) {            \
            const FC_(fc_vector) x = rows[i], y = rows[i + D];                                 \
            rows[i] = FC_SHUFFLE(x, y, upper, FC_UPPER, D);                                    \
            rows[i + D] = FC_SHUFFLE(x, y, lower, FC_LOWER, D);                                \
        }                                                                                      \
    } while (0)
FC_INLINE void FC_(fc_transpose)(FC_(fc_vector) rows[FC_LANES]) {
    FC_SWAP(1);
#if FC_LANES > 2
    FC_SWAP(2);
#endif
#if FC_LANES > 4
    FC_SWAP(4);
#endif
#if FC_LANES > 8
    FC_SWAP(8);
#endif
}
#undef FC_SWAP
#undef FC_UPPER
#undef FC_LOWER

/* to[j][i] = from[i][j] for i < n, j < m, both at most FC_LANES. Reads and writes nothing else. */
static inline void FC_(fc_transpose_block)(const FC_REAL *from, ptrdiff_t from_step, FC_REAL *to,
                                           ptrdiff_t to_step, ptrdiff_t n, ptrdiff_t m) {
    FC_(fc_vector) rows[FC_LANES];
    if (n == FC_LANES && m == FC_LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < FC_LANES; i++) rows[i] = FC_(fc_load)(from + i * from_step);
        FC_(fc_transpose)(rows);
#pragma GCC unroll 16
        for (int j = 0; j < FC_LANES; j++) FC_(fc_store)(to + j * to_step, rows[j]);
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < FC_LANES; i++)
            rows[i] = i < n ? FC_(fc_load_some)(from + i * from_step, m) : (FC_(fc_vector)){0};
        FC_(fc_transpose)(rows);
#pragma GCC unroll 16
        for (int j = 0; j < FC_LANES; j++)
            if (j < m) FC_(fc_store_some)(to + j * to_step, rows[j], n);
    }
}

/* to[j][i] = from[i][j] for any n and m. */
static inline void FC_(fc_transpose_all)(const FC_REAL *from, ptrdiff_t from_step, FC_REAL *to,
                                         ptrdiff_t to_step, ptrdiff_t n, ptrdiff_t m) {
    for (ptrdiff_t j = 0; j < m; j += FC_LANES)
        for (ptrdiff_t i = 0; i < n; i += FC_LANES)
            FC_(fc_transpose_block)(from + i * from_step + j, from_step, to + j * to_step + i, to_step,
                                    n - i < FC_LANES ? n - i : FC_LANES, m - j < FC_LANES ? m - j : FC_LANES);
}

/* to[i] = from[i] + bias, then the activation, for i < n. */
static inline void FC_(fc_finish)(const FC_REAL *from, FC_REAL *to, ptrdiff_t n, FC_REAL bias, int relu) {
    for (ptrdiff_t i = 0; i < n; i += FC_LANES) {
        FC_(fc_vector) x = FC_(fc_load_some)(from + i, n - i) + bias;
        FC_(fc_store_some)(to + i, relu ? FC_(fc_relu)(x) : x, n - i);
    }
}

/* Whether any of n elements is an infinity or NaN. */
static inline int FC_(fc_not_finite)(const FC_REAL *x, ptrdiff_t n) {
    FC_(fc_vector) sums[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * FC_LANES <= n; i += 4 * FC_LANES)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            const FC_(fc_vector) y = FC_(fc_load)(x + i + v * FC_LANES);
            sums[v] += y - y;
        }
    FC_(fc_vector) sum = sums[0] + sums[1] + sums[2] + sums[3];
    for (; i < n; i += FC_LANES) {
        const FC_(fc_vector) y = FC_(fc_load_some)(x + i, n - i);
        sum += y - y;
    }
    FC_REAL total = 0;
    for (int lane = 0; lane < FC_LANES; lane++) total += sum[lane];
    return total != total;
}

/* Adds bias[0:width] to n rows of `width` (whole vectors) at `rows`, then the activation; in place. */
static inline void FC_(fc_epilogue)(FC_REAL *rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t width,
                                    const FC_REAL *bias, int relu) {
    for (ptrdiff_t i = 0; i < n; i++)
        for (ptrdiff_t j = 0; j < width; j += FC_LANES) {
            FC_(fc_vector) x = FC_(fc_load)(rows + i * step + j);
            if (bias) x += FC_(fc_load)(bias + j);
            FC_(fc_store)(rows + i * step + j, relu ? FC_(fc_relu)(x) : x);
        }
}

#include "dots.h"
#include "planes.h"

#undef FC_REAL
#undef FC_INT
#undef FC_
#undef FC_LANES
#undef FC_MASKED_LOAD
#undef FC_MASKED_STORE

#endif /* FC_REAL */
