/* SPDX-License-Identifier: MIT
 *
 * The flat list that a config's text becomes. */
#include "base/config_yaml.h"
#include "base/memory.h"

void entries_add(struct entries *entries, const char *path, const char *value, bool map, int line)
{
    memory_grow((void **)&entries->entry, &entries->capacity, entries->count + 1, sizeof *entries->entry, "config entries");
    entries->entry[entries->count++] =
        (struct entry){.path = memory_string(path), .value = value ? memory_string(value) : NULL, .map = map, .line = line};
}

void entries_release(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++) {
        memory_free(entries->entry[i].path);
        memory_free(entries->entry[i].value);
    }
    memory_free(entries->entry);
    *entries = (struct entries){0};
}
