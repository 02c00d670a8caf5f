/* SPDX-License-Identifier: MIT
 *
 * Files that commands write. */
#include "commands/files.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

bool files_same(const char *one, const char *other)
{
    struct stat first, second;
    return !stat(one, &first) && !stat(other, &second) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

int output_spares(const char *option, const char *out, const char *const *inputs, int count, const struct survey *survey,
                  struct error *error)
{
    const char *input = NULL;
    for (int i = 0; i < count; i++)
        if (inputs[i] && files_same(out, inputs[i])) input = inputs[i];
    for (int s = survey->rank; s < survey->shards; s += survey->ranks)
        if (files_same(out, survey->shard[s].path)) input = survey->shard[s].path;
    if (!input) return STATUS_OK;
    return error_set(error, STATUS_USAGE, "%s %s would overwrite %s, which is read; name another file", option, out, input);
}

int json_print(struct json *json, struct error *error)
{
    fflush(stdout);
    if (json_end(json, stdout)) error_set(error, STATUS_FAILED, "cannot write standard output: %s", strerror(errno));
    return error->status;
}

static int failed(const char *path, const char *what, struct error *error)
{
    return error_set(error, STATUS_FAILED, "%s: %s: %s", path, what, strerror(errno));
}

static void forget(struct text_file *text)
{
    memory_free(text->name);
    memory_free(text->partial);
    *text = (struct text_file){0};
}

int text_file_begin(struct text_file *text, const char *name, struct error *error)
{
    size_t bytes = strlen(name) + sizeof ".partial";
    *text = (struct text_file){.name = memory_new(bytes, 1, "a path"), .partial = memory_new(bytes, 1, "a path")};
    snprintf(text->name, bytes, "%s", name);
    snprintf(text->partial, bytes, "%s.partial", name);
    text->file = fopen(text->partial, "w");
    if (text->file) return STATUS_OK;
    failed(text->partial, "cannot be written", error);
    forget(text);
    return error->status;
}

int text_file_end(struct text_file *text, struct error *error)
{
    if (!text->file) return error->status;
    bool bad = ferror(text->file) != 0;
    bad |= fclose(text->file) != 0;
    if (bad && !error->status) failed(text->partial, "cannot be written", error);
    if (!error->status && rename(text->partial, text->name)) failed(text->name, "cannot take its name", error);
    if (error->status) unlink(text->partial);
    forget(text);
    return error->status;
}

int output_try(const char *out, struct error *error)
{
    struct text_file text;
    struct stat status;
    if (!stat(out, &status) && S_ISDIR(status.st_mode)) return error_set(error, STATUS_USAGE, "%s: is a folder", out);
    if (text_file_begin(&text, out, error)) return error->status;
    fclose(text.file);
    unlink(text.partial);
    forget(&text);
    return STATUS_OK;
}

void csv_put(FILE *file, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, file);
        return;
    }
    putc('"', file);
    for (; *text; text++) {
        if (*text == '"') putc('"', file);
        putc(*text, file);
    }
    putc('"', file);
}
