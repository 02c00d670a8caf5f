/* SPDX-License-Identifier: MIT
 *
 * The reading end of a spill: all runs of one shard, grouped by star through a hash table and laid out in the order of the ids.
 * The first walk over the runs finds the stars and counts their rows; one more for each portion copies the rows of its stars. */
#include "survey/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/spill_file.h"

struct star_slot {
    uint32_t star; /* its number + 1; 0: free */
    uint32_t hash; /* of its id, the high bits */
};

/* A walk over the runs of a shard, from rank to rank. */
struct walk {
    const char *folder;
    int ranks, shard;
    int rank, fd; /* of the open file; fd -1 before the first one */
    unsigned char *buffer;
    size_t start, end; /* buffer[start .. end) is not yet walked */
};

enum { WALK_BYTES = 4 * SPILL_RUN_BYTES_MOST };

static void walk_begin(struct walk *walk, const struct stars *stars)
{
    *walk = (struct walk){.folder = stars->folder, .ranks = stars->ranks, .shard = stars->shard, .rank = -1, .fd = -1};
    walk->buffer = memory_new(WALK_BYTES, 1, "the rows of a shard");
}

static void walk_end(struct walk *walk)
{
    if (walk->fd >= 0) close(walk->fd);
    memory_free(walk->buffer);
}

/* Opens the file of the next rank that has one; *over when there is none. */
static int next_file(struct walk *walk, bool *over, struct error *error)
{
    char path[PATH_MAX];
    if (walk->fd >= 0) close(walk->fd);
    walk->fd = -1;
    while (walk->fd < 0 && ++walk->rank < walk->ranks) {
        spill_file_path(path, walk->folder, walk->rank, walk->shard);
        walk->fd = open(path, O_RDONLY | O_CLOEXEC);
        if (walk->fd < 0 && errno != ENOENT)
            return error_set(error, STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    }
    *over = walk->fd < 0;
    return STATUS_OK;
}

/* Reads more of the open file behind what is not yet walked; *got 0 at its end. */
static int refill(struct walk *walk, size_t *got, struct error *error)
{
    memmove(walk->buffer, walk->buffer + walk->start, walk->end - walk->start);
    walk->end -= walk->start;
    walk->start = 0;
    ssize_t n;
    do n = read(walk->fd, walk->buffer + walk->end, WALK_BYTES - walk->end);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return error_set(error, STATUS_FAILED, "%s: shard %d between the passes cannot be read: %s", walk->folder, walk->shard,
                         strerror(errno));
    walk->end += (size_t)n;
    *got = (size_t)n;
    return STATUS_OK;
}

static size_t run_bytes(const struct run_header *header)
{
    return sizeof *header + spill_id_room(header->id_bytes) + header->rows * sizeof(struct observation);
}

/* The next run, in memory until the next call, or NULL behind the last one. */
static int walk_next(struct walk *walk, const struct run_header **run, struct error *error)
{
    *run = NULL;
    for (;;) {
        const struct run_header *header = (const void *)(walk->buffer + walk->start);
        size_t there = walk->end - walk->start, got = 0;
        bool over = false;
        if (there >= sizeof *header && there >= run_bytes(header)) {
            walk->start += run_bytes(header);
            *run = header;
            return STATUS_OK;
        }
        if (walk->fd >= 0 && refill(walk, &got, error)) return error->status;
        if (got) continue;
        if (there)
            return error_set(error, STATUS_FAILED, "%s: shard %d: the rows between the passes are damaged", walk->folder,
                             walk->shard);
        if (next_file(walk, &over, error) || over) return error->status;
    }
}

static const char *run_id(const struct run_header *header)
{
    return (const char *)(header + 1);
}

static const struct observation *run_rows(const struct run_header *header)
{
    return (const struct observation *)(const void *)(run_id(header) + spill_id_room(header->id_bytes));
}

/* The stars while they are found: ids lie in a text that moves as it grows, at `place`. */
struct finding {
    size_t star_capacity, place_capacity, text_bytes, text_capacity;
    size_t *place;
    char *text;
};

static struct star_slot *free_slot(const struct stars *stars, uint64_t hash)
{
    size_t at = hash & (stars->slots - 1);
    while (stars->slot[at].star) at = (at + 1) & (stars->slots - 1);
    return &stars->slot[at];
}

/* Enters all stars again into a table of another size, or into one whose numbers have changed. */
static void index_stars(struct stars *stars, size_t slots, const struct finding *finding)
{
    memory_free(stars->slot);
    stars->slot = memory_zeroed(slots, sizeof *stars->slot, "the index of a shard's stars");
    stars->slots = slots;
    for (int64_t i = 0; i < stars->count; i++) {
        const char *id = finding ? finding->text + finding->place[i] : stars->star[i].id;
        uint64_t hash = bytes_hash(id, stars->star[i].id_bytes);
        *free_slot(stars, hash) = (struct star_slot){(uint32_t)i + 1, (uint32_t)(hash >> 32)};
    }
}

/* The number of a run's star, or -1. `finding` as long as the stars do not have their ids. */
static int64_t find_star(const struct stars *stars, const struct run_header *run, uint64_t hash, const struct finding *finding)
{
    if (!stars->slots) return -1;
    for (size_t at = hash & (stars->slots - 1); stars->slot[at].star; at = (at + 1) & (stars->slots - 1)) {
        int64_t i = (int64_t)stars->slot[at].star - 1;
        if (stars->slot[at].hash != (uint32_t)(hash >> 32) || stars->star[i].id_bytes != run->id_bytes) continue;
        const char *id = finding ? finding->text + finding->place[i] : stars->star[i].id;
        if (!memcmp(id, run_id(run), run->id_bytes)) return i;
    }
    return -1;
}

static int64_t add_star(struct stars *stars, struct finding *finding, const struct run_header *run, uint64_t hash)
{
    size_t i = (size_t)stars->count;
    CHECK(i < UINT32_MAX - 1, "too many stars in a shard");
    if (2 * i >= stars->slots) index_stars(stars, stars->slots ? 2 * stars->slots : 1024, finding);
    memory_grow((void **)&stars->star, &finding->star_capacity, i + 1, sizeof *stars->star, "the stars of a shard");
    memory_grow((void **)&finding->place, &finding->place_capacity, i + 1, sizeof *finding->place, "the stars of a shard");
    memory_grow((void **)&finding->text, &finding->text_capacity, finding->text_bytes + run->id_bytes + 1, 1,
                "the ids of a shard");
    memcpy(finding->text + finding->text_bytes, run_id(run), run->id_bytes);
    finding->text[finding->text_bytes + run->id_bytes] = 0;
    finding->place[i] = finding->text_bytes;
    finding->text_bytes += run->id_bytes + 1;
    stars->star[i] = (struct star){.id_bytes = run->id_bytes, .source = run->source};
    *free_slot(stars, hash) = (struct star_slot){(uint32_t)i + 1, (uint32_t)(hash >> 32)};
    stars->count++;
    return (int64_t)i;
}

/* A file that is a whole light curve shares its star with nobody. */
static void note_source(struct star *star, uint32_t source)
{
    if (source == star->source) return;
    star->other_source = star->source > source ? star->source : source;
    star->source = star->source < source ? star->source : source;
}

/* The first walk: the stars, their rows counted, in the order of appearance. */
static int find_stars(struct stars *stars, struct finding *finding, struct error *error)
{
    struct walk walk;
    const struct run_header *run;
    walk_begin(&walk, stars);
    while (!walk_next(&walk, &run, error) && run) {
        uint64_t hash = bytes_hash(run_id(run), run->id_bytes);
        int64_t i = find_star(stars, run, hash, finding);
        if (i < 0) i = add_star(stars, finding, run, hash);
        stars->star[i].count += run->rows;
        note_source(&stars->star[i], run->source);
    }
    walk_end(&walk);
    return error->status;
}

static int by_id(const void *a, const void *b)
{
    const struct star *left = a, *right = b;
    return strcmp(left->id, right->id);
}

int stars_open(struct stars *stars, const char *folder, int ranks, int shard, struct error *error)
{
    struct finding finding = {0};
    *stars = (struct stars){.folder = folder, .ranks = ranks, .shard = shard};
    find_stars(stars, &finding, error);
    stars->id_text = finding.text;
    int64_t rows = 0;
    for (int64_t i = 0; i < stars->count; i++) {
        stars->star[i].id = finding.text + finding.place[i];
        rows += stars->star[i].count;
    }
    stars->rows_at_once = rows / STARS_PORTIONS;
    if (stars->rows_at_once < STARS_ROWS_AT_ONCE) stars->rows_at_once = STARS_ROWS_AT_ONCE;
    if (stars->rows_at_once > STARS_ROWS_MOST) stars->rows_at_once = STARS_ROWS_MOST;
    memory_free(finding.place);
    if (stars->count) qsort(stars->star, (size_t)stars->count, sizeof *stars->star, by_id);
    if (stars->count) index_stars(stars, stars->slots, NULL);
    if (error->status) stars_close(stars);
    return error->status;
}

/* The stars of the next portion and where the rows of each begin; returns how many rows. */
static int64_t choose_portion(struct stars *stars)
{
    int64_t rows = 0;
    stars->begin = stars->end;
    while (stars->end < stars->count) {
        struct star *star = &stars->star[stars->end];
        if (stars->end > stars->begin && rows + star->count > stars->rows_at_once) break;
        star->first = rows;
        rows += star->count;
        stars->end++;
    }
    if (!stars->observation || (size_t)rows > stars->room) {
        memory_free(stars->observation);
        stars->room = (size_t)rows;
        stars->observation = memory_new(stars->room, sizeof *stars->observation, "the rows of a shard");
    }
    return rows;
}

/* Copies the run's rows behind those of its star that are there already; left[star - begin] more are expected. */
static bool copy_rows(struct stars *stars, const struct run_header *run, int64_t *left)
{
    int64_t i = find_star(stars, run, bytes_hash(run_id(run), run->id_bytes), NULL);
    if (i < 0) return false;
    if (i < stars->begin || i >= stars->end) return true;
    const struct star *star = &stars->star[i];
    if (run->rows > left[i - stars->begin]) return false;
    memcpy(stars->observation + star->first + star->count - left[i - stars->begin], run_rows(run),
           run->rows * sizeof(struct observation));
    left[i - stars->begin] -= run->rows;
    return true;
}

int stars_next(struct stars *stars, struct error *error)
{
    struct walk walk;
    const struct run_header *run;
    int64_t rows = choose_portion(stars);
    if (rows == 0) return STATUS_OK;
    int64_t *left = memory_new((size_t)(stars->end - stars->begin), sizeof *left, "the rows of a shard");
    for (int64_t i = stars->begin; i < stars->end; i++) left[i - stars->begin] = stars->star[i].count;
    walk_begin(&walk, stars);
    bool whole = true;
    while (whole && !walk_next(&walk, &run, error) && run) whole = copy_rows(stars, run, left);
    for (int64_t i = stars->begin; i < stars->end; i++) whole = whole && left[i - stars->begin] == 0;
    if (!error->status && !whole)
        error_set(error, STATUS_FAILED, "%s: shard %d: the rows between the passes have changed", stars->folder, stars->shard);
    walk_end(&walk);
    memory_free(left);
    return error->status;
}

void stars_close(struct stars *stars)
{
    memory_free(stars->star);
    memory_free(stars->slot);
    memory_free(stars->observation);
    memory_free(stars->id_text);
    *stars = (struct stars){0};
}
