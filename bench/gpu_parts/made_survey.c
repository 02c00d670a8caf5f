/* SPDX-License-Identifier: MIT
 *
 * Light curves made into resident shards, and what the loader asks of a shard, without the files of src/survey/shard.c. */
#include "made_survey.h"

#include <string.h>

#include "base/memory.h"
#include "survey/synth.h"

/* Arrays that grow. */
struct room {
    size_t time, magnitude, error;
};

static void append(struct shard *shard, struct room *room, size_t count, const double *time, const float *magnitude,
                   const float *error)
{
    size_t first = (size_t)shard->observations;
    void *times = shard->time, *magnitudes = shard->magnitude, *errors = shard->error;
    memory_grow(&times, &room->time, first + count, sizeof *time, "light curves");
    memory_grow(&magnitudes, &room->magnitude, first + count, sizeof *magnitude, "light curves");
    memory_grow(&errors, &room->error, first + count, sizeof *error, "light curves");
    shard->time = times, shard->magnitude = magnitudes, shard->error = errors;
    memcpy(shard->time + first, time, count * sizeof *time);
    memcpy(shard->magnitude + first, magnitude, count * sizeof *magnitude);
    memcpy(shard->error + first, error, count * sizeof *error);
    shard->observations += (int64_t)count;
}

static void make_shard(struct shard *shard, int64_t curves, uint64_t seed)
{
    struct room room = {0};
    struct synth_star star;
    double *time = memory_new(SYNTH_OBSERVATIONS_MOST, sizeof *time, "a light curve");
    float *magnitude = memory_new(SYNTH_OBSERVATIONS_MOST, sizeof *magnitude, "a light curve");
    float *error = memory_new(SYNTH_OBSERVATIONS_MOST, sizeof *error, "a light curve");
    shard->resident = true, shard->fd = -1;
    shard->count = curves > shard->index ? (curves - shard->index + shard->shards - 1) / shard->shards : 0;
    shard->offset = memory_zeroed((size_t)shard->count + 1, sizeof *shard->offset, "light curves");
    for (int64_t c = 0; c < shard->count; c++) {
        int count = synth_curve(seed, shard->index + c * shard->shards, &star, time, magnitude, error);
        append(shard, &room, (size_t)count, time, magnitude, error);
        shard->offset[c + 1] = (uint64_t)shard->observations;
    }
    memory_free(time), memory_free(magnitude), memory_free(error);
}

void made_survey_new(struct made_survey *made, int64_t curves, int shards, uint64_t seed)
{
    struct survey *s = &made->survey;
    struct selection *all = &made->selection;
    *made = (struct made_survey){0};
    s->shards = shards, s->ranks = 1;
    s->count = memory_zeroed((size_t)shards, sizeof *s->count, "a survey");
    s->first_curve = memory_zeroed((size_t)shards + 1, sizeof *s->first_curve, "a survey");
    s->shard = memory_zeroed((size_t)shards, sizeof *s->shard, "a survey");
    all->survey = s, all->total = curves;
    all->count = s->count;
    all->curve = memory_zeroed((size_t)shards, sizeof *all->curve, "a survey");
    for (int i = 0; i < shards; i++) {
        struct shard *shard = &s->shard[i];
        shard->index = i, shard->shards = shards;
        make_shard(shard, curves, seed);
        s->count[i] = shard->count;
        s->first_curve[i + 1] = s->first_curve[i] + shard->count;
        s->observations += shard->observations;
        all->curve[i] = memory_new((size_t)shard->count, sizeof **all->curve, "a survey");
        for (int32_t c = 0; c < shard->count; c++) all->curve[i][c] = c;
    }
}

void made_survey_release(struct made_survey *made)
{
    struct survey *s = &made->survey;
    for (int i = 0; i < s->shards; i++) {
        memory_free(s->shard[i].offset);
        memory_free(s->shard[i].time);
        memory_free(s->shard[i].magnitude);
        memory_free(s->shard[i].error);
        memory_free(made->selection.curve[i]);
    }
    memory_free(made->selection.curve);
    memory_free(s->shard);
    memory_free(s->first_curve);
    memory_free(s->count);
    *made = (struct made_survey){0};
}

bool survey_owns(const struct survey *survey, int shard)
{
    return shard % survey->ranks == survey->rank;
}

int shard_read(const struct shard *shard, int64_t curve, int64_t first, int64_t count, double *time, float *magnitude,
               float *error_mag, struct error *error)
{
    size_t at = (size_t)shard->offset[curve] + (size_t)first, n = (size_t)count;
    CHECK(at + n <= shard->offset[curve + 1], "observations behind the end of a light curve");
    memcpy(time, shard->time + at, n * sizeof *time);
    memcpy(magnitude, shard->magnitude + at, n * sizeof *magnitude);
    memcpy(error_mag, shard->error + at, n * sizeof *error_mag);
    return error->status;
}
