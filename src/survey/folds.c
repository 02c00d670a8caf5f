/* SPDX-License-Identifier: MIT
 *
 * Drawing folds. The stars of a class are put in an order by a random number for each, which depends on the star's name, the
 * fold and the seed: the first of them are for tests, the next for validation, the rest for training. So neither the layout of
 * the survey nor other stars matter to where a star stands in line. */
#include "survey/folds.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"

enum { STARS_LEAST = 3 }; /* of a class: one for each of three purposes */

/* A labelled light curve. */
struct member {
    const char *id;
    size_t star_bytes; /* the beginning of the id that names the star */
    int64_t curve;     /* index in the survey */
    int32_t class;     /* of the survey's classes */
};

/* A star: members that follow one another. */
struct star {
    int64_t first, count;
    int class;     /* of the folds' classes */
    bool for_test; /* in the split's test part */
    uint64_t key;  /* its place in line, of one fold */
};

/* What folds are drawn from, and how they are. */
struct draw {
    const struct folds_options *options;
    int64_t members, stars;
    struct member *member;
    struct star *star;   /* class after class */
    int64_t *first_star; /* classes + 1: places in `star` */
};

/* The light curves and stars ------------------------------------------------------------------------------------ */

static int compare_stars(const struct member *a, const struct member *b)
{
    int order = memcmp(a->id, b->id, a->star_bytes < b->star_bytes ? a->star_bytes : b->star_bytes);
    if (order) return order;
    return a->star_bytes < b->star_bytes ? -1 : a->star_bytes > b->star_bytes;
}

/* By star, then id. */
static int compare_members(const void *one, const void *other)
{
    const struct member *a = one, *b = other;
    int order = compare_stars(a, b);
    if (!order) order = strcmp(a->id, b->id);
    return order ? order : a->curve < b->curve ? -1 : a->curve > b->curve;
}

static void gather_members(struct draw *draw, const struct survey *survey)
{
    draw->member = memory_new((size_t)survey->first_curve[survey->shards], sizeof *draw->member, "the labelled light curves");
    for (int s = 0; s < survey->shards; s++) {
        const struct shard *shard = &survey->shard[s];
        for (int64_t c = 0; shard->label && c < shard->count; c++)
            if (shard->label[c] >= 0)
                draw->member[draw->members++] =
                    (struct member){shard->id[c], star_bytes(shard->id[c]), survey->first_curve[s] + c, shard->label[c]};
    }
    qsort(draw->member, (size_t)draw->members, sizeof *draw->member, compare_members);
}

/* Stars of the survey's classes; those whose light curves have different labels are none. Returns how many these are. */
static int64_t gather_stars(struct draw *draw)
{
    int64_t ambiguous = 0;
    const struct split *split = draw->options->split;
    draw->star = memory_new((size_t)draw->members, sizeof *draw->star, "the labelled stars");
    for (int64_t m = 0, next; m < draw->members; m = next) {
        const struct member *first = &draw->member[m];
        bool agreed = true;
        for (next = m; next < draw->members && !compare_stars(&draw->member[next], first); next++)
            agreed = agreed && draw->member[next].class == first->class;
        bool for_test = split && split_part(split, first->id) == PART_TEST;
        if (agreed) draw->star[draw->stars++] = (struct star){m, next - m, first->class, for_test, 0};
        ambiguous += !agreed;
    }
    return ambiguous;
}

/* The classes ---------------------------------------------------------------------------------------------------- */

struct class_size {
    int64_t curves, stars, test_stars; /* test_stars: in the split's test part */
};

/* Why a class is left out, as it stands behind its name; NULL when it is not. */
static const char *why_left_out(const struct class_size *size, const struct folds_options *options, char text[64])
{
    int64_t others = size->stars - size->test_stars;
    if (size->curves >= options->least && size->stars >= STARS_LEAST && (!options->split || (size->test_stars && others >= 2)))
        return NULL;
    bool enough = size->curves >= options->least && size->stars >= STARS_LEAST;
    const char *part = size->test_stars ? "of too few stars outside the test part" : "none of the test part";
    snprintf(text, 64, "%lld%s%s", (long long)size->curves, enough ? ", " : "", enough ? part : "");
    return text;
}

static char *name_and_reason(const char *name, const char *reason)
{
    size_t bytes = strlen(name) + strlen(reason) + 4;
    char *text = memory_new(bytes, 1, "a class that is left out");
    snprintf(text, bytes, "%s (%s)", name, reason);
    return text;
}

/* The classes that are large enough, numbered anew: place[c] is that of the survey's class c, or -1. */
static int choose_classes(struct folds *folds, const struct draw *draw, const struct survey *survey, int *place,
                          struct error *error)
{
    char text[64];
    int count = survey->identity.class_count;
    struct class_size *size = memory_zeroed((size_t)count, sizeof *size, "classes");
    for (int64_t s = 0; s < draw->stars; s++) {
        struct class_size *own = &size[draw->star[s].class];
        own->curves += draw->star[s].count;
        own->stars++;
        own->test_stars += draw->star[s].for_test;
    }
    folds->classes = memory_zeroed((size_t)count, sizeof *folds->classes, "classes");
    folds->left_out = memory_zeroed((size_t)count, sizeof *folds->left_out, "classes");
    for (int c = 0; c < count; c++) {
        const char *name = survey->identity.classes[c], *reason = why_left_out(&size[c], draw->options, text);
        place[c] = reason ? -1 : folds->class_count;
        if (reason)
            folds->left_out[folds->left_out_count++] = name_and_reason(name, reason);
        else
            folds->classes[folds->class_count++] = memory_string(name);
    }
    memory_free(size);
    if (folds->class_count < 2)
        error_set(error, STATUS_FAILED,
                  "%s: %s of its %d classes can be divided into folds, with at least %lld light curves each%s", survey->path,
                  folds->class_count ? "only one" : "none", count, (long long)draw->options->least,
                  draw->options->split ? " and with stars that the pretraining kept for tests" : "");
    return error->status;
}

static int compare_classes(const void *one, const void *other)
{
    const struct star *a = one, *b = other;
    if (a->class != b->class) return a->class < b->class ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

/* Stars of the chosen classes only, class after class. */
static void sort_stars(struct draw *draw, int class_count, const int *place)
{
    int64_t kept = 0;
    for (int64_t s = 0; s < draw->stars; s++) {
        struct star star = draw->star[s];
        star.class = place[star.class];
        if (star.class >= 0) draw->star[kept++] = star;
    }
    draw->stars = kept;
    qsort(draw->star, (size_t)kept, sizeof *draw->star, compare_classes);
    draw->first_star = memory_zeroed((size_t)class_count + 1, sizeof *draw->first_star, "classes");
    for (int64_t s = 0; s < kept; s++) draw->first_star[draw->star[s].class + 1]++;
    for (int c = 0; c < class_count; c++) draw->first_star[c + 1] += draw->first_star[c];
}

/* Drawing -------------------------------------------------------------------------------------------------------- */

/* By the place in line; by name where two are equal. */
static int compare_keys(const void *one, const void *other)
{
    const struct star *a = one, *b = other;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

/* Stars of the test part first, if there is one. The hash has 53 bits, a key 63 below the bit for the part. */
static void line_up(const struct draw *draw, struct star *star, int64_t count, int fold)
{
    for (int64_t s = 0; s < count; s++) {
        uint32_t bits[4];
        uint64_t hash = (uint64_t)(star_hash(draw->member[star[s].first].id) * 0x1p53);
        random_block((uint64_t)draw->options->seed, RANDOM_FOLD_ORDER, (uint32_t)fold, hash, 0, bits);
        star[s].key = ((uint64_t)bits[0] << 32 | bits[1]) >> 1;
        if (draw->options->split && !star[s].for_test) star[s].key |= (uint64_t)1 << 63;
    }
    qsort(star, (size_t)count, sizeof *star, compare_keys);
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* How many of `stars` go to a set that should have `wanted`: what the others leave, but at least so many tenths. */
static int64_t share(int64_t stars, int64_t wanted, int64_t others, int64_t tenths)
{
    return smaller(wanted, larger((stars * tenths + 9) / 10, stars - others));
}

/* How many stars a class gives to tests and to validation; `count` of them, test_stars in the test part. */
static void divide(const struct folds_options *options, int64_t count, int64_t test_stars, int64_t *test, int64_t *validation)
{
    int64_t most = options->samples[options->sample_counts - 1];
    if (options->split) {
        *test = test_stars;
        *validation = share(count - test_stars, options->validation, most, 1);
    } else {
        *test = share(count, options->test, options->validation + most, 3);
        *validation = share(count, options->validation, options->test + most, 1);
    }
}

/* A list of members that grows. */
struct list {
    int64_t count;
    int64_t *member;
    size_t capacity;
};

static void list_add(struct list *list, int64_t member)
{
    memory_grow((void **)&list->member, &list->capacity, (size_t)list->count + 1, sizeof *list->member, "a fold");
    list->member[list->count++] = member;
}

/* Up to `most` light curves of stars in line: first one of each star, then the second of those that have it, and so on. Of a
 * star's light curves the one to begin with changes from star to star. */
static void list_curves(struct list *list, const struct star *star, int64_t count, int64_t most)
{
    int64_t end = list->count + most;
    bool more = true;
    for (int64_t round = 0; more; round++) {
        more = false;
        for (int64_t s = 0; s < count && list->count < end; s++) {
            if (round >= star[s].count) continue;
            list_add(list, star[s].first + (int64_t)((star[s].key + (uint64_t)round) % (uint64_t)star[s].count));
            more = true;
        }
    }
}

static int64_t curves_of(const struct star *star, int64_t count)
{
    int64_t curves = 0;
    for (int64_t s = 0; s < count; s++) curves += star[s].count;
    return curves;
}

/* n of the pool: the first, or where it has fewer, drawn with replacement. */
static void list_training(struct list *list, const struct draw *draw, const struct list *pool, int fold, int class, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits =
            random_u32((uint64_t)draw->options->seed, RANDOM_FOLD_DRAW, (uint32_t)fold, (uint64_t) class, (uint32_t)i);
        list_add(list, pool->member[n <= pool->count ? i : random_below(bits, (uint32_t)pool->count)]);
    }
}

/* The lists of one fold. */
struct lists {
    struct list test, validation;
    struct list *training;
};

static struct fold_division draw_class(struct lists *lists, const struct draw *draw, int fold, int class)
{
    const struct folds_options *options = draw->options;
    struct star *star = draw->star + draw->first_star[class];
    int64_t count = draw->first_star[class + 1] - draw->first_star[class], test, validation, test_stars = 0;
    for (int64_t s = 0; s < count; s++) test_stars += star[s].for_test;
    line_up(draw, star, count, fold);
    divide(options, count, test_stars, &test, &validation);

    int64_t before_test = lists->test.count, before_validation = lists->validation.count;
    int64_t held_out = test + validation;
    struct list pool = {0};
    list_curves(&lists->test, star, test, options->test);
    list_curves(&lists->validation, star + test, validation, options->validation);
    list_curves(&pool, star + held_out, count - held_out, INT32_MAX);
    for (int n = 0; n < options->sample_counts; n++)
        list_training(&lists->training[n], draw, &pool, fold, class, options->samples[n]);
    struct fold_division division = {
        .test = lists->test.count - before_test, .validation = lists->validation.count - before_validation, .pool = pool.count};
    division.unused = curves_of(star, held_out) - division.test - division.validation;
    memory_free(pool.member);
    return division;
}

/* The table ------------------------------------------------------------------------------------------------------ */

static struct fold_set set_of(struct list *list, const int64_t *row)
{
    for (int64_t i = 0; i < list->count; i++) list->member[i] = row[list->member[i]];
    return (struct fold_set){list->count, list->member};
}

static void mark(const struct list *list, int64_t *used)
{
    for (int64_t i = 0; i < list->count; i++) used[list->member[i]] = 1;
}

/* A row for every member that is used, in their order. used: 1 where it is; becomes the row. */
static void make_table(struct folds *folds, const struct draw *draw, const int *place, int64_t *used)
{
    size_t text_bytes = 0;
    for (int64_t m = 0; m < draw->members; m++) {
        text_bytes += used[m] ? strlen(draw->member[m].id) + 1 : 0;
        folds->stars += used[m];
    }
    folds->curve = memory_new((size_t)folds->stars, sizeof *folds->curve, "folds");
    folds->label = memory_new((size_t)folds->stars, sizeof *folds->label, "folds");
    folds->id = memory_new((size_t)folds->stars, sizeof *folds->id, "folds");
    folds->id_text = memory_new(text_bytes, 1, "folds");
    char *next = folds->id_text;
    for (int64_t m = 0, row = 0; m < draw->members; m++) {
        if (!used[m]) continue;
        folds->curve[row] = draw->member[m].curve;
        folds->label[row] = place[draw->member[m].class];
        folds->id[row] = next;
        next = stpcpy(next, draw->member[m].id) + 1;
        used[m] = row++;
    }
}

static void draw_folds(struct folds *folds, const struct draw *draw, const int *place)
{
    int counts = folds->sample_counts;
    struct lists *lists = memory_zeroed((size_t)folds->fold_count, sizeof *lists, "folds");
    int64_t *used = memory_zeroed((size_t)draw->members, sizeof *used, "folds");
    folds->division = memory_zeroed((size_t)folds->fold_count * (size_t)folds->class_count, sizeof *folds->division, "folds");
    folds->fold = memory_zeroed((size_t)folds->fold_count, sizeof *folds->fold, "folds");
    for (int k = 0; k < folds->fold_count; k++) {
        lists[k].training = memory_zeroed((size_t)counts, sizeof *lists[k].training, "folds");
        for (int c = 0; c < folds->class_count; c++)
            folds->division[k * folds->class_count + c] = draw_class(&lists[k], draw, k, c);
        mark(&lists[k].test, used);
        mark(&lists[k].validation, used);
        for (int n = 0; n < counts; n++) mark(&lists[k].training[n], used);
    }
    make_table(folds, draw, place, used);
    for (int k = 0; k < folds->fold_count; k++) {
        struct fold *fold = &folds->fold[k];
        fold->test = set_of(&lists[k].test, used);
        fold->validation = set_of(&lists[k].validation, used);
        fold->training = memory_new((size_t)counts, sizeof *fold->training, "folds");
        for (int n = 0; n < counts; n++) fold->training[n] = set_of(&lists[k].training[n], used);
        memory_free(lists[k].training);
    }
    memory_free(used);
    memory_free(lists);
}

/* The whole ------------------------------------------------------------------------------------------------------ */

static int check_options(const struct folds_options *options, struct error *error)
{
    if (options->folds < 1 || options->folds > FOLDS_MOST)
        return error_set(error, STATUS_USAGE, "%d folds cannot be made, but 1 to %d", options->folds, FOLDS_MOST);
    if (options->sample_counts < 1 || options->sample_counts > FOLDS_SAMPLES_MOST)
        return error_set(error, STATUS_USAGE, "%d sizes of training sets cannot be made, but 1 to %d", options->sample_counts,
                         FOLDS_SAMPLES_MOST);
    if (options->test < 1 || options->validation < 1 || options->samples[0] < 1)
        return error_set(error, STATUS_USAGE, "each set of a fold has at least one light curve a class");
    for (int n = 0; n < options->sample_counts; n++)
        if (options->samples[n] > FOLDS_SAMPLE_MOST || (n > 0 && options->samples[n] <= options->samples[n - 1]))
            return error_set(error, STATUS_USAGE, "samples a class ascend, each once, up to %d", FOLDS_SAMPLE_MOST);
    return STATUS_OK;
}

static bool has_labels(const struct survey *survey)
{
    bool labels = false;
    for (int s = 0; s < survey->shards; s++) labels = labels || survey->shard[s].label;
    return labels && survey->identity.class_count > 0;
}

static void describe_options(struct folds *folds, const struct survey *survey, const struct folds_options *options)
{
    size_t bytes = (size_t)options->sample_counts * sizeof *folds->samples;
    folds->survey_id = memory_string(survey->identity.survey_id);
    folds->survey_name = memory_string(survey->identity.name);
    folds->seed = options->seed;
    folds->fold_count = options->folds;
    folds->sample_counts = options->sample_counts;
    folds->samples = memory_new(bytes, 1, "folds");
    memcpy(folds->samples, options->samples, bytes);
}

int folds_make(struct folds *folds, const struct survey *survey, const struct folds_options *options, struct error *error)
{
    *folds = (struct folds){0};
    if (check_options(options, error)) return error->status;
    if (!has_labels(survey))
        return error_set(error, STATUS_FAILED, "%s: its light curves have no labels; ingest them with --labels", survey->path);
    struct draw draw = {.options = options};
    int *place = memory_new((size_t)survey->identity.class_count, sizeof *place, "classes");
    describe_options(folds, survey, options);
    gather_members(&draw, survey);
    folds->ambiguous_stars = gather_stars(&draw);
    if (!choose_classes(folds, &draw, survey, place, error)) {
        sort_stars(&draw, folds->class_count, place);
        draw_folds(folds, &draw, place);
    }
    memory_free(place);
    memory_free(draw.member);
    memory_free(draw.star);
    memory_free(draw.first_star);
    if (error->status) folds_release(folds);
    return error->status;
}

void folds_release(struct folds *folds)
{
    for (int c = 0; c < folds->class_count; c++) memory_free(folds->classes[c]);
    for (int c = 0; c < folds->left_out_count; c++) memory_free(folds->left_out[c]);
    for (int k = 0; folds->fold && k < folds->fold_count; k++) {
        struct fold *fold = &folds->fold[k];
        memory_free(fold->test.row);
        memory_free(fold->validation.row);
        for (int n = 0; fold->training && n < folds->sample_counts; n++) memory_free(fold->training[n].row);
        memory_free(fold->training);
    }
    memory_free(folds->survey_id);
    memory_free(folds->survey_name);
    memory_free(folds->classes);
    memory_free(folds->left_out);
    memory_free(folds->samples);
    memory_free(folds->fold);
    memory_free(folds->curve);
    memory_free(folds->label);
    memory_free(folds->id);
    memory_free(folds->id_text);
    memory_free(folds->division);
    *folds = (struct folds){0};
}

int folds_find_samples(const struct folds *folds, const char *path, int64_t samples, struct error *error)
{
    char there[512] = "";
    size_t used = 0;
    for (int n = 0; n < folds->sample_counts; n++) {
        if (folds->samples[n] == samples) return n;
        if (used < sizeof there)
            used += (size_t)snprintf(there + used, sizeof there - used, "%s%lld", n ? ", " : "", (long long)folds->samples[n]);
    }
    error_set(error, STATUS_FAILED, "%s: has no training sets of %lld samples a class, but of %s", path, (long long)samples,
              there);
    return -1;
}

int folds_check_survey(const struct folds *folds, const char *path, const struct survey *survey, struct error *error)
{
    int64_t all = survey->first_curve[survey->shards], place;
    CHECK(survey->ranks == 1, "folds of a survey that %d ranks share", survey->ranks);
    for (int64_t row = 0; row < folds->stars; row++) {
        const char *id = "none";
        if (folds->curve[row] < all) {
            int s = survey_shard_of(survey, folds->curve[row], &place);
            id = survey_owns(survey, s) ? survey->shard[s].id[place] : folds->id[row];
        }
        if (!strcmp(id, folds->id[row])) continue;
        return error_set(error, STATUS_FAILED,
                         "%s: are folds of another survey than %s (of %s): light curve %lld is %s there, not %s; make them anew",
                         path, survey->path, folds->survey_name, (long long)folds->curve[row], id, folds->id[row]);
    }
    return STATUS_OK;
}
