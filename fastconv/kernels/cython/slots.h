/*
 * Private scratch for a range function. A kernel does not know on which thread it runs, and must not care;
 * one that needs scratch of its own takes a slot for the length of a call. At most `threads` calls run at
 * the same time, so `threads` slots are always enough (at most FC_SLOTS).
 *
 *     struct task { struct fc_slots slots; char *scratch; size_t scratch_bytes; ... };   // slots: all zero
 *     int slot = fc_take_slot(&task->slots);
 *     float *mine = (float *)(task->scratch + slot * task->scratch_bytes);
 *     ...
 *     fc_give_slot(&task->slots, slot);
 */
#ifndef FASTCONV_SLOTS_H
#define FASTCONV_SLOTS_H

#include <stdint.h>

enum { FC_SLOTS = 256 };

struct fc_slots {
    uint64_t taken[FC_SLOTS / 64];
};

/* Returns the lowest free slot. */
static inline int fc_take_slot(struct fc_slots *slots) {
    for (int word = 0;; word = (word + 1) % (FC_SLOTS / 64)) {
        uint64_t taken = __atomic_load_n(&slots->taken[word], __ATOMIC_RELAXED);
        while (~taken) {
            int bit = __builtin_ctzll(~taken);
            if (__atomic_compare_exchange_n(&slots->taken[word], &taken, taken | (UINT64_C(1) << bit), 1,
                                            __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                return 64 * word + bit;
        }
    }
}

static inline void fc_give_slot(struct fc_slots *slots, int slot) {
    __atomic_fetch_and(&slots->taken[slot / 64], ~(UINT64_C(1) << (slot % 64)), __ATOMIC_RELEASE);
}

#endif
