/* SPDX-License-Identifier: MIT
 *
 * A file without a header that is one star: `time,mag,err` and nothing else on a line, cut by comma, semicolon, tab or blanks.
 * Its id is the file's name. */
#include <string.h>

#include "survey/formats/formats.h"

/* The first data line must have a number, or else it is a header nobody knows; any of the first lines tells the delimiter. */
static char find_delimiter(struct head *head)
{
    struct text field[2];
    double value;
    int data = head_data_line(head);
    char delimiter = 0;
    for (int i = data; i >= 0 && i < head->lines && !delimiter; i++) delimiter = three_numbers(head, i);
    if (!delimiter) return 0;
    int count = head_split(head, data, delimiter, field, 2);
    bool number = count >= 1 && field_number(field[0], &value);
    number |= count >= 2 && field_number(field[1], &value);
    return number ? delimiter : 0;
}

static bool recognise(struct head *head, const struct sink *sink)
{
    (void)sink;
    return find_delimiter(head) != 0;
}

static int parse(struct reader *reader, struct head *head, struct sink *sink, struct error *error)
{

    char stem[NAME_BYTES], delimiter = find_delimiter(head);
    struct text line, field[3];
    name_stem(stem, head->name);
    sink->source = sink->file_number;
    while (!reader_line(reader, &line, error) && line.start) {
        if (text_blank(line) || line.start[0] == '#') continue;
        if (fields_split(line, delimiter, field, 3) < 3)
            sink_short_row(sink);
        else if (sink_row(sink, (struct text){stem, strlen(stem)}, field[0], field[1], field[2], error))
            break;
    }
    return error->status;
}

const struct format format_star_csv = {"star table", "a table without a header, time,mag,err, whose name is the star's id",
                                       recognise, parse};
