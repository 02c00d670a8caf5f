/* SPDX-License-Identifier: MIT
 *
 * The files that the words of a command line mean: a word is a file, or a folder with all the files in it and below it. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "survey/ingest.h"

enum { DEPTH_MOST = 32 }; /* links can make folders endless */

struct list {
    char **path;
    size_t count, capacity;
};

static void append(struct list *list, const char *path)
{
    memory_grow((void **)&list->path, &list->capacity, list->count + 1, sizeof *list->path, "the list of files");
    list->path[list->count++] = memory_string(path);
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int append_folder(struct list *list, const char *folder, int depth, struct error *error);

static int append_word(struct list *list, const char *path, int depth, struct error *error)
{
    struct stat status;
    if (stat(path, &status)) return error_set(error, STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    if (S_ISDIR(status.st_mode)) return append_folder(list, path, depth + 1, error);
    append(list, path);
    return STATUS_OK;
}

static int append_folder(struct list *list, const char *folder, int depth, struct error *error)
{
    char path[PATH_MAX];
    struct dirent **entry;
    if (depth > DEPTH_MOST) return error_set(error, STATUS_FAILED, "%s: lies too deep among folders", folder);
    int count = scandir(folder, &entry, not_hidden, alphasort);
    if (count < 0) return error_set(error, STATUS_FAILED, "%s: cannot be read: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        if (!error->status && snprintf(path, sizeof path, "%s/%s", folder, entry[i]->d_name) >= (int)sizeof path)
            error_set(error, STATUS_FAILED, "%s/%s: the path is too long", folder, entry[i]->d_name);
        if (!error->status) append_word(list, path, depth, error);
        free(entry[i]);
    }
    free(entry);
    return error->status;
}

/* Rank 0's list becomes that of all. Collective. */
static void share(struct list *list, struct comm *comm)
{
    int64_t size[2] = {(int64_t)list->count, 0}; /* paths, bytes of all */
    for (size_t i = 0; i < list->count; i++) size[1] += (int64_t)strlen(list->path[i]) + 1;
    comm_broadcast(comm, size, sizeof size, 0);
    char *text = memory_new((size_t)size[1], 1, "the list of files"), *next = text;
    for (size_t i = 0; i < list->count; i++) next = stpcpy(next, list->path[i]) + 1;
    comm_broadcast(comm, text, (size_t)size[1], 0);
    next = text;
    for (int64_t i = (int64_t)list->count; i < size[0]; i++, next += strlen(next) + 1) append(list, next);
    memory_free(text);
}

int ingest_expand(int count, char *const *words, int *files, char ***paths, struct comm *comm, struct error *error)
{
    struct list list = {0};
    bool looks = comm_rank(comm) == 0;
    for (int i = 0; looks && i < count && !error->status; i++) append_word(&list, words[i], 0, error);
    if (looks && !error->status && list.count == 0) error_set(error, STATUS_FAILED, "%s: has no files in it", words[0]);
    if (!error->status && list.count > INT_MAX / 2) error_set(error, STATUS_FAILED, "%zu files are too many", list.count);
    if (!comm_agree(comm, error)) {
        share(&list, comm);
    } else {
        ingest_paths_release((int)list.count, list.path);
        list = (struct list){0};
    }
    *files = (int)list.count;
    *paths = list.path;
    return error->status;
}

void ingest_paths_release(int files, char **paths)
{
    for (int i = 0; i < files; i++) memory_free(paths[i]);
    memory_free(paths);
}
