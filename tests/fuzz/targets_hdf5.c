/* SPDX-License-Identifier: MIT
 *
 * HDF5 files that a stranger may have made: shards, folds, checkpoints, golden files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hdf5.h>

#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "commands/golden.h"
#include "model/parameters.h"
#include "survey/folds.h"
#include "survey/shard.h"
#include "targets.h"

static void read_curves(const struct shard *shard)
{
    for (int64_t c = 0; c < shard->count; c++) {
        struct error error = {0};
        int64_t length = (int64_t)(shard->offset[c + 1] - shard->offset[c]);
        double *time = memory_new((size_t)length, sizeof *time, "a curve");
        float *magnitude = memory_new((size_t)length, sizeof *magnitude, "a curve");
        float *error_mag = memory_new((size_t)length, sizeof *error_mag, "a curve");
        CHECK(strlen(shard->id[c]) < 1 << 30, "an id without an end");
        CHECK(!shard->label || shard->label[c] < shard->identity.class_count, "a class that is not there");
        CHECK(!shard_read(shard, c, 0, length, time, magnitude, error_mag, &error), "%s", error.message);
        for (int64_t i = 0; i < length; i++)
            CHECK(isfinite(time[i]) && isfinite(magnitude[i]) && error_mag[i] > 0 && (!i || time[i] >= time[i - 1]),
                  "a light curve that training cannot take");
        memory_free(time);
        memory_free(magnitude);
        memory_free(error_mag);
    }
}

static void shard(const char *folder, const uint8_t *bytes, size_t count)
{
    char path[4096];
    int64_t observation_bytes;
    fuzz_file(path, folder, "shard.h5", bytes, count);
    shard_bytes(path, &observation_bytes, &(struct error){0});
    for (int resident = 0; resident < 2; resident++) {
        struct shard shard;
        struct error error = {0};
        if (shard_open(&shard, path, resident, &error)) continue;
        read_curves(&shard);
        shard_close(&shard);
    }
    unlink(path);
}

static void check_set(const struct folds *folds, const struct fold_set *set, int64_t samples)
{
    CHECK(set->count >= folds->class_count && (!samples || set->count == samples * folds->class_count), "a set of another size");
    for (int64_t i = 0; i < set->count; i++)
        CHECK(set->row[i] >= 0 && set->row[i] < folds->stars, "a row that the table does not have");
}

static void folds(const char *folder, const uint8_t *bytes, size_t count)
{
    char path[4096];
    struct folds folds;
    struct error error = {0};
    fuzz_file(path, folder, "folds.h5", bytes, count);
    if (!folds_read(&folds, path, &error)) {
        for (int64_t row = 0; row < folds.stars; row++) {
            CHECK(folds.label[row] >= 0 && folds.label[row] < folds.class_count, "a class that is not there");
            CHECK(folds.curve[row] >= 0 && strlen(folds.id[row]) < 1 << 30, "a light curve that cannot be");
        }
        for (int k = 0; k < folds.fold_count; k++) {
            check_set(&folds, &folds.fold[k].test, 0);
            check_set(&folds, &folds.fold[k].validation, 0);
            for (int n = 0; n < folds.sample_counts; n++) check_set(&folds, &folds.fold[k].training[n], folds.samples[n]);
        }
        CHECK(strlen(folds.survey_name) < 1 << 30, "a name without an end");
        folds_release(&folds);
    }
    unlink(path);
}

/* As a run does that resumes, or as evaluate does where Adam's state is not there. */
static void checkpoint(const char *folder, const uint8_t *bytes, size_t count)
{
    char path[4096];
    struct error error = {0};
    struct checkpoint_summary summary;
    struct config config;
    struct comm *comm = comm_begin(NULL, NULL);
    fuzz_file(path, folder, "step-00000001.h5", bytes, count);
    if (!checkpoint_inspect(path, &summary, &error) && !checkpoint_read_config(path, &config, comm, &error)) {
        struct parameter_table *table = parameter_table_new(&config.model);
        float *buffer[3] = {NULL};
        for (int i = 0; i < (summary.resumable ? 3 : 1); i++)
            buffer[i] = memory_new((size_t)table->total, sizeof(float), "a test");
        struct checkpoint checkpoint = {.table = table, .parameters = buffer[0], .adam_m = buffer[1], .adam_v = buffer[2]};
        checkpoint_read(path, &checkpoint, comm, &error);
        for (int i = 0; i < 3; i++) memory_free(buffer[i]);
        parameter_table_free(table);
    }
    checkpoint_summary_release(&summary);
    comm_end(comm);
    unlink(path);
}

/* What astromer check asks for, without the computing. */
static void golden(const char *folder, const uint8_t *bytes, size_t count)
{
    char path[4096];
    struct error error = {0};
    struct golden golden;
    static const char *const fields[] = {"input/time", "input/magnitude", "input/probed", "expected/reconstruction",
                                         "expected/X0"};
    fuzz_file(path, folder, "golden.h5", bytes, count);
    if (!golden_open(&golden, path, &error)) {
        struct parameter_table *table = parameter_table_new(&golden.model);
        for (size_t i = 0; i < sizeof fields / sizeof *fields && !error.status; i++) {
            double *values = NULL;
            golden_read(&golden, fields[i], (int64_t)golden.B * golden.L * (i == 4 ? golden.model.width : 1), &values, &error);
            memory_free(values);
        }
        golden_check_weights(&golden, table, &error);
        for (int i = 0; i < table->count && !error.status; i++) {
            const struct parameter *p = &table->parameter[i];
            char name[96];
            float *values = NULL;
            snprintf(name, sizeof name, "weights/%s", p->name);
            golden_read_floats(&golden, name, (int64_t)p->rows * p->columns, &values, &error);
            memory_free(values);
        }
        parameter_table_free(table);
    }
    golden_close(&golden);
    unlink(path);
}

const struct fuzz_target fuzz_hdf5_targets[] = {
    {"shard", shard}, {"folds", folds}, {"checkpoint", checkpoint}, {"golden", golden}, {NULL, NULL}};
