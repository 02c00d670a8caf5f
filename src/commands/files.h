/* SPDX-License-Identifier: MIT
 *
 * What commands that write files have in common. */
#ifndef ASTROMER_COMMANDS_FILES_H
#define ASTROMER_COMMANDS_FILES_H

#include <stdbool.h>
#include <stdio.h>

/* Both are there and are one file, whatever their names. */
bool files_same(const char *one, const char *other);

/* A field of CSV: in quotes where it must be. */
void csv_put(FILE *file, const char *text);

#endif
