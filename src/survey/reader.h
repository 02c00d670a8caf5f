/* SPDX-License-Identifier: MIT
 *
 * Lines of a text file, plain or gzip (told apart by content), through one buffer that grows only for a line longer than it.
 * A gzip file that is cut short, damaged or followed by something else is an error, never just fewer lines. */
#ifndef ASTROMER_SURVEY_READER_H
#define ASTROMER_SURVEY_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct unzip;

/* Text that is not terminated: part of a reader's buffer. */
struct text {
    char *start;
    size_t length;
};

struct reader {
    char *path;
    int fd;
    struct unzip *unzip; /* NULL for a plain file */
    char *buffer;
    size_t capacity, start, end; /* buffer[start .. end) is not yet read */
    bool ended;                  /* the file has no more than what the buffer holds */
    int64_t line;                /* number of the line read last, from 1 */
};

/* Opens a file and fills the buffer for the first time. An empty file is an error. Not collective. reader_close is fine on a
 * zeroed struct. */
int reader_open(struct reader *reader, const char *path, struct error *error);
void reader_close(struct reader *reader);

/* The next line without its end (LF or CRLF) and, on the first line, without a byte order mark. It lies in the buffer, may be
 * changed there, and is gone at the next call. *line.start is NULL at the end of the file. */
int reader_line(struct reader *reader, struct text *line, struct error *error);

/* Up to `most` lines of the buffer without reading them, for telling formats apart: returns how many. The last one may be cut
 * where the buffer ends. */
int reader_peek(const struct reader *reader, struct text *lines, int most);

#endif
