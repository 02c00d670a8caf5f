/* SPDX-License-Identifier: MIT
 *
 * Writing JSON lines: one object a line, each line reaches the file in one write so that a reader (or a kill) never sees half a
 * line. A number that is not finite is written as null. */
#ifndef ASTROMER_BASE_JSON_H
#define ASTROMER_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
    char text[8192];
    int used;
    bool first; /* no member written in the present object yet */
};

void json_begin(struct json *json); /* "{" */
void json_text(struct json *json, const char *name, const char *value);
void json_integer(struct json *json, const char *name, int64_t value);
void json_number(struct json *json, const char *name, double value); /* shortest text that reads back to the same double */
void json_boolean(struct json *json, const char *name, bool value);
void json_time(struct json *json, const char *name); /* now, ISO 8601 UTC with milliseconds */
/* Closes the object and writes it with a newline in one write(2); flushes. Returns 0, or -1 with errno. */
int json_end(struct json *json, FILE *out);

#endif
