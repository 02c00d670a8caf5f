/* SPDX-License-Identifier: MIT
 *
 * From rows to light curves. */
#include "survey/curves.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static int by_time(const void *a, const void *b)
{
    const struct observation *left = a, *right = b;
    if (left->time != right->time) return left->time < right->time ? -1 : 1;
    if (left->magnitude != right->magnitude) return left->magnitude < right->magnitude ? -1 : 1;
    return (left->error > right->error) - (left->error < right->error);
}

/* Sorts by time, magnitude and error; most files are sorted already. */
static void sort_rows(struct observation *row, int64_t count)
{
    for (int64_t i = 1; i < count; i++) {
        if (by_time(&row[i - 1], &row[i]) <= 0) continue;
        qsort(row, (size_t)count, sizeof *row, by_time);
        return;
    }
}

/* Of sorted rows puts one of each in front; returns how many. */
static int64_t drop_duplicates(struct observation *row, int64_t count)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++)
        if (kept == 0 || by_time(&row[kept - 1], &row[i])) row[kept++] = row[i];
    return kept;
}

static int64_t count_duplicates(const struct observation *row, int64_t count)
{
    int64_t repeated = 0;
    for (int64_t i = 1; i < count; i++) repeated += by_time(&row[i - 1], &row[i]) == 0;
    return repeated;
}

/* The rows of a star that the survey keeps, moved to the front of `row`; 0 when the star is dropped. */
static int64_t cut(struct observation *row, int64_t count, const struct cuts *cuts, float *scratch, int64_t *tally)
{
    tally[TALLY_CURVES]++;
    sort_rows(row, count);
    if (cuts->drop_duplicates) {
        int64_t distinct = drop_duplicates(row, count);
        tally[TALLY_DUPLICATES] += count - distinct;
        count = distinct;
    } else {
        tally[TALLY_REPEATED] += count_duplicates(row, count);
    }
    int64_t kept = count ? cut_percentiles(row, count, scratch) : 0;
    tally[TALLY_PERCENTILE] += count - kept;
    if (kept < CUTS_OBSERVATIONS_LEAST) {
        tally[TALLY_CURVES_SHORT]++;
        tally[TALLY_ROWS_SHORT] += kept;
        return 0;
    }
    struct moments moments = magnitude_moments(row, kept);
    if (!is_variable(&moments, cuts->filter)) {
        tally[TALLY_CURVES_CALM]++;
        tally[TALLY_ROWS_CALM] += kept;
        return 0;
    }
    tally[TALLY_CURVES_KEPT]++;
    tally[TALLY_ROWS_KEPT] += kept;
    return kept;
}

/* Room for as many light curves and observations as the stars in memory can give. */
static void curves_new(struct curves *curves, const struct stars *stars, bool labelled)
{
    size_t count = (size_t)(stars->end - stars->begin), rows = 0, bytes = 0;
    for (int64_t i = stars->begin; i < stars->end; i++) {
        bytes += stars->star[i].id_bytes + 1;
        rows += (size_t)stars->star[i].count;
    }
    *curves = (struct curves){0};
    curves->offset = memory_zeroed(count + 1, sizeof *curves->offset, "light curves");
    curves->time = memory_new(rows, sizeof *curves->time, "light curves");
    curves->magnitude = memory_new(rows, sizeof *curves->magnitude, "light curves");
    curves->error = memory_new(rows, sizeof *curves->error, "light curves");
    curves->id = memory_new(count, sizeof *curves->id, "light curves");
    curves->id_text = memory_new(bytes, 1, "light curves");
    if (labelled) curves->label = memory_new(count, sizeof *curves->label, "light curves");
}

static void append(struct curves *curves, const char *id, const struct observation *row, int64_t count, int32_t label)
{
    int64_t c = curves->count++;
    curves->id[c] = c ? curves->id[c - 1] + strlen(curves->id[c - 1]) + 1 : curves->id_text;
    strcpy(curves->id[c], id);
    if (curves->label) curves->label[c] = label;
    for (int64_t i = 0; i < count; i++) {
        curves->time[curves->observations + i] = row[i].time;
        curves->magnitude[curves->observations + i] = row[i].magnitude;
        curves->error[curves->observations + i] = row[i].error;
    }
    curves->observations += count;
    curves->offset[c + 1] = (uint64_t)curves->observations;
}

static int claimed_twice(const struct star *star, char *const *paths, struct error *error)
{
    const char *file = paths[star->other_source - 1], *other = star->source ? paths[star->source - 1] : "another file";
    return error_set(error, STATUS_FAILED, "%s: gives the light curve %s, and so does %s; leave one of them out", file, star->id,
                     other);
}

/* The label of a star, or -1; notes how far the labelled star came. */
static int32_t label_star(struct labels *labels, const char *id, bool kept, int64_t *tally, int64_t *class_curves)
{
    int64_t found = labels_find(labels, id);
    if (found < 0) return -1;
    int64_t fate = kept ? LABEL_KEPT : LABEL_DROPPED;
    if (labels->fate[found] < fate) labels->fate[found] = fate;
    int32_t class = labels->label[found].class;
    class_curves[class] += kept;
    tally[TALLY_CURVES_LABELLED] += kept;
    return class;
}

int curves_check_sources(const struct stars *stars, char *const *paths, struct error *error)
{
    for (int64_t i = 0; i < stars->count; i++)
        if (stars->star[i].other_source) return claimed_twice(&stars->star[i], paths, error);
    return STATUS_OK;
}

void curves_make(struct curves *curves, struct stars *stars, const struct cuts *cuts, struct labels *labels, int64_t *tally,
                 int64_t *class_curves)
{
    int64_t longest = 0;
    bool labelled = labels->count > 0;
    for (int64_t i = stars->begin; i < stars->end; i++) longest = stars->star[i].count > longest ? stars->star[i].count : longest;
    float *scratch = memory_new((size_t)longest, sizeof *scratch, "magnitudes of a light curve");
    curves_new(curves, stars, labelled);
    for (int64_t i = stars->begin; i < stars->end; i++) {
        const struct star *star = &stars->star[i];
        struct observation *row = stars->observation + star->first;
        int64_t kept = cut(row, star->count, cuts, scratch, tally);
        int32_t label = labelled ? label_star(labels, star->id, kept > 0, tally, class_curves) : -1;
        if (kept) append(curves, star->id, row, kept, label);
    }
    memory_free(scratch);
}
