/* SPDX-License-Identifier: MIT
 *
 * Shows that finetune works as a part of another command: many times in one process, each rank on its own in a group of one on a
 * device that stays open, with nothing left behind: no thread, no open file, no word on standard output. The ranks compute the
 * same cells and must come to the same results. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "survey/folds.h"
#include "survey/synth.h"
#include "train/finetune.h"

enum { CURVES = 150, CELLS = 2, PATH_BYTES = 160 };

static struct comm *world, *self;
static char folder[64], survey_path[PATH_BYTES], folds_path[PATH_BYTES], start_path[PATH_BYTES], out_path[PATH_BYTES];

static void good(const struct error *error)
{
    if (error->status) fail_msg("%s", error->message);
}

static void make_survey(struct error *error)
{
    const int64_t samples[] = {3, 5};
    const struct synth_options options = {.out = survey_path, .curves = CURVES, .seed = 7, .shards = 3};
    struct synth_report report;
    struct survey survey;
    struct folds folds = {0};
    if (synth(&options, self, &report, error) || survey_open(&survey, survey_path, self, 0, error)) return;
    const struct folds_options how = {
        .folds = 2, .samples = samples, .sample_counts = 2, .test = 4, .validation = 2, .least = 10};
    if (!folds_make(&folds, &survey, &how, error)) folds_write(&folds, folds_path, error);
    folds_release(&folds);
    survey_close(&survey);
}

static void make_start(struct error *error)
{
    struct config config;
    config_default(&config);
    config.model.blocks = 1, config.model.heads = 2, config.model.width = 8, config.model.ffn = 8, config.data.window = 20;
    struct parameter_table *table = parameter_table_new(&config.model);
    float *values = memory_zeroed((size_t)table->total, sizeof *values, "a test");
    char *text = config_text(&config);
    parameters_initialise(table, values, 1);
    struct checkpoint checkpoint = {.table = table, .parameters = values, .progress.best_epoch = -1, .config_text = text};
    checkpoint_write(start_path, &checkpoint, self, error);
    memory_free(text);
    memory_free(values);
    parameter_table_free(table);
}

static int make_files(void **state)
{
    (void)state;
    struct error error = {0};
    snprintf(folder, sizeof folder, "/tmp/astromer-test-XXXXXX");
    if (comm_rank(world) == 0) CHECK(mkdtemp(folder), "no folder for the test");
    comm_broadcast(world, folder, sizeof folder, 0);
    snprintf(survey_path, sizeof survey_path, "%s/survey", folder);
    snprintf(folds_path, sizeof folds_path, "%s/folds.h5", folder);
    snprintf(start_path, sizeof start_path, "%s/start.h5", folder);
    if (comm_rank(world) == 0) {
        make_survey(&error);
        if (!error.status) make_start(&error);
    }
    comm_agree(world, &error);
    good(&error);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    comm_barrier(world);
    return comm_rank(world) == 0 ? system(command) : 0;
}

static int entries(const char *path)
{
    int count = 0;
    DIR *list = opendir(path);
    while (list && readdir(list)) count++;
    if (list) closedir(list);
    return count;
}

static void finetune_cell(int cell, struct device *device, const struct finetune_measures *before, struct finetune_result *result)
{
    static char *const settings[] = {"train.epochs=3", "train.learning_rate=1e-3", "train.batch=4", "threads=1"};
    struct error error = {0};
    snprintf(out_path, sizeof out_path, "%s/rank%d/cell%d", folder, comm_rank(world), cell);
    const struct finetune_options options = {.checkpoint = start_path,
                                             .survey = survey_path,
                                             .folds = folds_path,
                                             .out = out_path,
                                             .fold = cell % 2,
                                             .samples = cell % 2 ? 5 : 3,
                                             .setting_count = 4,
                                             .setting = settings,
                                             .quiet = true,
                                             .device = device,
                                             .before = before};
    finetune(&options, self, result, &error);
    good(&error);
    assert_true(result->finished);
}

static void cell_after_cell_in_one_process(void **state)
{
    (void)state;
    struct error error = {0};
    struct device *device = NULL;
    struct finetune_result cells[2 * CELLS], again;
    const struct device_place place = {.local_rank = 0, .core_sharers = 1};
    device_open(&device, DEVICE_CPU, PRECISION_FP32, 1, &place, &error);
    good(&error);
    int threads = 0, files = 0;
    for (int cell = 0; cell < 2 * CELLS; cell++) {
        finetune_cell(cell, device, NULL, &cells[cell]);
        assert_false(cells[cell].found);
        assert_int_equal(cells[cell].epochs, 3);
        assert_true(cells[cell].after.rmse < cells[cell].before.rmse);
        if (cell == 0) threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
        assert_int_equal(entries("/proc/self/task"), threads);
        assert_int_equal(entries("/proc/self/fd"), files);
    }
    for (int cell = 0; cell < CELLS; cell++) { /* the same cell in another folder */
        assert_memory_equal(&cells[cell].before, &cells[cell + CELLS].before, sizeof cells[cell].before);
        assert_memory_equal(&cells[cell].after, &cells[cell + CELLS].after, sizeof cells[cell].after);
    }
    finetune_cell(1, device, NULL, &again);
    assert_true(again.found);
    assert_memory_equal(&again.before, &cells[1].before, sizeof again.before);
    assert_memory_equal(&again.after, &cells[1].after, sizeof again.after);
    assert_true(again.minutes == cells[1].minutes && again.curves == cells[1].curves && again.epochs == cells[1].epochs);
    assert_true(again.windows_seen == cells[1].windows_seen && again.best_epoch == cells[1].best_epoch);
    device_close(device);

    struct finetune_measures own = cells[1].after, *all = memory_new((size_t)comm_size(world), sizeof *all, "a test");
    comm_gather(world, &own, sizeof own, all);
    assert_memory_equal(&all[0], &own, sizeof own);
    memory_free(all);
}

static void what_is_known_is_not_measured_again(void **state)
{
    (void)state;
    struct finetune_result result;
    const struct finetune_measures known = {.rmse = 11, .r2 = 12, .unmasked = 13};
    finetune_cell(7, NULL, &known, &result);
    assert_memory_equal(&result.before, &known, sizeof known);
    assert_true(result.after.rmse < 2);
}

/* Standard output into a file; what it has afterwards. */
static long bytes_written_by(int (*run)(void))
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/output-%d", folder, comm_rank(world));
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    CHECK(kept >= 0 && freopen(path, "w", stdout), "no file for the output");
    run();
    fflush(stdout);
    long bytes = lseek(STDOUT_FILENO, 0, SEEK_END);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    return bytes;
}

static int finetune_quietly(void)
{
    struct finetune_result result;
    finetune_cell(9, NULL, NULL, &result);
    return 0;
}

static void quiet_is_quiet(void **state)
{
    (void)state;
    assert_int_equal(bytes_written_by(finetune_quietly), 0);
}

int main(int argc, char **argv)
{
    H5dont_atexit();
    world = comm_begin(&argc, &argv);
    self = comm_split(world, comm_rank(world));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cell_after_cell_in_one_process),
        cmocka_unit_test(what_is_known_is_not_measured_again),
        cmocka_unit_test(quiet_is_quiet),
    };
    int failed = cmocka_run_group_tests(tests, make_files, remove_files);
    comm_free(self);
    comm_end(world);
    return failed;
}
