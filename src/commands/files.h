/* SPDX-License-Identifier: MIT
 *
 * What commands that write files have in common. */
#ifndef ASTROMER_COMMANDS_FILES_H
#define ASTROMER_COMMANDS_FILES_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"

/* Both are there and are one file, whatever their names. */
bool files_same(const char *one, const char *other);

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
