/* SPDX-License-Identifier: MIT
 *
 * The reading end of a spill: all runs of one shard, grouped by star through a hash table and laid out in the order of the ids.
 * Two walks over the runs: the first counts, the second copies. */
#include "survey/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/spill_file.h"

/* The spilled runs of one shard, as they lie in the files. */
struct runs {
    unsigned char *data;
    size_t bytes;
};

/* The length of one rank's file; 0 when it had nothing for the shard. */
static int file_length(const char *path, size_t *bytes, struct error *error)
{
    struct stat status;
    *bytes = 0;
    if (stat(path, &status))
        return errno == ENOENT ? STATUS_OK : error_set(error, STATUS_FAILED, "%s: cannot be read: %s", path, strerror(errno));
    *bytes = (size_t)status.st_size;
    return STATUS_OK;
}

static int read_file(const char *path, unsigned char *data, size_t bytes, struct error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(error, STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    while (bytes) {
        ssize_t got = read(fd, data, bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            error_set(error, STATUS_FAILED, "%s: cannot be read: %s", path, got ? strerror(errno) : "it became shorter");
            break;
        }
        data += got;
        bytes -= (size_t)got;
    }
    close(fd);
    return error->status;
}

/* All ranks' files of a shard, one behind the other. */
static int read_runs(struct runs *runs, const char *folder, int ranks, int shard, struct error *error)
{
    char path[PATH_MAX];
    size_t bytes, used = 0;
    for (int r = 0; r < ranks; r++) {
        spill_file_path(path, folder, r, shard);
        if (file_length(path, &bytes, error)) return error->status;
        runs->bytes += bytes;
    }
    runs->data = memory_new(runs->bytes, 1, "the rows of a shard");
    for (int r = 0; r < ranks; r++) {
        spill_file_path(path, folder, r, shard);
        if (file_length(path, &bytes, error)) return error->status;
        if (bytes > runs->bytes - used) return error_set(error, STATUS_FAILED, "%s: became longer while it was read", path);
        if (bytes && read_file(path, runs->data + used, bytes, error)) return error->status;
        used += bytes;
    }
    runs->bytes = used;
    return STATUS_OK;
}

/* The run at a place, and the place of the next; NULL at the end or where a file was cut. */
static struct run_header *run_at(const struct runs *runs, size_t *place)
{
    if (runs->bytes - *place < sizeof(struct run_header)) return NULL;
    struct run_header *header = (struct run_header *)(void *)(runs->data + *place);
    size_t bytes = sizeof *header + spill_id_room(header->id_bytes) + header->rows * sizeof(struct observation);
    if (runs->bytes - *place < bytes) return NULL;
    *place += bytes;
    return header;
}

static const char *run_id(const struct run_header *header)
{
    return (const char *)(header + 1);
}

static const struct observation *run_rows(const struct run_header *header)
{
    return (const struct observation *)(const void *)(run_id(header) + spill_id_room(header->id_bytes));
}

/* While stars are found: `star` in the order of appearance, `run` the first run of each, `slot` an open hash of both. */
struct index {
    size_t count, star_capacity, run_capacity, slots;
    struct star *star;
    struct run_header **run;
    uint32_t *slot; /* star + 1, or 0 */
};

static void index_rehash(struct index *index, size_t slots)
{
    memory_free(index->slot);
    index->slot = memory_zeroed(slots, sizeof *index->slot, "the index of a shard's stars");
    index->slots = slots;
    for (size_t i = 0; i < index->count; i++) {
        size_t at = bytes_hash(run_id(index->run[i]), index->run[i]->id_bytes) & (slots - 1);
        while (index->slot[at]) at = (at + 1) & (slots - 1);
        index->slot[at] = (uint32_t)(i + 1);
    }
}

/* The number of the run's star, a new one when it is the first of it. */
static uint32_t index_star(struct index *index, struct run_header *run)
{
    if (2 * index->count >= index->slots) index_rehash(index, index->slots ? 4 * index->slots : 1024);
    size_t at = bytes_hash(run_id(run), run->id_bytes) & (index->slots - 1);
    for (; index->slot[at]; at = (at + 1) & (index->slots - 1)) {
        uint32_t star = index->slot[at] - 1;
        const struct run_header *first = index->run[star];
        if (first->id_bytes == run->id_bytes && !memcmp(run_id(first), run_id(run), run->id_bytes)) return star;
    }
    CHECK(index->count < UINT32_MAX - 1, "too many stars in a shard");
    memory_grow((void **)&index->star, &index->star_capacity, index->count + 1, sizeof *index->star, "the stars of a shard");
    memory_grow((void **)&index->run, &index->run_capacity, index->count + 1, sizeof *index->run, "the stars of a shard");
    index->star[index->count] = (struct star){.source = run->source};
    index->run[index->count] = run;
    index->slot[at] = (uint32_t)++index->count;
    return (uint32_t)(index->count - 1);
}

/* A file that is a whole light curve shares its star with nobody. */
static void note_source(struct star *star, uint32_t source)
{
    if (source == star->source) return;
    star->other_source = star->source > source ? star->source : source;
    star->source = star->source < source ? star->source : source;
}

/* The first walk: counts rows and id bytes. */
static int find_stars(struct index *index, const struct runs *runs, struct error *error)
{
    size_t place = 0;
    struct run_header *run;
    while ((run = run_at(runs, &place))) {
        run->star = index_star(index, run);
        struct star *star = &index->star[run->star];
        star->count += run->rows;
        note_source(star, run->source);
    }
    return place == runs->bytes ? STATUS_OK : error_set(error, STATUS_FAILED, "the rows between the passes are damaged");
}

static int by_id(const void *a, const void *b)
{
    const struct star *left = a, *right = b;
    return strcmp(left->id, right->id);
}

/* Copies the ids, sorts the stars by them and says where the rows of each begin. `first` of the index's stars is set too. */
static void lay_out(struct stars *stars, struct index *index)
{
    size_t bytes = 0;
    for (size_t i = 0; i < index->count; i++) bytes += index->run[i]->id_bytes + 1;
    char *text = stars->id_text = memory_new(bytes, 1, "the ids of a shard");
    stars->star = memory_new(index->count, sizeof *stars->star, "the stars of a shard");
    stars->count = (int64_t)index->count;
    for (size_t i = 0; i < index->count; i++) {
        memcpy(text, run_id(index->run[i]), index->run[i]->id_bytes);
        text[index->run[i]->id_bytes] = 0;
        stars->star[i] = index->star[i];
        stars->star[i].id = text;
        stars->star[i].first = (int64_t)i; /* for a moment: where the star stands in the index */
        text += index->run[i]->id_bytes + 1;
    }
    qsort(stars->star, index->count, sizeof *stars->star, by_id);
    for (int64_t i = 0; i < stars->count; i++) {
        size_t found = (size_t)stars->star[i].first;
        index->star[found].first = stars->star[i].first = stars->observations;
        stars->observations += stars->star[i].count;
    }
}

/* The second walk. */
static void copy_rows(struct stars *stars, struct index *index, const struct runs *runs)
{
    size_t place = 0;
    struct run_header *run;
    stars->observation = memory_new((size_t)stars->observations, sizeof *stars->observation, "the rows of a shard");
    while ((run = run_at(runs, &place))) {
        struct star *star = &index->star[run->star];
        memcpy(stars->observation + star->first, run_rows(run), run->rows * sizeof(struct observation));
        star->first += run->rows;
    }
}

int stars_load(struct stars *stars, const char *folder, int ranks, int shard, struct error *error)
{
    struct runs runs = {0};
    struct index index = {0};
    *stars = (struct stars){0};
    if (read_runs(&runs, folder, ranks, shard, error)) goto cleanup;
    if (find_stars(&index, &runs, error)) {
        error_prefix(error, "%s: shard %d", folder, shard);
        goto cleanup;
    }
    lay_out(stars, &index);
    copy_rows(stars, &index, &runs);
cleanup:
    memory_free(runs.data);
    memory_free(index.star);
    memory_free(index.run);
    memory_free(index.slot);
    return error->status;
}

void stars_release(struct stars *stars)
{
    memory_free(stars->star);
    memory_free(stars->observation);
    memory_free(stars->id_text);
    *stars = (struct stars){0};
}
