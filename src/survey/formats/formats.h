/* SPDX-License-Identifier: MIT
 *
 * The raw formats. Each is one file here with a struct format, and one line in the table of formats.c. A format looks at the
 * first lines of a file and says whether it is its own, then reads the rows and hands each to the sink, which turns text into
 * numbers, counts what is wrong by reason and passes the rest on to the spill. */
#ifndef ASTROMER_SURVEY_FORMATS_FORMATS_H
#define ASTROMER_SURVEY_FORMATS_FORMATS_H

#include <stdbool.h>

#include "base/progress.h"
#include "survey/columns.h"
#include "survey/fields.h"
#include "survey/ingest.h"
#include "survey/reader.h"
#include "survey/spill.h"

/* The first lines of a file, copies. */
enum { HEAD_LINES = 20, NAME_BYTES = SPILL_ID_BYTES_MOST + 1, BAND_BYTES = 32 };
struct head {
    const char *name; /* of the file, without its folder */
    int lines;
    struct text line[HEAD_LINES];
    char *memory, *scratch;
};
/* fields_split on a copy of a line, good until the next call. */
int head_split(struct head *head, int line, char delimiter, struct text *fields, int most);

struct sink {
    struct spill *spill;
    int64_t *tally; /* by enum tally */
    const struct columns *columns;
    char band;            /* 'R' or 'B' when --band asks for it, else 0 */
    bool *band_seen;      /* {R, B}: a MACHO format gave rows of it */
    const char *wanted;   /* --band, or NULL */
    char *table_band;     /* BAND_BYTES: the band of the tables' first row, empty before it */
    uint32_t file_number; /* from 1 */
    int files;            /* in all */
    struct progress *progress;
    uint32_t source; /* what spill_star gets; a format sets it to file_number when the file is one whole light curve */
};
/* One row of a star. Bad ones are counted by their first fault. */
int sink_row(struct sink *sink, struct text id, struct text time, struct text magnitude, struct text error_mag,
             struct error *error);
/* Whether a table's row of this band is taken: with --band only rows of that one, the others are counted; without it all bands
 * must be the same, and a second one is an error that says how to choose. A row without a band lacks a field. */
int sink_band(struct sink *sink, const struct reader *reader, struct text band, bool *taken, struct error *error);
/* A row that lacks fields. */
void sink_short_row(struct sink *sink);

struct format {
    const char *name, *description;
    bool (*recognise)(struct head *head, const struct sink *sink);
    int (*parse)(struct reader *reader, struct head *head, struct sink *sink, struct error *error);
};
extern const struct format format_macho_dump, format_macho_star, format_long_csv, format_star_csv;

/* The format of an open file from its first lines, or NULL with an error that shows the first one. */
const struct format *format_find(const struct reader *reader, struct head *head, const struct sink *sink, struct error *error);
void head_release(struct head *head);

/* The id of a file that is one star: its name without .gz and without a usual ending such as .csv. */
void name_stem(char stem[NAME_BYTES], const char *name);
/* The first line of the head that is neither blank nor starts with '#', or -1. */
int head_data_line(const struct head *head);
/* The delimiter (comma, semicolon, tab, blanks) that cuts a line of the head into three numbers and nothing else, or 0. */
char three_numbers(struct head *head, int line);

#endif
