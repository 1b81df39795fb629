/* Memory of large results, kept when an array is freed for one that comes after; see fastconv/workspace.py. */
#ifndef FASTCONV_RESULTS_H
#define FASTCONV_RESULTS_H

#include <stddef.h>

/* The four functions of a NumPy memory handler (NEP 49); `context` is not used. */
void *fc_result_malloc(void *context, size_t bytes);
void *fc_result_calloc(void *context, size_t count, size_t bytes);
void *fc_result_realloc(void *context, void *data, size_t bytes);
void fc_result_free(void *context, void *data, size_t bytes);

size_t fc_results_kept(void);  /* bytes that wait for the next result */
void fc_results_release(void); /* gives them back to the system */

#endif
