/* SPDX-License-Identifier: MIT
 *
 * What commands that write files have in common. */
#ifndef ASTROMER_COMMANDS_FILES_H
#define ASTROMER_COMMANDS_FILES_H

#include <stdbool.h>
#include <stdio.h>

#include "base/json.h"
#include "survey/survey.h"

/* Both are there and are one file, whatever their names. */
bool files_same(const char *one, const char *other);

/* Refuses an output that is one of the inputs it would replace: paths (`count` of them; NULL ones do not count) or a shard of the
 * survey that this rank owns. `option` names it for people: "classify: --out". Not collective. */
int output_spares(const char *option, const char *out, const char *const *inputs, int count, const struct survey *survey,
                  struct error *error);
/* Whether a file can be made there: before the work that fills it rather than after. Not collective: one rank asks. */
int output_try(const char *out, struct error *error);

/* json_end on standard output. */
int json_print(struct json *json, struct error *error);

/* A text file that takes its name only when it is whole: until then it is `partial`, NAME.partial. begin leaves file NULL when it
 * fails. end closes it and, unless there is an error already or now, gives it its name, else removes it; after a begin that
 * failed or never was, it does nothing. */
struct text_file {
    FILE *file;
    char *name, *partial;
};
int text_file_begin(struct text_file *text, const char *name, struct error *error);
int text_file_end(struct text_file *text, struct error *error);

/* A field of CSV: in quotes where it must be. */
void csv_put(FILE *file, const char *text);

#endif
