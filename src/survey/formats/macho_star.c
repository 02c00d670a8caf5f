/* SPDX-License-Identifier: MIT
 *
 * A MACHO star file, lc_FIELD.TILE.SEQ.BAND.mjd: lines of `#`, then `MJD Mag Err` in columns. With --band only the files of that
 * band are read and the id is FIELD.TILE.SEQ; without it every file is a light curve of its own, FIELD.TILE.SEQ.BAND. */
#include <stdio.h>
#include <string.h>

#include "survey/formats/formats.h"

/* FIELD.TILE.SEQ and BAND out of lc_FIELD.TILE.SEQ.BAND.mjd[.gz]. */
static bool read_name(const char *name, char id[NAME_BYTES], char *band)
{
    char stem[NAME_BYTES];
    int length = 0;
    name_stem(stem, name);
    if (sscanf(stem, "lc_%*[0-9].%*[0-9].%*[0-9].%c%n", band, &length) != 1 || stem[length]) return false;
    snprintf(id, NAME_BYTES, "%.*s", length - 5, stem + 3);
    return *band == 'R' || *band == 'B';
}

static bool is_comment(struct text line)
{
    return line.length && line.start[0] == '#';
}

/* lc_ in front and .mjd behind: whatever is wrong between them, this is meant. */
static bool is_star_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    size_t length = dot && !strcmp(dot, ".gz") ? (size_t)(dot - name) : strlen(name);
    return !strncmp(name, "lc_", 3) && length >= 4 && !strncmp(name + length - 4, ".mjd", 4);
}

/* The name, comments first, then three numbers. */
static bool recognise(struct head *head, const struct sink *sink)
{
    (void)sink;
    int data = head_data_line(head);
    if (!is_star_name(head->name) || head->lines == 0 || !is_comment(head->line[0])) return false;
    char delimiter = data < 0 ? BLANKS : three_numbers(head, data);
    return delimiter == BLANKS || delimiter == '\t';
}

static int parse(struct reader *reader, struct head *head, struct sink *sink, struct error *error)
{
    char id[NAME_BYTES + 2], band;
    struct text line, field[3];
    if (!read_name(head->name, id, &band))
        return error_set(error, STATUS_FAILED,
                         "%s: looks like a MACHO star file, but its name is not lc_FIELD.TILE.SEQ.BAND.mjd with band R or B",
                         reader->path);
    if (sink->band && sink->band != band) {
        sink->tally[TALLY_FILES_OTHER_BAND]++;
        return STATUS_OK;
    }
    sink->source = sink->file_number;
    sink->band_seen[band == 'B'] = true;
    if (!sink->band) snprintf(id + strlen(id), 3, ".%c", band);
    while (!reader_line(reader, &line, error) && line.start) {
        if (text_blank(line) || is_comment(line)) continue;
        if (fields_split(line, BLANKS, field, 3) < 3)
            sink_short_row(sink);
        else if (sink_row(sink, (struct text){id, strlen(id)}, field[0], field[1], field[2], error))
            break;
    }
    return error->status;
}

const struct format format_macho_star = {
    "MACHO star file", "a MACHO star file lc_FIELD.TILE.SEQ.BAND.mjd: lines of '#', then MJD Mag Err", recognise, parse};
