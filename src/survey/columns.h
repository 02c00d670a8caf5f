/* SPDX-License-Identifier: MIT
 *
 * Which column of a table is which: by the names that surveys usually give them, or as `--columns` says. */
#ifndef ASTROMER_SURVEY_COLUMNS_H
#define ASTROMER_SURVEY_COLUMNS_H

#include "base/error.h"
#include "survey/reader.h"

enum column { COLUMN_ID, COLUMN_TIME, COLUMN_MAGNITUDE, COLUMN_ERROR, COLUMN_BAND, COLUMN_CLASS };
enum { COLUMNS_NAMED = COLUMN_BAND + 1 };

/* The place of the field whose name is most usual for the column, in any case and with or without blanks, _ and - in it, or -1.
 */
int column_usual(const struct text *fields, int count, enum column column);

/* A field that names stars, under a name that is not usual: not one that numbers exposures, detectors or the like. */
bool column_looks_like_id(struct text field);

/* Names from `--columns id=..,time=..,magnitude=..,error=..,band=..`; NULL where the usual names hold. */
struct columns {
    char *name[COLUMNS_NAMED]; /* owned */
};
/* `option` NULL gives the usual names. A word that is not one of the five is STATUS_USAGE. */
int columns_read(struct columns *columns, const char *option, struct error *error);
void columns_release(struct columns *columns);

/* `id=none`: the table is one star. */
bool columns_say_one_star(const struct columns *columns);

/* The place of the column under the name given for it or else its usual one, or -1. */
int column_find(const struct columns *columns, const struct text *fields, int count, enum column column);

#endif
