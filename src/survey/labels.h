/* SPDX-License-Identifier: MIT
 *
 * Labels of light curves: a CSV file `id,class` (comma, semicolon or tab; a header is optional; quotes are fine). The classes
 * are numbered in the order of their names. An empty class means no label. The first line is a header when it names a column as
 * surveys usually do, or when its class is that of no other line and its id, unlike all others, has no digit. */
#ifndef ASTROMER_SURVEY_LABELS_H
#define ASTROMER_SURVEY_LABELS_H

#include <stdint.h>

#include "base/error.h"

/* How far a labelled star came. */
enum label_fate { LABEL_UNMATCHED, LABEL_DROPPED, LABEL_KEPT };

struct label {
    const char *id;
    int32_t class;
};

struct labels {
    int64_t count;
    struct label *label; /* sorted by id */
    int64_t *fate;       /* enum label_fate of each, by whoever looks them up */
    int class_count;
    char **classes;
    char *text; /* the memory behind ids */
};

/* Reads the file. A line without a class column, or two classes for one id, is an error with the line. Not collective.
 * labels_release is fine on a zeroed struct. */
int labels_read(struct labels *labels, const char *path, struct error *error);
void labels_release(struct labels *labels);

/* The index of the label of a light curve, or -1. A MACHO id with a band (1.3444.614.R) may have its label under the id without
 * it. */
int64_t labels_find(const struct labels *labels, const char *id);

#endif
