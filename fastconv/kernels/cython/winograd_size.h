/* What F(FC_SIZE, 3) does to tiles of FC_LANES channels. A part of winograd.h, which includes it once for each type
   and size; hence no guard. Rows and columns of a tile are its frequencies once it is transformed. */

#define FC_N (FC_SIZE + 2)
#define FC_OF_(NAME) FC_(NAME)
#define FC_OF(NAME) FC_OF_(FC_PASTE(NAME, FC_SIZE))

/* A row of tiles is transformed in two steps, columns first. Forward, a tile has FC_N rows of the source, of which 2
   belong to the next tile as well, and is multiplied by B^T; for grad_weight a tile of grad_output has FC_SIZE rows
   and is multiplied by A. `grad` tells which. */
#define FC_TILE(GRAD) ((GRAD) ? FC_SIZE : FC_N)
FC_INLINE void FC_OF(fc_into_)(const int grad, const FC_(fc_vector) *x, FC_(fc_vector) *y) {
    if (grad) FC_OF(fc_grad_)(x, y);
    else FC_OF(fc_input_)(x, y);
}

/* to[column][frequency of the rows][channel]. `from` is the element (0, 0) of the first channel; the tiles begin at
   `row` and `column` of it, which may lie outside. Writes whole vectors of columns, `count` and up to FC_LANES - 1
   more. */
FC_INLINE void FC_OF(fc_columns_of_)(const int grad, const FC_REAL *from, ptrdiff_t c_step, ptrdiff_t h_step,
                                     ptrdiff_t w_step, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows,
                                     ptrdiff_t column, ptrdiff_t columns, ptrdiff_t count, FC_REAL *to) {
    FC_REAL pixels[FC_N][FC_LANES * FC_LANES] __attribute__((aligned(FC_BYTES)));
    for (ptrdiff_t done = 0; done < count; done += FC_LANES) {
        const ptrdiff_t at = column + done, left = columns - at;
        const ptrdiff_t first = at < 0 ? (at < -FC_LANES ? FC_LANES : -at) : 0;
        const ptrdiff_t last = left < FC_LANES ? (left < first ? first : left) : FC_LANES;
        for (int i = 0; i < FC_TILE(grad); i++) {
            const ptrdiff_t h = row + i;
            if (h < 0 || h >= rows) memset(pixels[i], 0, sizeof(pixels[i]));
            else FC_(fc_pixels_in)(from + h * h_step + at * w_step, c_step, w_step, channels, first, last, pixels[i]);
        }
        for (int j = 0; j < FC_LANES; j++) {
            FC_(fc_vector) x[FC_N], y[FC_N];
#pragma GCC unroll 8
            for (int i = 0; i < FC_TILE(grad); i++) x[i] = FC_(fc_load)(pixels[i] + j * FC_LANES);
            FC_OF(fc_into_)(grad, x, y);
#pragma GCC unroll 8
            for (int i = 0; i < FC_N; i++) FC_(fc_store)(to + ((done + j) * FC_N + i) * FC_LANES, y[i]);
        }
    }
}

/* Tiles of such columns: to[frequency][tile], t_step apart. */
FC_INLINE void FC_OF(fc_tiles_of_)(const int grad, const FC_REAL *columns, ptrdiff_t tiles, FC_REAL *to,
                                   ptrdiff_t f_step, ptrdiff_t t_step) {
    for (ptrdiff_t tile = 0; tile < tiles; tile++, columns += FC_SIZE * FC_N * FC_LANES, to += t_step)
#pragma GCC unroll 1
        for (int i = 0; i < FC_N; i++) {
            FC_(fc_vector) x[FC_N], y[FC_N];
#pragma GCC unroll 8
            for (int j = 0; j < FC_TILE(grad); j++) x[j] = FC_(fc_load)(columns + (j * FC_N + i) * FC_LANES);
            FC_OF(fc_into_)(grad, x, y);
#pragma GCC unroll 8
            for (int j = 0; j < FC_N; j++) FC_(fc_store)(to + (i * FC_N + j) * f_step, y[j]);
        }
}

static inline void FC_OF(fc_columns_)(int grad, const FC_REAL *from, ptrdiff_t c_step, ptrdiff_t h_step,
                                      ptrdiff_t w_step, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows,
                                      ptrdiff_t column, ptrdiff_t columns, ptrdiff_t count, FC_REAL *to) {
    if (grad)
        FC_OF(fc_columns_of_)(1, from, c_step, h_step, w_step, channels, row, rows, column, columns, count, to);
    else FC_OF(fc_columns_of_)(0, from, c_step, h_step, w_step, channels, row, rows, column, columns, count, to);
}

static inline void FC_OF(fc_tiles_)(int grad, const FC_REAL *columns, ptrdiff_t tiles, FC_REAL *to, ptrdiff_t f_step,
                                    ptrdiff_t t_step) {
    if (grad) FC_OF(fc_tiles_of_)(1, columns, tiles, to, f_step, t_step);
    else FC_OF(fc_tiles_of_)(0, columns, tiles, to, f_step, t_step);
}

/* The results of a row of tiles from their sums [frequency][channel]: to[row][column][channel]. */
static inline void FC_OF(fc_outputs_)(const FC_REAL *sums, ptrdiff_t tile_step, ptrdiff_t f_step, ptrdiff_t tiles,
                                      const FC_REAL *bias, int relu, FC_REAL *to, ptrdiff_t row_step) {
    const FC_(fc_vector) added = bias ? FC_(fc_load)(bias) : (FC_(fc_vector)){0};
    for (ptrdiff_t tile = 0; tile < tiles; tile++, sums += tile_step, to += FC_SIZE * FC_LANES) {
        FC_(fc_vector) halves[FC_SIZE][FC_N];
#pragma GCC unroll 8
        for (int j = 0; j < FC_N; j++) {
            FC_(fc_vector) x[FC_N], y[FC_SIZE];
#pragma GCC unroll 8
            for (int i = 0; i < FC_N; i++) x[i] = FC_(fc_load)(sums + (i * FC_N + j) * f_step);
            FC_OF(fc_output_)(x, y);
#pragma GCC unroll 8
            for (int i = 0; i < FC_SIZE; i++) halves[i][j] = y[i];
        }
#pragma GCC unroll 8
        for (int i = 0; i < FC_SIZE; i++) {
            FC_(fc_vector) y[FC_SIZE];
            FC_OF(fc_output_)(halves[i], y);
#pragma GCC unroll 8
            for (int j = 0; j < FC_SIZE; j++) {
                const FC_(fc_vector) z = bias ? y[j] + added : y[j];
                FC_(fc_store)(to + i * row_step + j * FC_LANES, relu ? FC_(fc_relu)(z) : z);
            }
        }
    }
}

/* The filter of FC_LANES destination channels, from taps[9][channel], the last one first if `turned`. */
static inline void FC_OF(fc_filters_)(const FC_REAL *taps, int turned, FC_REAL *to, ptrdiff_t f_step) {
    FC_(fc_vector) halves[3][FC_N];
    const ptrdiff_t step = turned ? -FC_LANES : FC_LANES;
    if (turned) taps += 8 * FC_LANES;
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
        FC_(fc_vector) x[3];
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) x[i] = FC_(fc_load)(taps + (i * 3 + j) * step);
        FC_OF(fc_filter_)(x, halves[j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < FC_N; i++) {
        FC_(fc_vector) x[3], y[FC_N];
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) x[j] = halves[j][i];
        FC_OF(fc_filter_)(x, y);
#pragma GCC unroll 8
        for (int j = 0; j < FC_N; j++) FC_(fc_store)(to + (i * FC_N + j) * f_step, y[j]);
    }
}

/* The gradient of the taps of FC_LANES destination channels, from sums of each frequency: to[9][channel]. */
static inline void FC_OF(fc_gradients_)(const FC_REAL *sums, ptrdiff_t f_step, FC_REAL *to) {
    FC_(fc_vector) halves[3][FC_N];
#pragma GCC unroll 8
    for (int j = 0; j < FC_N; j++) {
        FC_(fc_vector) x[FC_N], y[3];
#pragma GCC unroll 8
        for (int i = 0; i < FC_N; i++) x[i] = FC_(fc_load)(sums + (i * FC_N + j) * f_step);
        FC_OF(fc_taps_)(x, y);
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) halves[i][j] = y[i];
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        FC_(fc_vector) y[3];
        FC_OF(fc_taps_)(halves[i], y);
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) FC_(fc_store)(to + (i * 3 + j) * FC_LANES, y[j]);
    }
}

#undef FC_N
#undef FC_TILE
#undef FC_OF
#undef FC_OF_
#undef FC_SIZE
