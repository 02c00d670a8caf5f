/* SPDX-License-Identifier: MIT
 *
 * Text from people and for people: strict numbers, the nearest valid word, UTF-8. Configs, options and the log share it. */
#ifndef ASTROMER_BASE_TEXT_H
#define ASTROMER_BASE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

enum { NUMBER_TEXT = 32, SHOWN_TEXT = 100 };

/* The word of `words` (count of them) closest to `word` by edit distance (a swap of neighbours counts once, case not at all), or
 * NULL when none is near. Used for every "did you mean": keys, options, commands. */
const char *nearest_word(const char *word, const char *const *words, int count);

/* A whole decimal number: a sign or none, digits, nothing else. False, with *value untouched, when `text` is not one or does not
 * fit. */
bool text_integer(const char *text, int64_t *value);
/* A finite decimal number such as 3, -0.5, 1e-4: no hexadecimal, infinity, NaN, blanks or anything behind it. */
bool text_number(const char *text, double *value);
/* True or false from true|yes|on|1 and false|no|off|0, in any case. */
bool text_boolean(const char *text, bool *value);

/* The shortest decimal text that reads back to the same double, into text; returns text. */
const char *number_text(double value, char text[NUMBER_TEXT]);

/* The code point at `text` and its length in bytes, or -1 and 1 where the bytes are not UTF-8 (too long, a surrogate, cut). */
int utf8_next(const char *text, int *bytes);

/* `text` as a message may quote it: control characters become '?', long text is cut with "...". Returns out. */
const char *shown(const char *text, char out[SHOWN_TEXT]);

#endif
