/* Which x86-64 levels this CPU and this operating system run, as the psABI defines them. */
#ifndef FASTCONV_CPU_H
#define FASTCONV_CPU_H

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static inline int fc_has(unsigned word, unsigned bits) { return (word & bits) == bits; }

/* 1 to 4. */
static inline int fc_x86_level(void) {
    unsigned a, b, c, d, b7, c7, d7, c80, d80;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 1;
    unsigned leaf1 = c;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) b7 = 0;
    if (!__get_cpuid(0x80000001, &a, &b, &c80, &d80)) c80 = 0;

    const unsigned lahf = 1u << 0, lzcnt = 1u << 5; /* extended leaf */
    if (!fc_has(leaf1, bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_CMPXCHG16B) ||
        !fc_has(c80, lahf))
        return 1;

    /* What the operating system saves on a context switch: bits 1-2 SSE and AVX, 5-7 AVX-512. */
    unsigned xcr0 = 0;
    if (fc_has(leaf1, bit_OSXSAVE)) {
        unsigned high;
        __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    }
    if (!fc_has(leaf1, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) || !fc_has(b7, bit_AVX2 | bit_BMI | bit_BMI2) ||
        !fc_has(c80, lzcnt) || !fc_has(xcr0, 0x6))
        return 2;

    if (!fc_has(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL) || !fc_has(xcr0, 0xe6))
        return 3;
    return 4;
}

/* Writes the CPU's name, at most 48 characters and a zero. */
static inline void fc_cpu_name(char name[49]) {
    unsigned words[12] = {0}, highest = __get_cpuid_max(0x80000000, 0);
    if (highest >= 0x80000004)
        for (unsigned i = 0; i < 3; i++)
            __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
    memcpy(name, words, 48);
    name[48] = 0;
}

#else

static inline int fc_x86_level(void) { return 0; }
static inline void fc_cpu_name(char name[49]) { name[0] = 0; }

#endif
#endif
