/* SPDX-License-Identifier: MIT
 *
 * A table with a header: id, time, magnitude and error under their usual names or those of --columns, cut by comma, semicolon or
 * tab. The rows of a star need not be adjacent. Without an id column the file is one star, whose id is the file's name; a column
 * that might be the id under another name has to be told of first, for else all stars would become one. Where a
 * column says the band, only the rows of one band are taken: that of --band, or the only one that there is. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "survey/formats/formats.h"

enum { CSV_FIELDS_MOST = 256, SUSPECT_BYTES = 64 };

/* Which column is which; id -1 when the file is one star, band -1 when no column says it. */
struct layout {
    int column[COLUMNS_NAMED];
    int needed; /* fields that a row must have */
    char delimiter;
    char suspect[SUSPECT_BYTES]; /* what may be the id where no column is; "" when none looks like it */
};

static bool is_comment(struct text line)
{
    line = text_trim(line);
    return line.length && line.start[0] == '#';
}

/* Without the blanks around it, but with a tab in front that begins its second column. */
static struct text without_blanks(struct text line, char delimiter)
{
    while (delimiter == '\t' && line.length && line.start[0] == ' ') line.start++, line.length--;
    return delimiter == '\t' ? line : text_trim(line);
}

static void find_suspect(struct layout *layout, const struct text *field, int count)
{
    layout->suspect[0] = 0;
    for (int i = 0; i < count && !layout->suspect[0]; i++)
        if (column_looks_like_id(field[i]) && field[i].length < SUSPECT_BYTES)
            snprintf(layout->suspect, SUSPECT_BYTES, "%.*s", (int)field[i].length, field[i].start);
}

/* Takes a line as the header; false when it is none. A '#' in front is allowed. The line may be changed. */
static bool read_header(struct layout *layout, struct text line, const struct columns *columns, char delimiter)
{
    struct text field[CSV_FIELDS_MOST];
    if (is_comment(line)) {
        line = text_trim(line);
        line = text_trim((struct text){line.start + 1, line.length - 1});
    } else {
        line = without_blanks(line, delimiter);
    }
    int count = fields_split(line, delimiter, field, CSV_FIELDS_MOST);
    if (count > CSV_FIELDS_MOST) count = CSV_FIELDS_MOST;
    layout->needed = 0;
    layout->delimiter = delimiter;
    for (int c = 0; c < COLUMNS_NAMED; c++) {
        bool one_star = c == COLUMN_ID && columns_say_one_star(columns);
        layout->column[c] = one_star ? -1 : column_find(columns, field, count, (enum column)c);
        bool needed = (c != COLUMN_ID && c != COLUMN_BAND) || (columns->name[c] && !one_star);
        if (layout->column[c] < 0 && needed) return false;
        if (layout->column[c] >= layout->needed) layout->needed = layout->column[c] + 1;
    }
    find_suspect(layout, field, layout->column[COLUMN_ID] < 0 && !columns_say_one_star(columns) ? count : 0);
    return true;
}

/* The same with whatever delimiter makes it one. */
static bool is_header(struct layout *layout, const struct head *head, int line, const struct columns *columns)
{
    static const char delimiters[] = {',', ';', '\t'};
    for (size_t d = 0; d < sizeof delimiters; d++) {
        size_t length = head->line[line].length;
        memcpy(head->scratch, head->line[line].start, length);
        if (read_header(layout, (struct text){head->scratch, length}, columns, delimiters[d])) return true;
    }
    return false;
}

/* Finds the header among the first lines: only comments and blank lines may stand ahead of it. A comment that could be one is it
 * only where the first other line is none. Returns its line, or -1. */
static int find_header(struct layout *layout, const struct head *head, const struct columns *columns)
{
    int data = head_data_line(head);
    if (data >= 0 && is_header(layout, head, data, columns)) return data;
    for (int i = 0; i < (data < 0 ? head->lines : data); i++)
        if (is_comment(head->line[i]) && is_header(layout, head, i, columns)) return i;
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
    if (layout.suspect[0])
        return error_set(error, STATUS_FAILED,
                         "%s: which column names the stars? '%s' looks like it: --columns id=%s, or --columns id=none where the "
                         "file is one star",
                         reader->path, layout.suspect, layout.suspect);
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
