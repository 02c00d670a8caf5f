/* SPDX-License-Identifier: MIT
 *
 * Writes a made survey, shard by shard, the shards dealt over the ranks. */
#include "survey/synth.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "survey/building.h"
#include "survey/shard.h"
#include "survey/spill.h"

enum { ID_BYTES = 32 };

static void make_identity(struct survey_identity *identity, const struct synth_options *options, const char *name)
{
    char cuts[128];
    uint64_t one = mix64(mix64(options->seed + 1) ^ (uint64_t)options->curves);
    uint64_t other = mix64(one ^ mix64((uint64_t)options->shards));
    *identity = (struct survey_identity){.band = "R", .class_count = SYNTH_CLASSES};
    snprintf(identity->survey_id, sizeof identity->survey_id, "%016llx%016llx", (unsigned long long)one,
             (unsigned long long)other);
    snprintf(identity->name, sizeof identity->name, "%s", name);
    snprintf(cuts, sizeof cuts, "synthetic: {curves: %lld, seed: %llu}\n", (long long)options->curves,
             (unsigned long long)options->seed);
    identity->cuts = memory_string(cuts);
    identity->classes = memory_new(SYNTH_CLASSES, sizeof *identity->classes, "class names");
    for (int c = 0; c < SYNTH_CLASSES; c++) identity->classes[c] = memory_string(synth_class_names[c]);
}

/* Arrays of light curves that grow. */
struct room {
    size_t time, magnitude, error;
};

static void append(struct curves *curves, struct room *room, int count, const double *time, const float *magnitude,
                   const float *error_mag)
{
    size_t first = (size_t)curves->observations, needed = first + (size_t)count;
    memory_grow((void **)&curves->time, &room->time, needed, sizeof *curves->time, "light curves");
    memory_grow((void **)&curves->magnitude, &room->magnitude, needed, sizeof *curves->magnitude, "light curves");
    memory_grow((void **)&curves->error, &room->error, needed, sizeof *curves->error, "light curves");
    memcpy(curves->time + first, time, (size_t)count * sizeof *time);
    memcpy(curves->magnitude + first, magnitude, (size_t)count * sizeof *magnitude);
    memcpy(curves->error + first, error_mag, (size_t)count * sizeof *error_mag);
    curves->observations += count;
}

/* All light curves of a shard, in the order of their index, which is that of their ids. */
static void make_curves(struct curves *curves, const struct synth_options *options, int shard, struct synth_report *report)
{
    struct room room = {0};
    double *time = memory_new(SYNTH_OBSERVATIONS_MOST, sizeof *time, "a light curve");
    float *magnitude = memory_new(SYNTH_OBSERVATIONS_MOST, sizeof *magnitude, "a light curve");
    float *error_mag = memory_new(SYNTH_OBSERVATIONS_MOST, sizeof *error_mag, "a light curve");
    size_t count = (size_t)((options->curves - shard + options->shards - 1) / options->shards);
    if (options->curves <= shard) count = 0;
    *curves = (struct curves){.count = (int64_t)count};
    curves->offset = memory_zeroed(count + 1, sizeof *curves->offset, "light curves");
    curves->id = memory_new(count, sizeof *curves->id, "light curves");
    curves->id_text = memory_new(count, ID_BYTES, "light curves");
    curves->label = memory_new(count, sizeof *curves->label, "light curves");
    for (size_t c = 0; c < count; c++) {
        struct synth_star star;
        int64_t index = shard + (int64_t)c * options->shards;
        append(curves, &room, synth_curve(options->seed, index, &star, time, magnitude, error_mag), time, magnitude, error_mag);
        curves->offset[c + 1] = (uint64_t)curves->observations;
        curves->id[c] = curves->id_text + c * ID_BYTES;
        snprintf(curves->id[c], ID_BYTES, "synth-%010lld", (long long)index);
        curves->label[c] = star.class;
        report->class_curves[star.class]++;
    }
    report->observations += curves->observations;
    memory_free(time);
    memory_free(magnitude);
    memory_free(error_mag);
}

static void make_shards(const struct synth_options *options, const struct building *building, struct comm *comm,
                        struct synth_report *report, struct error *error)
{
    struct survey_identity identity;
    struct progress progress;
    make_identity(&identity, options, building->name);
    progress_begin(&progress, comm_rank(comm) == 0);
    for (int s = comm_rank(comm); s < options->shards && !error->status; s += comm_size(comm)) {
        struct curves curves;
        if (progress_due(&progress)) progress_show(&progress, "making shard %d of %d", s + 1, options->shards);
        make_curves(&curves, options, s, report);
        shard_write(building->partial, s, options->shards, &identity, &curves, error);
        curves_release(&curves);
    }
    progress_end(&progress);
    survey_identity_release(&identity);
}

int synth(const struct synth_options *options, struct comm *comm, struct synth_report *report, struct error *error)
{
    struct building building;
    double start = clock_seconds();
    *report = (struct synth_report){0};
    CHECK(options->curves >= 1 && options->shards >= 1, "%lld curves in %d shards", (long long)options->curves, options->shards);
    if (building_begin(&building, options->out, comm, error)) return error->status;
    make_shards(options, &building, comm, report, error);
    building_end(&building, comm, error);
    comm_sum_int64(comm, &report->observations, 1);
    comm_sum_int64(comm, report->class_curves, SYNTH_CLASSES);
    report->seconds = clock_seconds() - start;
    return error->status;
}
