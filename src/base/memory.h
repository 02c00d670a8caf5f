/* SPDX-License-Identifier: MIT
 *
 * Host memory: 64-byte aligned, sizes checked for overflow. Running out of it ends the program with a line that says for what. */
#ifndef ASTROMER_BASE_MEMORY_H
#define ASTROMER_BASE_MEMORY_H

#include <stddef.h>

/* `count` elements of `element_bytes`, uninitialised (_new) or zeroed (_zeroed). Owned by the caller; memory_free releases.
 * count 0 gives a valid pointer. Does not return on failure: prints `what` and the size, then exits. Thread safe. */
void *memory_new(size_t count, size_t element_bytes, const char *what);
void *memory_zeroed(size_t count, size_t element_bytes, const char *what);
void memory_free(void *memory); /* NULL is fine */

/* Grows an array that came from memory_new: `*array` of `*capacity` elements has room for at least `needed` afterwards
 * (capacity at least doubles). The content is kept. */
void memory_grow(void **array, size_t *capacity, size_t needed, size_t element_bytes, const char *what);

/* A copy of a string, owned by the caller. */
char *memory_string(const char *text);

#endif
