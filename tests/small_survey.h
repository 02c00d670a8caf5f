/* SPDX-License-Identifier: MIT
 *
 * A small survey for tests: every number follows from the light curve's index and the observation's, so that whoever reads it
 * can tell what should be there. */
#ifndef ASTROMER_TESTS_SMALL_SURVEY_H
#define ASTROMER_TESTS_SMALL_SURVEY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "survey/shard.h"

static inline int64_t small_length(int64_t curve)
{
    return 1 + curve * 37 % 50;
}
static inline double small_time(int64_t curve, int64_t i)
{
    return 50000.5 + (double)curve + 1.25 * (double)(i * i);
}
static inline float small_magnitude(int64_t curve, int64_t i)
{
    return (float)curve + (float)i / 64;
}
static inline float small_error(int64_t curve, int64_t i)
{
    return 0.01f * (float)(1 + (curve + i) % 9);
}
static inline void small_id(int64_t curve, char id[32])
{
    snprintf(id, 32, "star-%lld", (long long)curve);
}

/* The light curves first .. first + count - 1; no labels. */
static inline struct curves small_curves(int64_t first, int64_t count)
{
    struct curves curves = {.count = count, .offset = memory_zeroed((size_t)count + 1, 8, "a test")};
    for (int64_t c = 0; c < count; c++) curves.offset[c + 1] = curves.offset[c] + (uint64_t)small_length(first + c);
    curves.observations = (int64_t)curves.offset[count];
    curves.time = memory_new((size_t)curves.observations, sizeof *curves.time, "a test");
    curves.magnitude = memory_new((size_t)curves.observations, sizeof *curves.magnitude, "a test");
    curves.error = memory_new((size_t)curves.observations, sizeof *curves.error, "a test");
    curves.id = memory_new((size_t)count, sizeof *curves.id, "a test");
    curves.id_text = memory_zeroed((size_t)count, 32, "a test");
    for (int64_t c = 0; c < count; c++) {
        curves.id[c] = curves.id_text + 32 * c;
        small_id(first + c, curves.id[c]);
        for (int64_t i = 0; i < small_length(first + c); i++) {
            curves.time[curves.offset[c] + (uint64_t)i] = small_time(first + c, i);
            curves.magnitude[curves.offset[c] + (uint64_t)i] = small_magnitude(first + c, i);
            curves.error[curves.offset[c] + (uint64_t)i] = small_error(first + c, i);
        }
    }
    return curves;
}

/* Writes one shard of the survey with that id. */
static inline int small_shard(const char *folder, const char *survey_id, int shard, int shards, int64_t first, int64_t count,
                              struct error *error)
{
    struct survey_identity identity = {.name = "small", .band = "R", .cuts = memory_string("filter: off\n")};
    snprintf(identity.survey_id, sizeof identity.survey_id, "%s", survey_id);
    struct curves curves = small_curves(first, count);
    int status = shard_write(folder, shard, shards, &identity, &curves, error);
    curves_release(&curves);
    survey_identity_release(&identity);
    return status;
}

/* Writes a survey; shard s has count[s] light curves. */
static inline int small_survey(const char *folder, const char *survey_id, const int64_t *count, int shards, struct error *error)
{
    int64_t first = 0;
    for (int s = 0; s < shards; first += count[s++])
        if (small_shard(folder, survey_id, s, shards, first, count[s], error)) return error->status;
    return STATUS_OK;
}

/* Removes a folder and the files in it. */
static inline void remove_folder(const char *folder)
{
    char command[4200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) fprintf(stderr, "cannot remove %s\n", folder);
}

#endif
