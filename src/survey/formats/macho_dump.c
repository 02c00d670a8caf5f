/* SPDX-License-Identifier: MIT
 *
 * The MACHO photometry dump, the survey's public files of a tile: no header, 39 or more fields split by `;`. Counted from 1:
 * 2 field, 3 tile, 4 star sequence, 5 date (MJD), 10 red magnitude, 11 red error, 25 blue magnitude, 26 blue error. A line holds
 * both bands; one that failed has values such as -99 or 9.999 and fails the cut on the error. The id is FIELD.TILE.SEQUENCE. */
#include <string.h>

#include "survey/formats/formats.h"

enum { FIELDS_LEAST = 39, FIELD = 1, TILE = 2, SEQUENCE = 3, DATE = 4, RED = 9, BLUE = 24, FIELDS_READ = 26 };

static bool is_whole_number(struct text text)
{
    for (size_t i = 0; i < text.length; i++)
        if (text.start[i] < '0' || text.start[i] > '9') return false;
    return text.length > 0;
}

static bool recognise(struct head *head, const struct sink *sink)
{
    (void)sink;
    for (int i = 0; i < head->lines; i++) {
        struct text field[FIELDS_READ];
        double date;
        if (head_split(head, i, ';', field, FIELDS_READ) < FIELDS_LEAST) continue;
        if (is_whole_number(field[FIELD]) && is_whole_number(field[TILE]) && is_whole_number(field[SEQUENCE]) &&
            field_number(field[DATE], &date))
            return true;
    }
    return false;
}

/* FIELD.TILE.SEQUENCE into `memory`; no id when one of the three is not a whole number. */
static struct text make_id(const struct text *field, char memory[SPILL_ID_BYTES_MOST])
{
    size_t length = 0;
    for (int i = FIELD; i <= SEQUENCE; i++) {
        if (!is_whole_number(field[i]) || length + field[i].length + 1 > SPILL_ID_BYTES_MOST) return (struct text){memory, 0};
        memcpy(memory + length, field[i].start, field[i].length);
        length += field[i].length;
        if (i < SEQUENCE) memory[length++] = '.';
    }
    return (struct text){memory, length};
}

static int parse(struct reader *reader, struct head *head, struct sink *sink, struct error *error)
{
    (void)head;
    int magnitude = sink->band == 'B' ? BLUE : RED;
    struct text line, field[FIELDS_READ];
    char id[SPILL_ID_BYTES_MOST];
    sink->source = 0;
    sink->band_seen[sink->band == 'B'] = true;
    while (!reader_line(reader, &line, error) && line.start) {
        if (text_blank(line)) continue;
        if (fields_split(line, ';', field, FIELDS_READ) < FIELDS_LEAST)
            sink_short_row(sink);
        else if (sink_row(sink, make_id(field, id), field[DATE], field[magnitude], field[magnitude + 1], error))
            break;
    }
    return error->status;
}

const struct format format_macho_dump = {"MACHO dump", "a MACHO photometry dump: no header, 39 or more fields split by ';'",
                                         recognise, parse};
