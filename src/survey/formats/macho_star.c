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

/* Comments first, one of them the names of the columns unless the file's own name says what it is, then three numbers. */
static bool recognise(struct head *head, const struct sink *sink)
{
    (void)sink;
    char id[NAME_BYTES], band;
    int data = head_data_line(head);
    bool known = read_name(head->name, id, &band);
    if (head->lines == 0 || !is_comment(head->line[0])) return false;
    for (int i = 0; i < head->lines && !known; i++) {
        struct text field[3];
        known = is_comment(head->line[i]) && head_split(head, i, BLANKS, field, 3) == 3 && text_is(field[0], "#MJD") &&
                text_is(field[1], "Mag") && text_is(field[2], "Err");
    }
    return known && (data < 0 || three_numbers(head, data) == BLANKS);
}

static int parse(struct reader *reader, struct head *head, struct sink *sink, struct error *error)
{
    char id[NAME_BYTES + 2], band;
    struct text line, field[3];
    if (!read_name(head->name, id, &band))
        return error_set(error, STATUS_FAILED,
                         "%s: is a MACHO star file, but its name is not lc_FIELD.TILE.SEQ.BAND.mjd with band R or B",
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
