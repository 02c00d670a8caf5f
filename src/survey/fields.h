/* SPDX-License-Identifier: MIT
 *
 * Fields of a line: cut at a delimiter or at blanks, without the blanks and quotes around them. */
#ifndef ASTROMER_SURVEY_FIELDS_H
#define ASTROMER_SURVEY_FIELDS_H

#include "survey/number.h"
#include "survey/reader.h"

/* Stands for any run of spaces and tabs as the delimiter. */
enum { BLANKS = ' ' };

/* Cuts a line into at most `most` fields and returns how many the whole line has, at least 1, 0 for a blank line with
 * delimiter BLANKS. A field may stand in double quotes, "" in it is a quote; it is unpacked in place, so the line changes. */
int fields_split(struct text line, char delimiter, struct text *fields, int most);

/* The text without blanks at both ends. */
struct text text_trim(struct text text);
/* Equal but for the case of ASCII letters. */
bool text_is(struct text text, const char *word);
bool text_blank(struct text text);

/* How a field reads as a number. */
static inline bool field_number(struct text field, double *value)
{
    return number_read(field.start, field.start + field.length, value);
}

/* The nearest float, of a field that reads as `value`. */
static inline float field_float(struct text field, double value)
{
    return number_float(field.start, field.start + field.length, value);
}

#endif
