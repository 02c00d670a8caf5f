/* SPDX-License-Identifier: MIT
 *
 * Golden files without HDF5, as bench/gpu_parts/golden_flat.py writes them. Lines of text, then numbers:
 *     astromer golden 1
 *     number GROUP NAME VALUE       an attribute; GROUP is / for the file's own
 *     text GROUP NAME VALUE
 *     values NAME COUNT OFFSET      a dataset: COUNT float64 in the machine's order, OFFSET elements behind the text
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

static const struct line *find(const struct golden_file *file, const char *kind, const char *first, const char *second)
{
    for (size_t i = 0; i < file->lines; i++) {
        const struct line *line = &file->line[i];
        if (!strcmp(line->kind, kind) && !strcmp(line->first, first) && (!second || !strcmp(line->second, second))) return line;
    }
    return NULL;
}

int64_t golden_file_count(const struct golden_file *file, const char *name)
{
    const struct line *set = find(file, "values", name, NULL);
    if (set) return strtoll(set->second, NULL, 10);
    int64_t members = 0;
    size_t length = strlen(name);
    for (size_t i = 0; i < file->lines; i++) {
        const struct line *line = &file->line[i];
        members += !strcmp(line->kind, "values") && !strncmp(line->first, name, length) && line->first[length] == '/';
    }
    return members ? members : -1;
}

bool golden_file_values(const struct golden_file *file, const char *name, double *values)
{
    const struct line *set = find(file, "values", name, NULL);
    size_t count = set ? (size_t)strtoll(set->second, NULL, 10) : 0;
    return set &&
           !fseek(file->file, file->values + (long)(strtoll(set->third, NULL, 10) * (long long)sizeof *values), SEEK_SET) &&
           fread(values, sizeof *values, count, file->file) == count;
}

bool golden_file_number(const struct golden_file *file, const char *group, const char *name, double *value)
{
    const struct line *line = find(file, "number", group, name);
    char *end = NULL;
    if (line) *value = strtod(line->third, &end);
    return line && !*end;
}

bool golden_file_text(const struct golden_file *file, const char *group, const char *name, char *text, size_t bytes)
{
    const struct line *line = find(file, "text", group, name);
    if (line) snprintf(text, bytes, "%s", line->third);
    return line != NULL;
}
