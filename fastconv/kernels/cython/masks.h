/*
 * Comparisons of vectors of one FC_REAL, and choices by them. A part of pooling.h, which includes it once for each
 * type; hence no guard.
 *
 * With AVX-512 a comparison makes a mask register. gcc 12 does not see a blend in the bit operations on whole vectors
 * that are the portable form (three instructions for each choice), hence the intrinsics.
 */

/* Integers at any address, and beside any other type. */
typedef FC_INT FC_(fc_integer_memory) __attribute__((vector_size(FC_BYTES), aligned(sizeof(FC_INT)), may_alias));

FC_INLINE FC_(fc_integers) FC_(fc_load_integers)(const FC_INT *from) { return *(const FC_(fc_integer_memory) *)from; }
FC_INLINE void FC_(fc_store_integers)(FC_INT *to, FC_(fc_integers) x) { *(FC_(fc_integer_memory) *)to = x; }

#if FC_BYTES == 64
#if FC_LANES == 16
#define FC_M512(NAME) FC_PASTE(NAME, _ps)
#define FC_I512(NAME) FC_PASTE(NAME, _epi32)
#define FC_VECTOR512 __m512
typedef __mmask16 FC_(fc_mask);
#else
#define FC_M512(NAME) FC_PASTE(NAME, _pd)
#define FC_I512(NAME) FC_PASTE(NAME, _epi64)
#define FC_VECTOR512 __m512d
typedef __mmask8 FC_(fc_mask);
#endif
#define FC_COMPARE(X, Y, HOW) \
    ((FC_(fc_mask))FC_PASTE(FC_M512(_mm512_cmp), _mask)((FC_VECTOR512)(X), (FC_VECTOR512)(Y), HOW))

FC_INLINE FC_(fc_mask) FC_(fc_above)(FC_(fc_vector) x, FC_(fc_vector) y) { return FC_COMPARE(x, y, _CMP_GT_OQ); }
FC_INLINE FC_(fc_mask) FC_(fc_equal)(FC_(fc_vector) x, FC_(fc_vector) y) { return FC_COMPARE(x, y, _CMP_EQ_OQ); }
FC_INLINE FC_(fc_mask) FC_(fc_is_nan)(FC_(fc_vector) x) { return FC_COMPARE(x, x, _CMP_UNORD_Q); }
FC_INLINE FC_(fc_vector) FC_(fc_choose)(FC_(fc_mask) mask, FC_(fc_vector) x, FC_(fc_vector) y) {
    return (FC_(fc_vector))FC_M512(_mm512_mask_blend)(mask, (FC_VECTOR512)y, (FC_VECTOR512)x);
}
FC_INLINE FC_(fc_integers) FC_(fc_choose_integers)(FC_(fc_mask) mask, FC_(fc_integers) x, FC_(fc_integers) y) {
    return (FC_(fc_integers))FC_I512(_mm512_mask_blend)(mask, (__m512i)y, (__m512i)x);
}
FC_INLINE FC_(fc_mask) FC_(fc_same)(FC_(fc_integers) x, FC_(fc_integers) y) {
    return (FC_(fc_mask))FC_PASTE(FC_I512(_mm512_cmpeq), _mask)((__m512i)x, (__m512i)y);
}
/* x + y where the mask says so, else x. */
FC_INLINE FC_(fc_vector) FC_(fc_add_where)(FC_(fc_mask) mask, FC_(fc_vector) x, FC_(fc_vector) y) {
    return (FC_(fc_vector))FC_M512(_mm512_mask_add)((FC_VECTOR512)x, mask, (FC_VECTOR512)x, (FC_VECTOR512)y);
}
FC_INLINE int FC_(fc_lane)(FC_(fc_mask) mask, ptrdiff_t lane) { return mask >> lane & 1; }
/* The first `count` lanes. */
FC_INLINE FC_(fc_mask) FC_(fc_first)(ptrdiff_t count) {
    return (FC_(fc_mask))(count >= FC_LANES ? ~0u : (1u << count) - 1);
}
FC_INLINE int FC_(fc_any)(FC_(fc_mask) mask) { return mask != 0; }
/* x, or y where y is larger or NaN: a NaN that was met stays. The instruction gives x where either is one. */
FC_INLINE FC_(fc_vector) FC_(fc_larger)(FC_(fc_vector) x, FC_(fc_vector) y) {
    const FC_(fc_vector) larger = (FC_(fc_vector))FC_M512(_mm512_max)((FC_VECTOR512)y, (FC_VECTOR512)x);
    return FC_(fc_choose)(FC_(fc_is_nan)(y), y, larger);
}
#undef FC_COMPARE
#undef FC_M512
#undef FC_I512
#undef FC_VECTOR512
#else
typedef FC_(fc_integers) FC_(fc_mask);
FC_INLINE FC_(fc_mask) FC_(fc_above)(FC_(fc_vector) x, FC_(fc_vector) y) { return x > y; }
FC_INLINE FC_(fc_mask) FC_(fc_equal)(FC_(fc_vector) x, FC_(fc_vector) y) { return x == y; }
FC_INLINE FC_(fc_mask) FC_(fc_is_nan)(FC_(fc_vector) x) { return x != x; }
FC_INLINE FC_(fc_integers) FC_(fc_choose_integers)(FC_(fc_mask) mask, FC_(fc_integers) x, FC_(fc_integers) y) {
    return (mask & x) | (~mask & y);
}
FC_INLINE FC_(fc_vector) FC_(fc_choose)(FC_(fc_mask) mask, FC_(fc_vector) x, FC_(fc_vector) y) {
    return (FC_(fc_vector))FC_(fc_choose_integers)(mask, (FC_(fc_integers))x, (FC_(fc_integers))y);
}
FC_INLINE FC_(fc_mask) FC_(fc_same)(FC_(fc_integers) x, FC_(fc_integers) y) { return x == y; }
FC_INLINE FC_(fc_vector) FC_(fc_add_where)(FC_(fc_mask) mask, FC_(fc_vector) x, FC_(fc_vector) y) {
    return FC_(fc_choose)(mask, x + y, x);
}
FC_INLINE int FC_(fc_lane)(FC_(fc_mask) mask, ptrdiff_t lane) { return mask[lane] != 0; }
FC_INLINE FC_(fc_mask) FC_(fc_first)(ptrdiff_t count) {
    const FC_(fc_integers) lane = {FC_PASTE(FC_LIST_, FC_LANES)(FC_LANE, 0)};
    return lane < (FC_INT)(count < FC_LANES ? count : FC_LANES);
}
FC_INLINE int FC_(fc_any)(FC_(fc_mask) mask) {
    FC_INT any = 0;
    for (int lane = 0; lane < FC_LANES; lane++) any |= mask[lane];
    return any != 0;
}
FC_INLINE FC_(fc_vector) FC_(fc_larger)(FC_(fc_vector) x, FC_(fc_vector) y) {
    return FC_(fc_choose)((y > x) | (y != y), y, x);
}
#endif
