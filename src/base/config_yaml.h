/* SPDX-License-Identifier: MIT
 *
 * YAML as a flat list, for config.c alone: every value and every map of a document with its dotted path and its line. It knows
 * YAML and nothing of our keys. Lists, anchors, tags and second documents are refused, a config has no use for them. */
#ifndef ASTROMER_BASE_CONFIG_YAML_H
#define ASTROMER_BASE_CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct entry {
    char *path;  /* "train.batch" */
    char *value; /* NULL: a map, or nothing ("train:" alone, ~, null) */
    bool map;
    int line; /* from 1; 0 where there are no lines */
};

struct entries {
    size_t count, capacity;
    struct entry *entry;
};

/* Adds an entry; the strings are copied. */
void entries_add(struct entries *entries, const char *path, const char *value, bool map, int line);
void entries_release(struct entries *entries);

/* Appends the entries of a text in the order in which they stand. An error is STATUS_USAGE "NAME:LINE: ...". */
int entries_read(struct entries *entries, const char *text, size_t bytes, const char *name, struct error *error);

#endif
