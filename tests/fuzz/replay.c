/* SPDX-License-Identifier: MIT
 *
 * Feeds a corpus to the targets: replay CORPUS, a folder that has a folder of inputs for each target; or replay CORPUS TARGET.
 * Any compiler will do. Exit status 1 when a folder has no target, a target no input. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hdf5.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/progress.h"
#include "targets.h"

enum { INPUT_BYTES_MOST = 1 << 20, SECONDS_MOST = 60 };

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* An exact copy on the heap, so that a sanitizer sees a read past the end. */
static void replay_file(const struct fuzz_target *target, const char *folder, const char *path)
{
    uint8_t *bytes = memory_new(INPUT_BYTES_MOST, 1, "an input");
    FILE *file = fopen(path, "rb");
    CHECK(file, "%s cannot be opened", path);
    size_t count = fread(bytes, 1, INPUT_BYTES_MOST, file);
    fclose(file);
    uint8_t *exact = malloc(count ? count : 1);
    CHECK(exact, "out of memory");
    memcpy(exact, bytes, count);
    memory_free(bytes);
    printf("%s\n", path);
    fflush(stdout); /* so that it is known which one it was */
    double start = clock_seconds();
    target->run(folder, exact, count);
    double seconds = clock_seconds() - start;
    CHECK(seconds < SECONDS_MOST, "%s took %.0f s", path, seconds);
    free(exact);
}

/* Returns how many inputs there were, or -1 without a target. */
static int replay_target(const char *corpus, const char *name, const char *folder)
{
    char path[4096];
    struct dirent **entry;
    const struct fuzz_target *target = fuzz_target_find(name);
    snprintf(path, sizeof path, "%s/%s", corpus, name);
    int count = target ? scandir(path, &entry, not_hidden, alphasort) : -1;
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", corpus, name, entry[i]->d_name);
        free(entry[i]);
        replay_file(target, folder, path);
    }
    if (count >= 0) free(entry);
    printf("%s: %d inputs\n", name, count);
    return count;
}

static int replay_all(const char *corpus, const char *folder)
{
    struct dirent **entry;
    int count = scandir(corpus, &entry, not_hidden, alphasort), failed = count <= 0;
    for (int i = 0; i < count; i++) {
        failed |= replay_target(corpus, entry[i]->d_name, folder) <= 0;
        free(entry[i]);
    }
    if (count >= 0) free(entry);
    const struct fuzz_target *const tables[] = {fuzz_text_targets, fuzz_hdf5_targets};
    int targets = 0;
    for (int t = 0; t < 2; t++)
        for (const struct fuzz_target *target = tables[t]; target->name; target++) targets++;
    if (count == targets) return failed;
    printf("%d folders in the corpus, but %d targets\n", count, targets);
    return 1;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2 || argc == 3, "usage: replay CORPUS [TARGET]");
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    const char *folder = fuzz_folder_make();
    int failed = argc == 3 ? replay_target(argv[1], argv[2], folder) <= 0 : replay_all(argv[1], folder);
    fuzz_folder_remove(folder);
    return failed;
}
