/* SPDX-License-Identifier: MIT
 *
 * The schema of the config, for config*.c alone: one entry a key, from which everything about the key is derived. */
#ifndef ASTROMER_BASE_CONFIG_SCHEMA_H
#define ASTROMER_BASE_CONFIG_SCHEMA_H

#include <stddef.h>

#include "base/config.h"

enum { KEY_NAME = 64 };
enum key_type { KEY_TEXT, KEY_BOOLEAN, KEY_INT, KEY_INT64, KEY_NUMBER, KEY_WORD };

struct key {
    const char *name;      /* "train.batch"; the part before the dot is its group */
    int type;              /* enum key_type */
    size_t offset;         /* of the value in struct config: char[CONFIG_TEXT], bool, int, int64_t, double, int (the word's
                              place in words) */
    const char *initial;   /* the default, as it would stand in a file */
    const char *astromer1; /* its value in the preset astromer1, NULL where presets do not set the key; initial is astromer2's */
    double minimum, maximum;  /* of the number types */
    bool above, below;        /* the minimum, the maximum itself is not allowed */
    const char *const *words; /* KEY_WORD: the valid words, in the order of the enum, then NULL */
    const char *unit, *help;  /* unit may be NULL */
};

extern const struct key config_keys[];
extern const int config_key_count;

/* The key with that name, or NULL. */
const struct key *key_find(const char *name);
/* True when `name` is the part before the dot of some key. */
bool key_is_group(const char *name);
/* The key (or group) that somebody who wrote `name` most likely meant; false and "" when none is near. */
bool key_nearest(const char *name, char nearest[KEY_NAME]);

/* Reads the value of a key from its text, with type and bounds. On failure the message starts with the key's name and *config
 * keeps the old value. */
int key_set(const struct key *key, struct config *config, const char *text, struct error *error);
/* The value of a key as it would stand in a file, unquoted. CONFIG_TEXT bytes always suffice. Returns text. */
const char *key_text(const struct key *key, const struct config *config, char text[CONFIG_TEXT]);

/* What is allowed, in words: "1 to 4096 steps", "constant, warmup or cosine", "true or false". Returns text. */
const char *key_allowed(const struct key *key, char text[CONFIG_TEXT]);

#endif
