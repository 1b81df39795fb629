#include "results.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Before the data, whole cache lines, so that the data begin on one. */
enum { LINE = 64 };
struct block {
    size_t bytes; /* of data that there is room for */
};

/* Kept at most: so many blocks, and bytes. The oldest go first. */
enum { MOST_BLOCKS = 64 };
static const size_t MOST_BYTES = (size_t)256 << 20;
/* Blocks of at least so many bytes are worth large pages, where the system has them to give. */
static const size_t HUGE_PAGE = (size_t)2 << 20, LARGE = (size_t)4 << 20;

/* NumPy holds the GIL whenever it calls, but promises nothing. Nobody ever waits: who finds the list locked, in a
   forked child maybe for ever, does without. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *kept[MOST_BLOCKS]; /* the oldest first */
static int kept_blocks;
static size_t kept_bytes;

static void *data_of(struct block *block) { return (char *)block + LINE; }
static struct block *block_of(void *data) { return (struct block *)((char *)data - LINE); }

/* Room comes in steps of an eighth of its power of two, so that similar results share it. 0: too much. */
static size_t rounded(size_t bytes) {
    size_t step = 4096;
    if (bytes > SIZE_MAX / 4) return 0;
    while (step * 16 < bytes) step *= 2;
    return (bytes + step - 1) / step * step;
}

static struct block *remove_at(int place) {
    struct block *block = kept[place];
    kept_bytes -= block->bytes;
    kept_blocks--;
    memmove(kept + place, kept + place + 1, (size_t)(kept_blocks - place) * sizeof *kept);
    return block;
}

/* The smallest kept block that fits, if it wastes no more than a quarter. */
static struct block *take(size_t bytes) {
    if (pthread_mutex_trylock(&lock)) return NULL;
    int best = -1;
    for (int i = 0; i < kept_blocks; i++)
        if (kept[i]->bytes >= bytes && kept[i]->bytes - bytes <= bytes / 4 &&
            (best < 0 || kept[i]->bytes < kept[best]->bytes))
            best = i;
    struct block *found = best < 0 ? NULL : remove_at(best);
    pthread_mutex_unlock(&lock);
    return found;
}

void *fc_result_malloc(void *context, size_t bytes) {
    (void)context;
    const size_t room = rounded(bytes);
    if (!room) return NULL;
    struct block *block = take(room);
    if (block) return data_of(block);
    void *fresh;
    if (posix_memalign(&fresh, room >= LARGE ? HUGE_PAGE : LINE, LINE + room)) return NULL;
#ifdef MADV_HUGEPAGE
    if (room >= LARGE) (void)madvise(fresh, LINE + room, MADV_HUGEPAGE);
#endif
    block = fresh;
    block->bytes = room;
    return data_of(block);
}

void *fc_result_calloc(void *context, size_t count, size_t bytes) {
    if (bytes && count > SIZE_MAX / bytes) return NULL;
    void *data = fc_result_malloc(context, count * bytes);
    if (data) memset(data, 0, count * bytes);
    return data;
}

void *fc_result_realloc(void *context, void *data, size_t bytes) {
    if (!data) return fc_result_malloc(context, bytes);
    const size_t before = block_of(data)->bytes;
    if (bytes <= before && bytes >= before / 2) return data;
    void *other = fc_result_malloc(context, bytes);
    if (!other) return NULL;
    memcpy(other, data, before < bytes ? before : bytes);
    fc_result_free(context, data, before);
    return other;
}

void fc_result_free(void *context, void *data, size_t bytes) {
    (void)context, (void)bytes;
    if (!data) return;
    struct block *block = block_of(data);
    if (block->bytes > MOST_BYTES || pthread_mutex_trylock(&lock)) {
        free(block);
        return;
    }
    while (kept_blocks == MOST_BLOCKS || kept_bytes + block->bytes > MOST_BYTES) free(remove_at(0));
    kept[kept_blocks++] = block;
    kept_bytes += block->bytes;
    pthread_mutex_unlock(&lock);
}

size_t fc_results_kept(void) { return kept_bytes; }

void fc_results_release(void) {
    if (pthread_mutex_trylock(&lock)) return;
    while (kept_blocks) free(remove_at(kept_blocks - 1));
    pthread_mutex_unlock(&lock);
}
