/* SPDX-License-Identifier: MIT
 *
 * A table with a header: id, time, magnitude and error under their usual names or those of --columns, cut by comma, semicolon or
 * tab. The rows of a star need not be adjacent. Without an id column the file is one star, whose id is the file's name. Where a
 * column says the band, only the rows of one band are taken: that of --band, or the only one that there is. */
#include <string.h>

#include "base/memory.h"
#include "survey/formats/formats.h"

enum { CSV_FIELDS_MOST = 256 };

/* Which column is which; id -1 when the file is one star, band -1 when no column says it. */
struct layout {
    int column[COLUMNS_NAMED];
    int needed; /* fields that a row must have */
    char delimiter;
};

/* Takes a line as the header; false when it is none. A '#' in front is allowed. The line may be changed. */
static bool read_header(struct layout *layout, struct text line, const struct columns *columns, char delimiter)
{
    struct text field[CSV_FIELDS_MOST];
    line = text_trim(line);
    if (line.length && line.start[0] == '#') line = text_trim((struct text){line.start + 1, line.length - 1});
    int count = fields_split(line, delimiter, field, CSV_FIELDS_MOST);
    if (count > CSV_FIELDS_MOST) count = CSV_FIELDS_MOST;
    layout->needed = 0;
    layout->delimiter = delimiter;
    for (int c = 0; c < COLUMNS_NAMED; c++) {
        layout->column[c] = column_find(columns, field, count, (enum column)c);
        bool needed = (c != COLUMN_ID && c != COLUMN_BAND) || columns->name[c];
        if (layout->column[c] < 0 && needed) return false;
        if (layout->column[c] >= layout->needed) layout->needed = layout->column[c] + 1;
    }
    return true;
}

/* Finds the header among the first lines: only comments and blank lines may stand ahead of it. Returns its line, or -1. */
static int find_header(struct layout *layout, const struct head *head, const struct columns *columns)
{
    static const char delimiters[] = {',', ';', '\t'};
    for (int i = 0; i < head->lines; i++) {
        struct text line = head->line[i];
        for (size_t d = 0; d < sizeof delimiters; d++) {
            memcpy(head->scratch, line.start, line.length);
            if (read_header(layout, (struct text){head->scratch, line.length}, columns, delimiters[d])) return i;
        }
        if (!text_blank(line) && text_trim(line).start[0] != '#') return -1;
    }
    return -1;
}

static bool recognise(struct head *head, const struct sink *sink)
{
    struct layout layout;
    return find_header(&layout, head, sink->columns) >= 0;
}

static int parse(struct reader *reader, struct head *head, struct sink *sink, struct error *error)
{
    struct layout layout;
    struct text line, field[CSV_FIELDS_MOST];
    char stem[NAME_BYTES];
    int header = find_header(&layout, head, sink->columns);
    const int *column = layout.column;
    name_stem(stem, head->name);
    struct text id = {stem, strlen(stem)};
    sink->source = column[COLUMN_ID] < 0 ? sink->file_number : 0;
    while (!reader_line(reader, &line, error) && line.start) {
        if (reader->line <= header + 1 || text_blank(line) || line.start[0] == '#') continue;
        if (fields_split(line, layout.delimiter, field, layout.needed) < layout.needed) {
            sink_short_row(sink);
            continue;
        }
        if (column[COLUMN_BAND] >= 0) {
            bool taken = false;
            if (sink_band(sink, reader, field[column[COLUMN_BAND]], &taken, error)) break;
            if (!taken) continue;
        }
        if (column[COLUMN_ID] >= 0) id = field[column[COLUMN_ID]];
        if (sink_row(sink, id, field[column[COLUMN_TIME]], field[column[COLUMN_MAGNITUDE]], field[column[COLUMN_ERROR]], error))
            break;
    }
    return error->status;
}

const struct format format_long_csv = {"table", "a CSV table with a header that names id, time (mjd), mag and err", recognise,
                                       parse};
