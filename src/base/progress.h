/* SPDX-License-Identifier: MIT
 *
 * Progress for people: one line rewritten in place on a terminal, a plain line every now and then elsewhere. Rank 0 only. */
#ifndef ASTROMER_BASE_PROGRESS_H
#define ASTROMER_BASE_PROGRESS_H

#include <stdbool.h>

struct progress {
    bool enabled;         /* false: every call does nothing */
    bool terminal;        /* standard output is a terminal */
    double next_seconds;  /* when the next line may be shown */
    double every_seconds; /* 0.2 on a terminal, 10 elsewhere */
    int width;            /* columns of the line on the screen now */
};

void progress_begin(struct progress *progress, bool enabled);
/* True when it is time for a new line: ask before building an expensive one. */
bool progress_due(const struct progress *progress);
/* Shows a line now (printf format); on a terminal it replaces the one before. */
void progress_show(struct progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line that stays; on a terminal it replaces the progress line. */
void progress_line(struct progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
void progress_end(struct progress *progress);

/* Seconds of a clock that only goes forward. */
double clock_seconds(void);
/* "3 s", "4 min 10 s", "2 h 05 min" into text; returns text. */
const char *duration_text(double seconds, char text[32]);

#endif
