/* SPDX-License-Identifier: MIT
 *
 * Reading labels: all lines into one growing text, then sorted by id for the look-up. */
#include "survey/labels.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "survey/columns.h"
#include "survey/fields.h"

enum { LABEL_FIELDS_MOST = 64 };

/* A line while the file is read; places in the text, which still moves. */
struct entry {
    size_t id, class;
    int64_t line;
};

struct reading {
    struct entry *entry;
    size_t count, capacity;
    char *text;
    size_t bytes, text_capacity;
    int64_t first_line; /* of the file that is not blank */
    char delimiter;
    int id_column, class_column;
};

static size_t keep(struct reading *reading, struct text field)
{
    size_t place = reading->bytes;
    memory_grow((void **)&reading->text, &reading->text_capacity, place + field.length + 1, 1, "labels");
    memcpy(reading->text + place, field.start, field.length);
    reading->text[place + field.length] = 0;
    reading->bytes += field.length + 1;
    return place;
}

/* The delimiter of the first line: the one that cuts it into more than one field. */
static char find_delimiter(struct text line)
{
    static const char candidates[] = {',', ';', '\t'};
    for (size_t i = 0; i < sizeof candidates; i++)
        if (memchr(line.start, candidates[i], line.length)) return candidates[i];
    return ',';
}

/* The first line sets the delimiter and, when it names at least one of them as usual, the columns: *header. The line stays as it
 * is. */
static int read_header(struct reading *reading, const struct reader *reader, struct text line, bool *header, struct error *error)
{
    struct text field[LABEL_FIELDS_MOST];
    struct text copy = {memory_new(line.length, 1, "a header"), line.length};
    memcpy(copy.start, line.start, line.length);
    reading->delimiter = find_delimiter(line);
    int count = fields_split(copy, reading->delimiter, field, LABEL_FIELDS_MOST);
    if (count > LABEL_FIELDS_MOST) count = LABEL_FIELDS_MOST;
    int id = column_usual(field, count, COLUMN_ID), class = column_usual(field, count, COLUMN_CLASS);
    memory_free(copy.start);
    if (id == class) class = -1;
    *header = id >= 0 || class >= 0;
    if (!*header) return STATUS_OK;
    if ((id < 0 || class < 0) && count != 2)
        return error_set(error, STATUS_FAILED, "%s: line %lld is a header without a column named %s; name the column so",
                         reader->path, (long long)reader->line, id < 0 ? "id" : "class");
    reading->id_column = id >= 0 ? id : 1 - class; /* of two columns the other one */
    reading->class_column = class >= 0 ? class : 1 - id;
    return STATUS_OK;
}

static int read_line(struct reading *reading, const struct reader *reader, struct text line, struct error *error)
{
    struct text field[LABEL_FIELDS_MOST];
    int count = fields_split(line, reading->delimiter, field, LABEL_FIELDS_MOST);
    int needed = (reading->id_column > reading->class_column ? reading->id_column : reading->class_column) + 1;
    if (count < needed)
        return error_set(error, STATUS_FAILED, "%s: line %lld has no class; a line is id,class", reader->path,
                         (long long)reader->line);
    struct text id = field[reading->id_column], class = field[reading->class_column];
    if (id.length == 0 || memchr(id.start, 0, id.length) || memchr(class.start, 0, class.length))
        return error_set(error, STATUS_FAILED, "%s: line %lld has no id; a line is id,class", reader->path,
                         (long long)reader->line);
    if (class.length == 0) return STATUS_OK;
    memory_grow((void **)&reading->entry, &reading->capacity, reading->count + 1, sizeof *reading->entry, "labels");
    struct entry *entry = &reading->entry[reading->count++];
    entry->line = reader->line;
    entry->id = keep(reading, id);
    entry->class = keep(reading, class);
    return STATUS_OK;
}

static bool has_digit(const char *text)
{
    return strpbrk(text, "0123456789") != NULL;
}

/* The first line was taken for a label; it is a header in words that nobody knows when it is unlike all others. */
static void drop_unknown_header(struct reading *reading)
{
    if (reading->count < 2 || reading->entry[0].line != reading->first_line) return;
    const struct entry *entry = reading->entry;
    bool unlike = !has_digit(reading->text + entry[0].id);
    for (size_t i = 1; i < reading->count && unlike; i++)
        unlike = has_digit(reading->text + entry[i].id) && strcmp(reading->text + entry[0].class, reading->text + entry[i].class);
    if (unlike) memmove(reading->entry, reading->entry + 1, --reading->count * sizeof *reading->entry);
}

static int read_lines(struct reading *reading, struct reader *reader, struct error *error)
{
    struct text line;
    bool first = true;
    while (!reader_line(reader, &line, error) && line.start) {
        if (text_blank(line)) continue;
        bool header = false;
        if (first && read_header(reading, reader, line, &header, error)) break;
        if (first) reading->first_line = reader->line;
        first = false;
        if (!header && read_line(reading, reader, line, error)) break;
    }
    if (!error->status) drop_unknown_header(reading);
    if (!error->status && reading->count == 0)
        error_set(error, STATUS_FAILED, "%s: has no labels; a line is id,class", reader->path);
    return error->status;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The distinct class names in order. */
static void name_classes(struct labels *labels, const struct reading *reading)
{
    char **names = memory_new(reading->count, sizeof *names, "class names");
    for (size_t i = 0; i < reading->count; i++) names[i] = reading->text + reading->entry[i].class;
    qsort(names, reading->count, sizeof *names, by_text);
    size_t distinct = 0;
    for (size_t i = 0; i < reading->count; i++)
        if (i == 0 || strcmp(names[i], names[i - 1])) names[distinct++] = names[i];
    labels->class_count = (int)distinct;
    labels->classes = memory_new(distinct, sizeof *labels->classes, "class names");
    for (size_t i = 0; i < distinct; i++) labels->classes[i] = memory_string(names[i]);
    memory_free(names);
}

static int by_id(const void *a, const void *b)
{
    const struct label *left = a, *right = b;
    int order = strcmp(left->id, right->id);
    return order ? order : (left->class > right->class) - (left->class < right->class);
}

/* Sorts the labels and drops repeated lines. */
static int sort_labels(struct labels *labels, const struct reading *reading, const char *path, struct error *error)
{
    labels->label = memory_new(reading->count, sizeof *labels->label, "labels");
    for (size_t i = 0; i < reading->count; i++) {
        const char *class = reading->text + reading->entry[i].class;
        char **found = bsearch(&class, labels->classes, (size_t)labels->class_count, sizeof *labels->classes, by_text);
        labels->label[i] = (struct label){reading->text + reading->entry[i].id, (int32_t)(found - labels->classes)};
    }
    qsort(labels->label, reading->count, sizeof *labels->label, by_id);
    for (size_t i = 0; i < reading->count; i++) {
        struct label *last = labels->count ? &labels->label[labels->count - 1] : NULL;
        if (!last || strcmp(last->id, labels->label[i].id))
            labels->label[labels->count++] = labels->label[i];
        else if (last->class != labels->label[i].class)
            return error_set(error, STATUS_FAILED, "%s: gives %s two classes, %s and %s", path, last->id,
                             labels->classes[last->class], labels->classes[labels->label[i].class]);
    }
    labels->fate = memory_zeroed((size_t)labels->count, sizeof *labels->fate, "labels");
    return STATUS_OK;
}

int labels_read(struct labels *labels, const char *path, struct error *error)
{
    struct reader reader;
    struct reading reading = {.id_column = 0, .class_column = 1};
    *labels = (struct labels){0};
    if (reader_open(&reader, path, error)) return error->status;
    if (read_lines(&reading, &reader, error)) goto cleanup;
    labels->text = reading.text;
    name_classes(labels, &reading);
    sort_labels(labels, &reading, path, error);
cleanup:
    if (!labels->text) memory_free(reading.text);
    if (error->status) labels_release(labels);
    memory_free(reading.entry);
    reader_close(&reader);
    return error->status;
}

void labels_release(struct labels *labels)
{
    for (int i = 0; i < labels->class_count; i++) memory_free(labels->classes[i]);
    memory_free(labels->classes);
    memory_free(labels->label);
    memory_free(labels->fate);
    memory_free(labels->text);
    *labels = (struct labels){0};
}

static int64_t find_exactly(const struct labels *labels, const char *id)
{
    struct label key = {id, 0};
    int64_t low = 0, high = labels->count - 1;
    while (low <= high) {
        int64_t middle = (low + high) / 2;
        int order = strcmp(key.id, labels->label[middle].id);
        if (order == 0) return middle;
        if (order < 0)
            high = middle - 1;
        else
            low = middle + 1;
    }
    return -1;
}

int64_t labels_find(const struct labels *labels, const char *id)
{
    int64_t found = find_exactly(labels, id);
    size_t length = strlen(id);
    if (found >= 0 || length < 3 || length >= 256) return found;
    if (strcmp(id + length - 2, ".R") && strcmp(id + length - 2, ".B")) return -1;
    char without[256];
    memcpy(without, id, length - 2);
    without[length - 2] = 0;
    return find_exactly(labels, without);
}
