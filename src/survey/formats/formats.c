/* SPDX-License-Identifier: MIT
 *
 * The table of the raw formats, and what they share. */
#include "survey/formats/formats.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "base/text.h"

/* MJD 0. No observation has an MJD that large (it is in the year 8429): a greater time is a Julian date. */
static const double JULIAN_DATE = 2400000.5;

/* The first that recognises a file has it: a header that names the columns says more than what the rows look like. */
static const struct format *const formats[] = {&format_macho_star, &format_long_csv, &format_macho_dump, &format_star_csv};
enum { FORMATS = sizeof formats / sizeof formats[0] };

static void head_read(struct head *head, const struct reader *reader)
{
    struct text line[HEAD_LINES];
    size_t bytes = 0, longest = 0;
    const char *slash = strrchr(reader->path, '/');
    *head = (struct head){.name = slash ? slash + 1 : reader->path};
    head->lines = reader_peek(reader, line, HEAD_LINES);
    for (int i = 0; i < head->lines; i++) {
        bytes += line[i].length;
        longest = line[i].length > longest ? line[i].length : longest;
    }
    char *next = head->memory = memory_new(bytes, 1, "the first lines of a file");
    head->scratch = memory_new(longest, 1, "the first lines of a file");
    for (int i = 0; i < head->lines; i++) {
        memcpy(next, line[i].start, line[i].length);
        head->line[i] = (struct text){next, line[i].length};
        next += line[i].length;
    }
}

void head_release(struct head *head)
{
    memory_free(head->memory);
    memory_free(head->scratch);
    *head = (struct head){0};
}

int head_split(struct head *head, int line, char delimiter, struct text *fields, int most)
{
    memcpy(head->scratch, head->line[line].start, head->line[line].length);
    return fields_split((struct text){head->scratch, head->line[line].length}, delimiter, fields, most);
}

int head_data_line(const struct head *head)
{
    for (int i = 0; i < head->lines; i++) {
        struct text line = text_trim(head->line[i]);
        if (line.length && line.start[0] != '#') return i;
    }
    return -1;
}

char three_numbers(struct head *head, int line)
{
    static const char delimiters[] = {',', ';', '\t', BLANKS};
    for (size_t d = 0; d < sizeof delimiters; d++) {
        struct text field[3];
        double value;
        if (head_split(head, line, delimiters[d], field, 3) != 3) continue;
        if (field_number(field[0], &value) && field_number(field[1], &value) && field_number(field[2], &value))
            return delimiters[d];
    }
    return 0;
}

/* The first line that is not blank, cut and made printable. */
static const char *first_line(const struct head *head, char out[SHOWN_TEXT])
{
    char copy[SHOWN_TEXT] = "";
    for (int i = 0; i < head->lines && !copy[0]; i++) {
        struct text line = text_trim(head->line[i]);
        size_t length = line.length < SHOWN_TEXT - 1 ? line.length : SHOWN_TEXT - 1;
        for (size_t c = 0; c < length; c++) copy[c] = line.start[c] ? line.start[c] : '?';
        copy[length] = 0;
    }
    return shown(copy, out);
}

const struct format *format_find(const struct reader *reader, struct head *head, const struct sink *sink, struct error *error)
{
    char line[SHOWN_TEXT];
    head_read(head, reader);
    for (int i = 0; i < FORMATS; i++)
        if (formats[i]->recognise(head, sink)) return formats[i];
    error_set(error, STATUS_FAILED,
              "%s: is in no format that ingest knows, its first line is '%s'; see astromer help ingest, and --columns for a "
              "table whose "
              "columns have other names",
              reader->path, first_line(head, line));
    head_release(head);
    return NULL;
}

void name_stem(char stem[NAME_BYTES], const char *name)
{
    static const char *const endings[] = {".csv", ".tsv", ".txt", ".dat", ".data", ".lc", ".mjd", ".tab", ".asc", ".ascii"};
    size_t length = strnlen(name, NAME_BYTES - 1);
    memcpy(stem, name, length);
    stem[length] = 0;
    if (length > 3 && !strcasecmp(stem + length - 3, ".gz")) stem[length -= 3] = 0;
    char *dot = strrchr(stem, '.');
    for (size_t i = 0; dot && dot > stem && i < sizeof endings / sizeof endings[0]; i++) {
        if (strcasecmp(dot, endings[i])) continue;
        *dot = 0;
        return;
    }
}

/* Something that can name a star: printable, not too long. */
static bool usable_id(struct text id)
{
    if (id.length == 0 || id.length > SPILL_ID_BYTES_MOST) return false;
    for (size_t i = 0; i < id.length; i++)
        if ((unsigned char)id.start[i] < ' ' || id.start[i] == 0x7f) return false;
    return true;
}

/* Counts a row, and now and then tells people so. */
static void count_row(struct sink *sink)
{
    enum { ROWS_BETWEEN_LOOKS = 1 << 14 };
    int64_t rows = ++sink->tally[TALLY_ROWS];
    if (rows % ROWS_BETWEEN_LOOKS || !progress_due(sink->progress)) return;
    progress_show(sink->progress, "reading: %.2f million rows, file %u of %d", (double)rows * 1e-6, sink->file_number,
                  sink->files);
}

void sink_short_row(struct sink *sink)
{
    count_row(sink);
    sink->tally[TALLY_BAD_FIELDS]++;
}

/* The band as text that ends. */
static bool copy_band(char out[BAND_BYTES], struct text band)
{
    if (band.length >= BAND_BYTES || memchr(band.start, 0, band.length)) return false;
    memcpy(out, band.start, band.length);
    out[band.length] = 0;
    return true;
}

int sink_band(struct sink *sink, const struct reader *reader, struct text band, bool *taken, struct error *error)
{
    char name[BAND_BYTES], quoted[2][SHOWN_TEXT];
    const char *wanted = sink->wanted ? sink->wanted : sink->table_band;
    *taken = false;
    if (band.length == 0) {
        sink_short_row(sink);
        return STATUS_OK;
    }
    *taken = strlen(wanted) == band.length && !memcmp(wanted, band.start, band.length);
    if (*taken) return STATUS_OK;
    if (!copy_band(name, band))
        return error_set(error, STATUS_FAILED, "%s: line %lld: what its band column holds is no name of a band", reader->path,
                         (long long)reader->line);
    if (!sink->table_band[0]) memcpy(sink->table_band, name, sizeof name);
    if (sink->wanted) {
        count_row(sink);
        sink->tally[TALLY_OTHER_BAND]++;
        return STATUS_OK;
    }
    *taken = !strcmp(sink->table_band, name);
    if (*taken) return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "%s: line %lld is of band '%s', and others are of band '%s'; a survey has one band, choose it with --band",
                     reader->path, (long long)reader->line, shown(name, quoted[0]), shown(sink->table_band, quoted[1]));
}

int sink_row(struct sink *sink, struct text id, struct text time, struct text magnitude, struct text error_mag,
             struct error *error)
{
    struct observation row;
    double day, mag, mag_error;
    count_row(sink);
    if (!usable_id(id)) {
        sink->tally[TALLY_BAD_ID]++;
        return STATUS_OK;
    }
    if (spill_star(sink->spill, id.start, id.length, sink->source, error)) return error->status;
    if (!field_number(time, &day) || !field_number(magnitude, &mag) || !field_number(error_mag, &mag_error) ||
        !isfinite((float)mag)) {
        sink->tally[TALLY_BAD_NUMBER]++;
        return STATUS_OK;
    }
    if (day > JULIAN_DATE) {
        day -= JULIAN_DATE;
        sink->tally[TALLY_JULIAN]++;
    }
    /* Adding zero makes -0 a 0: rows that compare equal must be equal. */
    row = (struct observation){day + 0.0, field_float(magnitude, mag) + 0.0f, field_float(error_mag, mag_error)};
    if (!(row.error > 0 && row.error < 1 && isfinite(1 / row.error))) { /* a weight is made of the inverse */
        sink->tally[TALLY_BAD_ERROR]++;
        return STATUS_OK;
    }
    return spill_row(sink->spill, &row, error);
}
