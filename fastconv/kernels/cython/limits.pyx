"""What the machine can do at most: multiply-adds from registers alone, and a copy of memory.

Range kernels for `fastconv.threads.run`; `fastconv.limits` times them.
"""

import struct

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    #if defined(__AVX512F__)
    #define FC_BYTES 64
    #elif defined(__AVX__)
    #define FC_BYTES 32
    #else
    #define FC_BYTES 16
    #endif

    /* Accumulators for twice the latency of a multiply-add on two units, and two constants: this fits the
       16 registers of AVX2 and SSE. */
    #define FC_EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
    enum { FC_ACCUMULATORS = 12, FC_ROUNDS = 4096 };

    struct fma_task { double *sums; };  /* one for each item, so that nothing is optimised away */

    /* a = a * m + b converges to 1: no overflow, no subnormals. One item is FC_ROUNDS rounds. */
    #define FC_FMA(NAME, REAL)                                                                           \\
        typedef REAL NAME##_vector __attribute__((vector_size(FC_BYTES)));                              \\
        static void NAME(void *task, ptrdiff_t first, ptrdiff_t last) {                                  \\
            struct fma_task *t = task;                                                                   \\
            const NAME##_vector zero = {0}, m = zero + (REAL)0.75, b = zero + (REAL)0.25;                \\
            for (ptrdiff_t item = first; item < last; item++) {                                          \\
                FC_EACH(FC_DECLARE_##NAME)                                                               \\
                for (int round = 0; round < FC_ROUNDS; round++) { FC_EACH(FC_STEP) }                     \\
                NAME##_vector sum = zero;                                                                \\
                FC_EACH(FC_ADD)                                                                          \\
                t->sums[item] = (double)sum[0];                                                          \\
            }                                                                                            \\
        }
    #define FC_DECLARE_fma_float32(I) fma_float32_vector a##I = zero + (float)(0.5 + 0.01 * I);
    #define FC_DECLARE_fma_float64(I) fma_float64_vector a##I = zero + (0.5 + 0.01 * I);
    #define FC_STEP(I) a##I = a##I * m + b;
    #define FC_ADD(I) sum += a##I;

    FC_FMA(fma_float32, float)
    FC_FMA(fma_float64, double)

    struct copy_task { char *to; const char *from; int64_t bytes, times; };  /* bytes per item */

    static void copy(void *task, ptrdiff_t first, ptrdiff_t last) {
        struct copy_task *t = task;
        typedef char vector __attribute__((vector_size(FC_BYTES), aligned(1)));
        for (ptrdiff_t item = first; item < last; item++)
            for (int64_t time = 0; time < t->times; time++) {
                char *to = t->to + item * t->bytes;
                const char *from = t->from + item * t->bytes;
                for (int64_t i = 0; i < t->bytes; i += 4 * FC_BYTES) {
                    vector x = *(const vector *)(from + i), y = *(const vector *)(from + i + FC_BYTES);
                    vector z = *(const vector *)(from + i + 2 * FC_BYTES);
                    vector w = *(const vector *)(from + i + 3 * FC_BYTES);
                    *(vector *)(to + i) = x, *(vector *)(to + i + FC_BYTES) = y;
                    *(vector *)(to + i + 2 * FC_BYTES) = z, *(vector *)(to + i + 3 * FC_BYTES) = w;
                    __asm__ volatile("" ::: "memory");  /* stays a loop of ours, not a call of memcpy */
                }
            }
    }
    """
    ctypedef void (*fc_kernel)(void *task, ptrdiff_t first, ptrdiff_t last)
    fc_kernel fma_float32, fma_float64, copy
    int FC_BYTES, FC_ACCUMULATORS, FC_ROUNDS

# Addresses of the range kernels.
FMA = {"float32": <size_t>fma_float32, "float64": <size_t>fma_float64}
COPY = <size_t>copy
# Operations that one item of FMA[dtype] does.
FLOPS = {"float32": 2 * FC_ACCUMULATORS * FC_ROUNDS * (FC_BYTES // 4),
         "float64": 2 * FC_ACCUMULATORS * FC_ROUNDS * (FC_BYTES // 8)}
# Bytes of an item of COPY must be a multiple of this.
COPY_MULTIPLE = 4 * FC_BYTES


def fma_task(size_t sums):
    """Pack the task of FMA: the address of one float64 per item."""
    return struct.pack("@N", sums)


def copy_task(size_t to, size_t source, long long bytes_per_item, long long times):
    """Pack the task of COPY: each item copies its own piece so many times."""
    return struct.pack("@NNqq", to, source, bytes_per_item, times)
