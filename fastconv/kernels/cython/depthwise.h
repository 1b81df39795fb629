/*
 * Depthwise convolution of single planes: rows of a plane, or of several small ones side by side, lie with their
 * padding in a buffer that stays in L1, and vectors run along them.
 *
 * A row of the buffer is one segment for each column residue of the stride (evens, then odds), so that every tap is
 * a contiguous shift. Behind the data of a segment follow zeros, at least as many as any tap reads beyond either
 * end: they are the padding behind these data and before the next ones. In a vector, planes narrower than half of
 * it share a row: plane g from lane g * slot on, and so does its weight in the vectors of weights.
 *
 * The file includes itself once for each type.
 */
#ifndef FC_REAL

#ifndef FASTCONV_DEPTHWISE_H
#define FASTCONV_DEPTHWISE_H

#include "simd.h"

/* Keeps a vector in a register: gcc would load it again for each product, which misaligned loads cannot afford
   (3x3: 27 loads grow to 63, twice the time). */
#if defined(__AVX512F__)
#define FC_HOLD(X) __asm__("" : "+v"(X))
#elif defined(__x86_64__) || defined(__i386__)
#define FC_HOLD(X) __asm__("" : "+x"(X))
#elif defined(__aarch64__)
#define FC_HOLD(X) __asm__("" : "+w"(X))
#else
#define FC_HOLD(X) (void)(X)
#endif

/* Rows of a tile: as many as share what they load, and fit the registers beside the weights of a kernel column. */
#if FC_BYTES == 64
enum { FC_TALL = 8, FC_PAIRS = 4 };
#define FC_EACH_TALL(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8)
#define FC_EACH_PAIRS(DO) DO(1) DO(2) DO(3) DO(4)
enum { FC_MOST_SMALL = 7 };
#else
enum { FC_TALL = 4, FC_PAIRS = 2 };
#define FC_EACH_TALL(DO) DO(1) DO(2) DO(3) DO(4)
#define FC_EACH_PAIRS(DO) DO(1) DO(2)
enum { FC_MOST_SMALL = 4 };
#endif

/* One block of rows of the planes that share a buffer. Distances are in elements. */
typedef struct {
    const void *x;             /* in the buffer: tap (0, 0) of the first destination pixel */
    ptrdiff_t pitch, odd;      /* from row to row; stride 2: from the place of tap s = 0 to that of s = 1 */
    const ptrdiff_t *places;   /* any other kernel: place of each tap behind x, */
    ptrdiff_t taps, row_step;  /* their number, and what a row of the destination adds to all of them */
    const void *weights;       /* vectors, [s][r] or [tap]; */
    const void *weight;        /* and of 3 x 3 where they lie: tap (0, 0) of the first plane, */
    ptrdiff_t weight_step, weight_plane; /* to the next tap (backwards if they are turned), to that of the next plane */
    const void *bias;          /* one vector */
    void *to;                  /* first row of the first plane of the destination (its gradient: read) */
    ptrdiff_t to_row, to_plane;
    ptrdiff_t rows, columns;   /* of the destination */
    ptrdiff_t planes, slot;
    ptrdiff_t kernel, stride;  /* of the tiles written out below: 3, 5 or 7, square; 0: any */
    ptrdiff_t relu;
    const void *from;          /* without a buffer: row 0 of the first plane of the source, */
    ptrdiff_t first;           /* its first row that the block reads, */
    ptrdiff_t from_row, from_plane, from_rows, from_columns;
    ptrdiff_t images, from_image, to_image; /* whose products are summed, and from one to the next */
} fc_planes;

#define FC_REAL float
#define FC_INT int32_t
#define FC_(NAME) NAME##_f32
#define FC_LANES (FC_BYTES / 4)
#if FC_BYTES == 64
#define FC_LIST(M) FC_LIST_16(M, 0)
#elif FC_BYTES == 32
#define FC_LIST(M) FC_LIST_8(M, 0)
#else
#define FC_LIST(M) FC_LIST_4(M, 0)
#endif
#include "depthwise.h"

#define FC_REAL double
#define FC_INT int64_t
#define FC_(NAME) NAME##_f64
#define FC_LANES (FC_BYTES / 8)
#if FC_BYTES == 64
#define FC_LIST(M) FC_LIST_8(M, 0)
#elif FC_BYTES == 32
#define FC_LIST(M) FC_LIST_4(M, 0)
#else
#define FC_LIST(M) FC_LIST_2(M, 0)
#endif
#include "depthwise.h"

#endif /* FASTCONV_DEPTHWISE_H */

#else /* For one FC_REAL */

#define FC_VECTOR FC_(fc_vector)
#define FC_INTEGERS FC_(fc_integers)

#if defined(__clang__)
#define FC_MIX(X, Y, M) __builtin_shufflevector(X, Y, FC_LIST(M))
#else
#define FC_MIX(X, Y, M) __builtin_shuffle(X, Y, (const FC_INTEGERS){FC_LIST(M)})
#endif
#define FC_EVENS(L, D) (2 * (L))
#define FC_ODDS(L, D) (2 * (L) + 1)
#define FC_FIRST_PAIRS(L, D) ((L) / 2 + (L) % 2 * FC_LANES)
#define FC_LAST_PAIRS(L, D) ((L) / 2 + (L) % 2 * FC_LANES + FC_LANES / 2)
#define FC_NUMBER(L, D) (L)
/* Of two vectors in a row, the one that begins D lanes on in the first, or D lanes back from the second. */
#define FC_ON_1(L, D) (((L) + 1) % (2 * FC_LANES))
#define FC_ON_2(L, D) (((L) + 2) % (2 * FC_LANES))
#define FC_ON_3(L, D) (((L) + 3) % (2 * FC_LANES))
#define FC_BACK_1(L, D) (((L) + FC_LANES - 1) % (2 * FC_LANES))
#define FC_BACK_2(L, D) (((L) + FC_LANES - 2) % (2 * FC_LANES))
#define FC_BACK_3(L, D) (((L) + 3 * FC_LANES - 3) % (2 * FC_LANES))

/* -- The buffer ------------------------------------------------------------------------------------------- */

/* The elements from..from + n in whole vectors, of which n may be none or beyond the vector. */
FC_INLINE FC_VECTOR FC_(fc_load_most)(const FC_REAL *from, ptrdiff_t n) {
    return n > 0 ? FC_(fc_load_some)(from, n) : (FC_VECTOR){0};
}

/* A segment: n elements and zeros up to `length`, whole vectors. */
FC_INLINE void FC_(fc_fill_line)(FC_REAL *to, const FC_REAL *from, ptrdiff_t n, ptrdiff_t length) {
    ptrdiff_t i = 0;
    for (; i + FC_LANES <= n; i += FC_LANES) FC_(fc_store)(to + i, FC_(fc_load)(from + i));
    for (; i < length; i += FC_LANES) FC_(fc_store)(to + i, FC_(fc_load_most)(from + i, n - i));
}

/* Two segments: the even and the odd ones of n elements. */
FC_INLINE void FC_(fc_fill_halves)(FC_REAL *even, FC_REAL *odd, const FC_REAL *from, ptrdiff_t n, ptrdiff_t length) {
    for (ptrdiff_t i = 0; i < length; i += FC_LANES) {
        const FC_VECTOR x = FC_(fc_load_most)(from + 2 * i, n - 2 * i);
        const FC_VECTOR y = FC_(fc_load_most)(from + 2 * i + FC_LANES, n - 2 * i - FC_LANES);
        FC_(fc_store)(even + i, FC_MIX(x, y, FC_EVENS));
        FC_(fc_store)(odd + i, FC_MIX(x, y, FC_ODDS));
    }
}

/*
 * `rows` rows of the buffer from row `first` of the source on, where they exist, else zeros. A phase is a segment:
 * phases[2 * f] is its first column of the source, phases[2 * f + 1] its number of columns, each `stride` apart.
 */
static inline void FC_(fc_fill_planes)(FC_REAL *to, const FC_REAL *from, ptrdiff_t plane_step, ptrdiff_t row_step,
                                       ptrdiff_t first, ptrdiff_t rows, ptrdiff_t source_rows, ptrdiff_t planes,
                                       ptrdiff_t slot, const ptrdiff_t *phases, ptrdiff_t phase_count,
                                       ptrdiff_t stride, ptrdiff_t segment, ptrdiff_t lead) {
    for (ptrdiff_t i = -lead; i < 0; i += FC_LANES) FC_(fc_store)(to + i, (FC_VECTOR){0});
    for (ptrdiff_t h = first; h < first + rows; h++, to += phase_count * segment) {
        const FC_REAL *row = from + h * row_step;
        if (h < 0 || h >= source_rows) {
            for (ptrdiff_t i = 0; i < phase_count * segment; i += FC_LANES) FC_(fc_store)(to + i, (FC_VECTOR){0});
        } else if (stride == 1 && planes == 1) {
            FC_(fc_fill_line)(to, row + phases[0], phases[1], segment);
        } else if (stride == 1) {
            FC_VECTOR x = FC_(fc_load_lanes)(row + phases[0], 0, phases[1]);
            for (ptrdiff_t g = 1; g < planes; g++)
                x = (FC_VECTOR)((FC_INTEGERS)x | (FC_INTEGERS)FC_(fc_load_lanes)(row + g * plane_step + phases[0],
                                                                                 g * slot, phases[1]));
            FC_(fc_store)(to, x);
        } else if (stride == 2 && phase_count == 2 && planes == 1) {
            const int swapped = phases[0] > phases[2];
            FC_(fc_fill_halves)(to + (swapped ? segment : 0), to + (swapped ? 0 : segment),
                                row + phases[swapped ? 2 : 0], phases[1] + phases[3], segment);
        } else if (stride == 2 && phase_count == 2 && 2 * slot == FC_LANES && planes == 2 &&
                   phases[1] + phases[3] <= FC_LANES) {
            const int swapped = phases[0] > phases[2];
            const ptrdiff_t column = phases[swapped ? 2 : 0], n = phases[1] + phases[3];
            const FC_VECTOR x = FC_(fc_load_some)(row + column, n), y = FC_(fc_load_some)(row + plane_step + column, n);
            FC_(fc_store)(to + (swapped ? segment : 0), FC_MIX(x, y, FC_EVENS));
            FC_(fc_store)(to + (swapped ? 0 : segment), FC_MIX(x, y, FC_ODDS));
        } else {
            for (ptrdiff_t i = 0; i < phase_count * segment; i += FC_LANES) FC_(fc_store)(to + i, (FC_VECTOR){0});
            for (ptrdiff_t f = 0; f < phase_count; f++)
                for (ptrdiff_t g = 0; g < planes; g++)
                    for (ptrdiff_t i = 0; i < phases[2 * f + 1]; i++)
                        to[f * segment + g * slot + i] = row[g * plane_step + phases[2 * f] + i * stride];
        }
    }
}

/* to[t] = the vector with from[g * step + order[t]] in the lanes of plane g. */
static inline void FC_(fc_spread)(FC_REAL *to, const FC_REAL *from, const ptrdiff_t *order, ptrdiff_t taps,
                                  ptrdiff_t planes, ptrdiff_t step, ptrdiff_t slot) {
    const FC_INTEGERS lane = {FC_LIST(FC_NUMBER)};
    for (ptrdiff_t t = 0; t < taps; t++) {
        FC_VECTOR x = from[order[t]] - (FC_VECTOR){0}; /* - 0, not + 0: no addition, as -0 stays */
        for (ptrdiff_t g = 1; g < planes; g++) {
            const FC_VECTOR y = from[g * step + order[t]] - (FC_VECTOR){0};
            x = FC_(fc_select)(lane >= (FC_INT)(g * slot), y, x);
        }
        FC_(fc_store)(to + t * FC_LANES, x);
    }
}

/* The vectors w[s * 3 + r] of a 3 x 3 kernel, of one plane or of two side by side: into registers, as a plane of 7 x 7
   takes no longer than a table of them in memory. */
FC_INLINE void FC_(fc_three)(const int planes, const fc_planes *b, FC_VECTOR *w) {
    const FC_INTEGERS second = (FC_INTEGERS){FC_LIST(FC_NUMBER)} >= (FC_INT)b->slot;
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++) {
        const FC_REAL *at = (const FC_REAL *)b->weight + b->weight_step * (t % 3 * 3 + t / 3);
        w[t] = *at - (FC_VECTOR){0}; /* - 0, not + 0: no addition, as -0 stays */
        if (planes == 2) w[t] = FC_(fc_select)(second, at[b->weight_plane] - (FC_VECTOR){0}, w[t]);
    }
}

/* -- Gathering: forward, and grad_input of stride 1 -------------------------------------------------------- */

/* Adds column s of the kernel to tiles of `rows` rows: what is loaded serves all taps of the column. */
FC_INLINE void FC_(fc_gather_column)(const int rows, const int k, const int stride, const FC_REAL *x, ptrdiff_t pitch,
                                     const FC_VECTOR *w, FC_VECTOR *sums) {
#pragma GCC unroll 24
    for (int i = 0; i < (rows - 1) * stride + k; i++) {
        FC_VECTOR v = FC_(fc_load)(x + i * pitch);
        FC_HOLD(v);
#pragma GCC unroll 8
        for (int j = 0; j < rows; j++) {
            const int r = i - j * stride;
            if (r >= 0 && r < k) sums[j] += w[r] * v;
        }
    }
}

/* Writes rows of `count` pixels from column `i` on; all planes if there are several in a vector. */
FC_INLINE void FC_(fc_write_rows)(const int rows, const fc_planes *b, FC_REAL *to, ptrdiff_t count,
                                  const FC_VECTOR *sums) {
#pragma GCC unroll 8
    for (int j = 0; j < rows; j++) {
        const FC_VECTOR x = b->relu ? FC_(fc_relu)(sums[j]) : sums[j];
        FC_(fc_store_some)(to + j * b->to_row, x, count);
        for (ptrdiff_t g = 1; g < b->planes; g++)
            FC_(fc_store_lanes)(to + g * b->to_plane + j * b->to_row, x, g * b->slot, count);
    }
}

/* Rows j.. of a block. The last vector of a row ends with it, so that none is partial but in rows below a vector. */
FC_INLINE void FC_(fc_gather_rows)(const int rows, const int k, const int stride, const fc_planes *b, ptrdiff_t j) {
    const FC_REAL *x = (const FC_REAL *)b->x + j * (k ? stride * b->pitch : b->row_step);
    const FC_VECTOR *weights = (const FC_VECTOR *)b->weights, bias = *(const FC_VECTOR *)b->bias;
    FC_REAL *to = (FC_REAL *)b->to + j * b->to_row;
    FC_VECTOR w[9];
    if (k == 3)
#pragma GCC unroll 9
        for (int t = 0; t < 9; t++) w[t] = weights[t];
    for (ptrdiff_t i = 0;;) {
        FC_VECTOR sums[FC_TALL];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[r] = bias;
        if (k == 3) {
            FC_(fc_gather_column)(rows, 3, stride, x + i, b->pitch, w, sums);
            FC_(fc_gather_column)(rows, 3, stride, x + i + (stride == 1 ? 1 : b->odd), b->pitch, w + 3, sums);
            FC_(fc_gather_column)(rows, 3, stride, x + i + (stride == 1 ? 2 : 1), b->pitch, w + 6, sums);
        } else if (k) {
#pragma GCC unroll 1
            for (int s = 0; s < k; s++)
                FC_(fc_gather_column)(rows, k, stride, x + i + (stride == 1 ? s : s / 2 + s % 2 * b->odd), b->pitch,
                                      weights + s * k, sums);
        } else {
#pragma GCC unroll 1
            for (ptrdiff_t t = 0; t < b->taps; t++) {
                const FC_REAL *at = x + i + b->places[t];
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) sums[r] += weights[t] * FC_(fc_load)(at + r * b->row_step);
            }
        }
        FC_(fc_write_rows)(rows, b, to + i, b->columns, sums);
        if (i + FC_LANES >= b->columns) break;
        i = i + 2 * FC_LANES <= b->columns ? i + FC_LANES : b->columns - FC_LANES;
    }
}

FC_INLINE void FC_(fc_gather_all)(const int k, const int stride, const fc_planes *b) {
    ptrdiff_t tiles = (b->rows + FC_TALL - 1) / FC_TALL;
    for (ptrdiff_t j = 0; tiles > 0; tiles--) {
        const ptrdiff_t rows = (b->rows - j + tiles - 1) / tiles;
#define FC_CASE(R) case R: FC_(fc_gather_rows)(R, k, stride, b, j); break;
        switch (rows) { FC_EACH_TALL(FC_CASE) }
#undef FC_CASE
        j += rows;
    }
}

static inline void FC_(fc_gather)(const fc_planes *b) {
    switch (b->kernel * 2 + b->stride) {
    case 3 * 2 + 1: FC_(fc_gather_all)(3, 1, b); break;
    case 3 * 2 + 2: FC_(fc_gather_all)(3, 2, b); break;
    case 5 * 2 + 1: FC_(fc_gather_all)(5, 1, b); break;
    case 5 * 2 + 2: FC_(fc_gather_all)(5, 2, b); break;
    case 7 * 2 + 1: FC_(fc_gather_all)(7, 1, b); break;
    case 7 * 2 + 2: FC_(fc_gather_all)(7, 2, b); break;
    default: FC_(fc_gather_all)(0, 0, b);
    }
}

/* -- Scattering: grad_input of stride 2 --------------------------------------------------------------------
 * Destination pixel (2 j + a, 2 i + b) gathers from (j + t, i + u) through tap (a + odd - 2 t, b + odd - 2 u), odd
 * being the parity of the padding; so the four pixels of a pair of rows and columns share what they load.
 * x is the place of t at its least, u = 0.
 */
FC_INLINE void FC_(fc_scatter_tile)(const int rows, const int k, const int odd, const FC_REAL *x, ptrdiff_t pitch,
                                    const FC_VECTOR *w, FC_VECTOR (*sums)[2][2]) {
    const int least = -((k - 1 - odd) / 2);
#pragma GCC unroll 5
    for (int u = least; u <= odd; u++)
#pragma GCC unroll 8
        for (int i = 0; i < rows + odd - least; i++) {
            FC_VECTOR v = FC_(fc_load)(x + i * pitch + u);
            FC_HOLD(v);
#pragma GCC unroll 4
            for (int j = 0; j < rows; j++)
#pragma GCC unroll 4
                for (int ab = 0; ab < 4; ab++) {
                    const int t = i - j + least, r = ab / 2 + odd - 2 * t, s = ab % 2 + odd - 2 * u;
                    if (t <= odd && r >= 0 && r < k && s >= 0 && s < k) sums[j][ab / 2][ab % 2] += w[s * k + r] * v;
                }
        }
}

FC_INLINE void FC_(fc_scatter_rows)(const int rows, const int k, const int odd, const fc_planes *b, ptrdiff_t j) {
    const FC_REAL *x = (const FC_REAL *)b->x + j * b->pitch;
    const FC_VECTOR *weights = (const FC_VECTOR *)b->weights, bias = *(const FC_VECTOR *)b->bias;
    FC_REAL *to = (FC_REAL *)b->to + 2 * j * b->to_row;
    FC_VECTOR w[9];
    if (k == 3)
#pragma GCC unroll 9
        for (int t = 0; t < 9; t++) w[t] = weights[t];
    for (ptrdiff_t i = 0;;) {
        FC_VECTOR sums[FC_PAIRS][2][2];
#pragma GCC unroll 16
        for (int a = 0; a < 4 * rows; a++) sums[a / 4][a / 2 % 2][a % 2] = bias;
        FC_(fc_scatter_tile)(rows, k, odd, x + i, b->pitch, k == 3 ? w : weights, sums);
#pragma GCC unroll 8
        for (int h = 0; h < 2 * rows; h++) {
            if (2 * j + h >= b->rows) break;
            FC_REAL *row = to + h * b->to_row + 2 * i;
            FC_VECTOR x0 = FC_MIX(sums[h / 2][h % 2][0], sums[h / 2][h % 2][1], FC_FIRST_PAIRS);
            FC_VECTOR x1 = FC_MIX(sums[h / 2][h % 2][0], sums[h / 2][h % 2][1], FC_LAST_PAIRS);
            if (b->relu) x0 = FC_(fc_relu)(x0), x1 = FC_(fc_relu)(x1);
            if (b->planes == 1) {
                FC_(fc_store_some)(row, x0, b->columns - 2 * i);
                if (b->columns - 2 * i > FC_LANES)
                    FC_(fc_store_some)(row + FC_LANES, x1, b->columns - 2 * i - FC_LANES);
            } else {
                for (ptrdiff_t g = 0; g < b->planes; g++)
                    FC_(fc_store_lanes)(row + g * b->to_plane, 2 * g * b->slot < FC_LANES ? x0 : x1,
                                        2 * g * b->slot % FC_LANES, b->columns);
            }
        }
        if (2 * i + 2 * FC_LANES >= b->columns) break;
        i = 2 * i + 4 * FC_LANES <= b->columns ? i + FC_LANES : (b->columns - 2 * FC_LANES + 1) / 2;
    }
}

FC_INLINE void FC_(fc_scatter_all)(const int k, const int odd, const fc_planes *b) {
    ptrdiff_t pairs = (b->rows + 1) / 2, tiles = (pairs + FC_PAIRS - 1) / FC_PAIRS;
    for (ptrdiff_t j = 0; tiles > 0; tiles--) {
        const ptrdiff_t rows = (pairs - j + tiles - 1) / tiles;
#define FC_CASE(R) case R: FC_(fc_scatter_rows)(R, k, odd, b, j); break;
        switch (rows) { FC_EACH_PAIRS(FC_CASE) }
#undef FC_CASE
        j += rows;
    }
}

/* b->odd is the parity of the padding. */
static inline void FC_(fc_scatter)(const fc_planes *b) {
    switch (b->kernel * 2 + b->odd) {
    case 3 * 2: FC_(fc_scatter_all)(3, 0, b); break;
    case 3 * 2 + 1: FC_(fc_scatter_all)(3, 1, b); break;
    case 5 * 2: FC_(fc_scatter_all)(5, 0, b); break;
    case 5 * 2 + 1: FC_(fc_scatter_all)(5, 1, b); break;
    case 7 * 2: FC_(fc_scatter_all)(7, 0, b); break;
    case 7 * 2 + 1: FC_(fc_scatter_all)(7, 1, b); break;
    }
}

#include "depthwise_small.h"
#include "depthwise_dots.h"
#include "depthwise_wide.h"

#undef FC_VECTOR
#undef FC_INTEGERS
#undef FC_MIX
#undef FC_EVENS
#undef FC_ODDS
#undef FC_FIRST_PAIRS
#undef FC_LAST_PAIRS
#undef FC_NUMBER
#undef FC_ON_1
#undef FC_ON_2
#undef FC_ON_3
#undef FC_BACK_1
#undef FC_BACK_2
#undef FC_BACK_3
#undef FC_REAL
#undef FC_INT
#undef FC_
#undef FC_LANES
#undef FC_LIST

#endif /* FC_REAL */
