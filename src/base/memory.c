/* SPDX-License-Identifier: MIT
 *
 * Host memory, aligned and checked. */
#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { ALIGNMENT_BYTES = 64 };

void *memory_new(size_t count, size_t element_bytes, const char *what)
{
    CHECK(element_bytes == 0 || count <= (SIZE_MAX - ALIGNMENT_BYTES) / element_bytes, "%zu x %zu bytes for %s overflow", count,
          element_bytes, what);
    size_t bytes = (count * element_bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    void *memory = aligned_alloc(ALIGNMENT_BYTES, bytes ? bytes : ALIGNMENT_BYTES);
    CHECK(memory, "out of memory: %.1f MB for %s", (double)bytes / 1e6, what);
    return memory;
}

void *memory_zeroed(size_t count, size_t element_bytes, const char *what)
{
    void *memory = memory_new(count, element_bytes, what);
    memset(memory, 0, count * element_bytes);
    return memory;
}

void memory_free(void *memory) { free(memory); }

void memory_grow(void **array, size_t *capacity, size_t needed, size_t element_bytes, const char *what)
{
    if (needed <= *capacity) return;
    size_t grown = *capacity * 2 > needed ? *capacity * 2 : needed;
    void *larger = memory_new(grown, element_bytes, what);
    if (*array) memcpy(larger, *array, *capacity * element_bytes);
    memory_free(*array);
    *array = larger;
    *capacity = grown;
}

char *memory_string(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = memory_new(bytes, 1, "a string");
    memcpy(copy, text, bytes);
    return copy;
}
