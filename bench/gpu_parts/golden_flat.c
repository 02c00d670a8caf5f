/* SPDX-License-Identifier: MIT
 *
 * Golden files without HDF5, as bench/gpu_parts/golden_flat.py writes them. Lines of text, then numbers:
 *     astromer golden 1
 *     number GROUP NAME VALUE       an attribute; GROUP is / for the file's own
 *     text GROUP NAME VALUE
 *     float64 NAME COUNT OFFSET     a dataset: COUNT numbers in the machine's order, OFFSET bytes behind the text
 *     float32 NAME COUNT OFFSET
 *     end                           and blanks up to a multiple of 8 bytes */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "commands/golden.h"

enum { NAME_BYTES = 96 };

struct line {
    char kind[8], first[NAME_BYTES], second[NAME_BYTES], third[NAME_BYTES];
};

struct golden_file {
    FILE *file;
    long values; /* where they begin */
    struct line *line;
    size_t lines, capacity;
};

static bool read_lines(struct golden_file *f)
{
    char text[4 * NAME_BYTES];
    if (!fgets(text, sizeof text, f->file) || strcmp(text, "astromer golden 1\n")) return false;
    while (fgets(text, sizeof text, f->file)) {
        struct line line = {0};
        void *array = f->line;
        if (!strncmp(text, "end", 3)) return true;
        if (sscanf(text, "%7s %95s %95s %95s", line.kind, line.first, line.second, line.third) != 4) return false;
        memory_grow(&array, &f->capacity, f->lines + 1, sizeof line, "a golden file's lines");
        f->line = array;
        f->line[f->lines++] = line;
    }
    return false;
}

int golden_file_open(struct golden_file **file, const char *path, struct error *error)
{
    struct golden_file *f = memory_zeroed(1, sizeof *f, "a golden file");
    f->file = fopen(path, "rb");
    *file = f;
    if (!f->file || !read_lines(f))
        return error_set(error, STATUS_FAILED, "%s: is not there or not a golden file of bench/gpu", path);
    f->values = (ftell(f->file) + 7) / 8 * 8;
    return STATUS_OK;
}

void golden_file_close(struct golden_file *file)
{
    if (!file) return;
    if (file->file) fclose(file->file);
    memory_free(file->line);
    memory_free(file);
}

static const struct line *find_attribute(const struct golden_file *file, const char *kind, const char *group, const char *name)
{
    for (size_t i = 0; i < file->lines; i++) {
        const struct line *line = &file->line[i];
        if (!strcmp(line->kind, kind) && !strcmp(line->first, group) && !strcmp(line->second, name)) return line;
    }
    return NULL;
}

static bool is_dataset(const struct line *line)
{
    return !strncmp(line->kind, "float", 5);
}

static const struct line *find_dataset(const struct golden_file *file, const char *name)
{
    for (size_t i = 0; i < file->lines; i++)
        if (is_dataset(&file->line[i]) && !strcmp(file->line[i].first, name)) return &file->line[i];
    return NULL;
}

int64_t golden_file_count(const struct golden_file *file, const char *name)
{
    const struct line *set = find_dataset(file, name);
    if (set) return strtoll(set->second, NULL, 10);
    int64_t members = 0;
    size_t length = strlen(name);
    for (size_t i = 0; i < file->lines; i++) {
        const struct line *line = &file->line[i];
        members += is_dataset(line) && !strncmp(line->first, name, length) && line->first[length] == '/';
    }
    return members ? members : -1;
}

bool golden_file_values(const struct golden_file *file, const char *name, double *values)
{
    const struct line *set = find_dataset(file, name);
    size_t count = set ? (size_t)strtoll(set->second, NULL, 10) : 0;
    if (!set || fseek(file->file, file->values + strtol(set->third, NULL, 10), SEEK_SET)) return false;
    if (!strcmp(set->kind, "float64")) return fread(values, sizeof *values, count, file->file) == count;
    float *single = memory_new(count, sizeof *single, "a golden tensor");
    bool whole = fread(single, sizeof *single, count, file->file) == count;
    for (size_t i = 0; whole && i < count; i++) values[i] = (double)single[i];
    memory_free(single);
    return whole;
}

bool golden_file_number(const struct golden_file *file, const char *group, const char *name, double *value)
{
    const struct line *line = find_attribute(file, "number", group, name);
    char *end = NULL;
    if (line) *value = strtod(line->third, &end);
    return line && !*end;
}

bool golden_file_text(const struct golden_file *file, const char *group, const char *name, char *text, size_t bytes)
{
    const struct line *line = find_attribute(file, "text", group, name);
    if (line) snprintf(text, bytes, "%s", line->third);
    return line != NULL;
}
