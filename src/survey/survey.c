/* SPDX-License-Identifier: MIT
 *
 * Opening a survey: rank 0 looks at the folder, every rank opens its own shards, and all agree before anyone goes on. The
 * selection splits the light curves by a hash of their ids into a training and a validation part. */
#include "survey/survey.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { SHARDS_MAX = 65536, PATH_BYTES = 4096 };

/* True when `name` is exactly what shard_file_name makes; whatever else lies in the folder is not ours. */
static bool parse_shard_name(const char *name, int *shard, int *shards)
{
    char expected[SHARD_NAME_BYTES];
    if (sscanf(name, "shard-%9d-of-%9d.h5", shard, shards) != 2 || *shard < 0 || *shards < 0) return false;
    shard_file_name(expected, *shard, *shards);
    return !strcmp(name, expected);
}

/* Takes note of one file of the folder. `there` has SHARDS_MAX entries; *shards is 0 before the first shard. */
static int note_file(const char *path, const char *name, bool *there, int *shards, struct error *error)
{
    int shard, of;
    if (!parse_shard_name(name, &shard, &of)) return STATUS_OK;
    if (of < 1 || of > SHARDS_MAX || shard >= of)
        return error_set(error, STATUS_FAILED, "%s/%s: no survey has such a shard, at most %d shards are numbered from 0", path,
                         name, SHARDS_MAX);
    if (*shards && *shards != of)
        return error_set(error, STATUS_FAILED, "%s: holds shards of two surveys, one of %d and one of %d shards; keep one", path,
                         *shards, of);
    *shards = of;
    there[shard] = true;
    return STATUS_OK;
}

/* S of the survey in the folder; all S files are there. */
static int count_shards(const char *path, int *shards, struct error *error)
{
    bool *there = memory_zeroed(SHARDS_MAX, sizeof *there, "the list of shards");
    DIR *folder = opendir(path);
    *shards = 0;
    if (!folder) {
        error_set(error, STATUS_FAILED, "%s: %s; a survey is a folder that astromer ingest has made", path,
                  errno == ENOTDIR ? "is not a folder" : strerror(errno));
        goto cleanup;
    }
    struct dirent *entry;
    while ((entry = readdir(folder)))
        if (note_file(path, entry->d_name, there, shards, error)) goto cleanup;
    if (*shards == 0) {
        error_set(error, STATUS_FAILED, "%s: holds no shards (shard-00000-of-...h5); make a survey with astromer ingest", path);
        goto cleanup;
    }
    int missing = 0, first = -1;
    for (int s = *shards - 1; s >= 0; s--) {
        missing += !there[s];
        if (!there[s]) first = s;
    }
    if (missing) {
        char name[SHARD_NAME_BYTES];
        shard_file_name(name, first, *shards);
        error_set(error, STATUS_FAILED, "%s/%s: is missing (%d of %d shards are there); copy it here or ingest again", path, name,
                  *shards - missing, *shards);
    }
cleanup:
    if (folder) closedir(folder);
    memory_free(there);
    return error->status;
}

static void shard_path(char path[PATH_BYTES], const struct survey *survey, int shard)
{
    char name[SHARD_NAME_BYTES];
    shard_file_name(name, shard, survey->shards);
    snprintf(path, PATH_BYTES, "%s/%s", survey->path, name);
}

/* What must be equal in every shard. */
struct fingerprint {
    char survey_id[sizeof((struct survey_identity *)0)->survey_id];
    int class_count; /* labels are below it */
    uint64_t rest;   /* of band and classes */
};

static const uint64_t fnv_start = 0xcbf29ce484222325u;

static uint64_t fnv1a_bytes(uint64_t hash, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t fnv1a(uint64_t hash, const char *text)
{
    return fnv1a_bytes(hash, text, strlen(text));
}

static struct fingerprint fingerprint_of(const struct survey_identity *identity)
{
    struct fingerprint print = {.class_count = identity->class_count, .rest = fnv1a(fnv_start, identity->band)};
    memcpy(print.survey_id, identity->survey_id, sizeof print.survey_id);
    print.survey_id[sizeof print.survey_id - 1] = 0;
    for (int c = 0; c < identity->class_count; c++) print.rest = fnv1a(print.rest * 31 + 1, identity->classes[c]);
    return print;
}

/* The shard is the one that its name says and belongs to the survey of `first`, the fingerprint of shard 0. */
static int check_shard(const struct survey *survey, int s, const struct fingerprint *first, struct error *error)
{
    const struct shard *shard = &survey->shard[s];
    struct fingerprint own = fingerprint_of(&shard->identity);
    if (shard->index != s || shard->shards != survey->shards)
        return error_set(error, STATUS_FAILED, "%s: is shard %d of %d by its content, not what its name says", shard->path,
                         shard->index, shard->shards);
    if (strcmp(own.survey_id, first->survey_id))
        return error_set(error, STATUS_FAILED, "%s: belongs to another survey than shard 0 (survey_id %s, not %s)", shard->path,
                         own.survey_id, first->survey_id);
    if (own.rest != first->rest || own.class_count != first->class_count)
        return error_set(error, STATUS_FAILED, "%s: has another band or other classes than shard 0", shard->path);
    if (shard->count > INT32_MAX)
        return error_set(error, STATUS_FAILED, "%s: has %lld light curves, a shard can have %d", shard->path,
                         (long long)shard->count, INT32_MAX);
    for (int64_t c = 0; c < shard->count; c++)
        if (shard->offset[c + 1] - shard->offset[c] > INT32_MAX)
            return error_set(error, STATUS_FAILED, "%s: light curve %s has more than %d observations", shard->path, shard->id[c],
                             INT32_MAX);
    return STATUS_OK;
}

/* Opens the shards this rank owns, resident when all of them fit. */
static int open_shards(struct survey *survey, int64_t memory_bytes, struct error *error)
{
    char path[PATH_BYTES];
    int64_t needed_bytes = 0, bytes;
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) {
        shard_path(path, survey, s);
        if (shard_bytes(path, &bytes, error)) return error->status;
        needed_bytes += bytes;
    }
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) {
        shard_path(path, survey, s);
        if (shard_open(&survey->shard[s], path, needed_bytes <= memory_bytes, error)) return error->status;
        survey->count[s] = survey->shard[s].count;
        survey->observations += survey->shard[s].observations;
    }
    return STATUS_OK;
}

static void copy_identity(struct survey_identity *copy, const struct survey_identity *identity)
{
    *copy = *identity;
    copy->cuts = memory_string(identity->cuts ? identity->cuts : "");
    copy->classes = identity->class_count ? memory_new((size_t)identity->class_count, sizeof *copy->classes, "classes") : NULL;
    for (int c = 0; c < identity->class_count; c++) copy->classes[c] = memory_string(identity->classes[c]);
}

/* Sums modulo 2^64 over the ranks, in two halves that cannot overflow. */
static int64_t content_of(const struct survey *survey, struct comm *comm)
{
    int64_t halves[2] = {0};
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) {
        uint64_t hash = (survey->shard[s].content ^ (uint64_t)s) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
        halves[0] += (int64_t)(hash & 0xffffffffu);
        halves[1] += (int64_t)(hash >> 32);
    }
    comm_sum_int64(comm, halves, 2);
    int64_t content = (int64_t)((uint64_t)halves[0] + ((uint64_t)halves[1] << 32));
    return content ? content : 1;
}

int survey_open(struct survey *survey, const char *path, struct comm *comm, int64_t memory_bytes, struct error *error)
{
    *survey = (struct survey){.path = memory_string(path), .rank = comm_rank(comm), .ranks = comm_size(comm)};
    int shards = 0;
    if (survey->rank == 0) count_shards(path, &shards, error);
    if (comm_agree(comm, error)) goto cleanup;
    comm_broadcast(comm, &shards, sizeof shards, 0);
    if (survey->ranks > shards) {
        error_set(error, STATUS_USAGE, "%s: has %d shards and cannot be shared by %d ranks; start at most %d", path, shards,
                  survey->ranks, shards);
        goto cleanup;
    }
    survey->shards = shards;
    survey->count = memory_zeroed((size_t)shards, sizeof *survey->count, "a survey");
    survey->first_curve = memory_zeroed((size_t)shards + 1, sizeof *survey->first_curve, "a survey");
    survey->shard = memory_zeroed((size_t)shards, sizeof *survey->shard, "a survey");

    open_shards(survey, memory_bytes, error);
    if (comm_agree(comm, error)) goto cleanup;
    struct fingerprint first = fingerprint_of(&survey->shard[survey->rank].identity); /* rank 0's is shard 0's */
    comm_broadcast(comm, &first, sizeof first, 0);
    for (int s = survey->rank; s < shards && !error->status; s += survey->ranks) check_shard(survey, s, &first, error);
    if (comm_agree(comm, error)) goto cleanup;

    copy_identity(&survey->identity, &survey->shard[survey->rank].identity);
    comm_sum_int64(comm, survey->count, shards);
    comm_sum_int64(comm, &survey->observations, 1);
    survey->content = content_of(survey, comm);
    for (int s = 0; s < shards; s++) survey->first_curve[s + 1] = survey->first_curve[s] + survey->count[s];
cleanup:
    if (error->status) survey_close(survey);
    return error->status;
}

void survey_close(struct survey *survey)
{
    for (int s = 0; survey->shard && s < survey->shards; s++)
        if (survey->shard[s].path) shard_close(&survey->shard[s]);
    survey_identity_release(&survey->identity);
    memory_free(survey->shard);
    memory_free(survey->count);
    memory_free(survey->first_curve);
    memory_free(survey->path);
    *survey = (struct survey){0};
}

bool survey_owns(const struct survey *survey, int shard)
{
    return shard % survey->ranks == survey->rank;
}

int survey_shard_of(const struct survey *survey, int64_t curve, int64_t *place)
{
    int low = 0, high = survey->shards - 1;
    CHECK(curve >= 0 && curve < survey->first_curve[survey->shards], "light curve %lld of a survey", (long long)curve);
    while (low < high) { /* the first shard that ends behind the curve */
        int middle = low + (high - low) / 2;
        if (survey->first_curve[middle + 1] > curve)
            high = middle;
        else
            low = middle + 1;
    }
    *place = curve - survey->first_curve[low];
    return low;
}

static double hash_of(const char *text, size_t bytes)
{
    uint64_t hash = fnv1a_bytes(fnv_start, text, bytes);
    hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
    hash ^= hash >> 31;
    return (double)(hash >> 11) * 0x1p-53;
}

double id_hash(const char *id)
{
    return hash_of(id, strlen(id));
}

size_t star_bytes(const char *id)
{
    int length = 0;
    sscanf(id, "%*[0-9].%*[0-9].%*[0-9]%n", &length);
    bool band = length > 0 && (!strcmp(id + length, ".R") || !strcmp(id + length, ".B"));
    return band ? (size_t)length : strlen(id);
}

double star_hash(const char *id)
{
    return hash_of(id, star_bytes(id));
}

struct split split_of(const struct config *config)
{
    struct split split = {.test = config->data.test};
    double share;
    if (config->data.folds[0]) return (struct split){0};
    if (config_validation_share(config, &share)) split.validation = share;
    return split;
}

enum part split_part(const struct split *split, const char *id)
{
    double hash = star_hash(id);
    if (hash < split->validation) return PART_VALIDATION;
    return hash >= 1 - split->test ? PART_TEST : PART_TRAINING;
}

static bool split_is_sound(const struct split *split)
{
    return split->validation >= 0 && split->test >= 0 && split->validation + split->test <= 1;
}

static void selection_begin(struct selection *selection)
{
    size_t shards = (size_t)selection->survey->shards;
    selection->count = memory_zeroed(shards, sizeof *selection->count, "a selection");
    selection->curve = memory_zeroed(shards, sizeof *selection->curve, "a selection");
}

/* All ranks learn how many light curves every shard has. */
static void selection_share(struct selection *selection, struct comm *comm)
{
    comm_sum_int64(comm, selection->count, selection->survey->shards);
    for (int s = 0; s < selection->survey->shards; s++) selection->total += selection->count[s];
}

int selection_new(struct selection *selection, const struct survey *survey, struct comm *comm, enum part part,
                  const struct split *split, struct error *error)
{
    *selection = (struct selection){.survey = survey};
    if (part != PART_ALL && !split_is_sound(split))
        return error_set(error, STATUS_USAGE,
                         "%g of the light curves for validation and %g for tests are not shares of one whole", split->validation,
                         split->test);
    selection_begin(selection);
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) {
        const struct shard *shard = &survey->shard[s];
        int64_t count = 0;
        selection->curve[s] = memory_new((size_t)shard->count, sizeof **selection->curve, "a selection");
        for (int64_t c = 0; c < shard->count; c++)
            if (part == PART_ALL || split_part(split, shard->id[c]) == part) selection->curve[s][count++] = (int32_t)c;
        selection->count[s] = count;
    }
    selection_share(selection, comm);
    return STATUS_OK;
}

/* The given light curves that lie in one shard. */
static void select_in_shard(struct selection *selection, int shard, const int64_t *curves, int64_t count)
{
    int64_t first = selection->survey->first_curve[shard], in_shard = selection->survey->count[shard], taken = 0;
    bool *chosen = memory_zeroed((size_t)in_shard, sizeof *chosen, "a selection");
    for (int64_t i = 0; i < count; i++)
        if (curves[i] >= first && curves[i] - first < in_shard) chosen[curves[i] - first] = true;
    selection->curve[shard] = memory_new((size_t)in_shard, sizeof **selection->curve, "a selection");
    for (int64_t c = 0; c < in_shard; c++)
        if (chosen[c]) selection->curve[shard][taken++] = (int32_t)c;
    selection->count[shard] = taken;
    memory_free(chosen);
}

int selection_of(struct selection *selection, const struct survey *survey, struct comm *comm, const int64_t *curves,
                 int64_t count, struct error *error)
{
    *selection = (struct selection){.survey = survey};
    int64_t all = survey->first_curve[survey->shards];
    for (int64_t i = 0; i < count; i++)
        if (curves[i] < 0 || curves[i] >= all)
            error_set(error, STATUS_FAILED, "%s: has %lld light curves, there is none with the index %lld", survey->path,
                      (long long)all, (long long)curves[i]);
    if (comm_agree(comm, error)) return error->status;
    selection_begin(selection);
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) select_in_shard(selection, s, curves, count);
    selection_share(selection, comm);
    return STATUS_OK;
}

void selection_release(struct selection *selection)
{
    for (int s = 0; selection->curve && s < selection->survey->shards; s++) memory_free(selection->curve[s]);
    memory_free(selection->curve);
    memory_free(selection->count);
    *selection = (struct selection){0};
}
