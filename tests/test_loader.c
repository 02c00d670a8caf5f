/* SPDX-License-Identifier: MIT
 *
 * Shows that windows hold what the survey holds, that batches are the same for 1 to 4 ranks and after a restart at any position,
 * that a sequential pass sees everything once and in order, that read errors arrive, and that a loader can stop at any moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/random.h"
#include "small_survey.h"
#include "survey/loader.h"

enum { SHARDS = 7, CURVES = 60, STEPS = 20, BATCH = 16 };
static const int64_t counts[SHARDS] = {9, 0, 21, 1, 14, 8, 7};

static struct comm *world, *self;
static char folder[64];

/* A survey and all its curves as one group of ranks sees them. */
struct view {
    struct survey survey;
    struct selection all;
};

static void view_open(struct view *view, struct comm *comm, bool resident)
{
    struct error error = {0};
    if (survey_open(&view->survey, folder, comm, resident ? 1 << 20 : 0, &error) ||
        selection_new(&view->all, &view->survey, comm, PART_ALL, NULL, &error))
        fail_msg("%s", error.message);
}

static void view_close(struct view *view)
{
    selection_release(&view->all);
    survey_close(&view->survey);
}

static int shard_of(int64_t curve)
{
    int s = 0;
    for (; curve >= counts[s]; s++) curve -= counts[s];
    return s;
}

/* Window w holds observations start .. start + length - 1 of its curve, centred in time, and zeros after them. */
static void check_window(const struct windows *windows, int w)
{
    const double *time = windows->time + w * STEPS;
    const float *magnitude = windows->magnitude + w * STEPS, *error = windows->error + w * STEPS;
    int64_t curve = windows->curve[w], start = windows->start[w];
    int n = windows->length[w];
    double mean = 0;
    assert_in_range(n, 1, STEPS);
    assert_in_range(start, 0, small_length(curve) - n);
    for (int i = 0; i < n; i++) mean += small_time(curve, start + i) / n;
    for (int i = 0; i < STEPS; i++) {
        bool real = i < n;
        double expected = real ? small_time(curve, start + i) - mean : 0;
        if (!(time[i] - expected < 1e-4 && expected - time[i] < 1e-4)) fail_msg("time %g, not %g", time[i], expected);
        assert_true(magnitude[i] == (real ? small_magnitude(curve, start + i) : 0));
        assert_true(error[i] == (real ? small_error(curve, start + i) : 0));
    }
}

static const struct batch *next(struct loader *loader)
{
    struct error error = {0};
    const struct batch *batch;
    if (loader_next(loader, &batch, &error)) fail_msg("%s", error.message);
    return batch;
}

static void assert_same_window(const struct windows *a, int i, const struct windows *b, int j)
{
    assert_int_equal(a->curve[i], b->curve[j]);
    assert_int_equal(a->start[i], b->start[j]);
    assert_int_equal(a->length[i], b->length[j]);
    assert_memory_equal(a->time + i * STEPS, b->time + j * STEPS, STEPS * sizeof *a->time);
    assert_memory_equal(a->magnitude + i * STEPS, b->magnitude + j * STEPS, STEPS * sizeof *a->magnitude);
    assert_memory_equal(a->error + i * STEPS, b->error + j * STEPS, STEPS * sizeof *a->error);
}

static void an_epoch_draws_every_curve_once(void **state)
{
    (void)state;
    struct view view;
    view_open(&view, self, true);
    struct loader *loader = loader_training(&view.all, BATCH, STEPS, 5, 0, 0);
    int64_t first_of_epoch[3];
    bool moved = false;
    int start_of[CURVES];
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[CURVES] = {0};
        for (int64_t position = 0; position < CURVES; position += BATCH) {
            const struct batch *batch = next(loader);
            assert_int_equal(batch->epoch, epoch);
            assert_int_equal(batch->position, position);
            assert_int_equal(batch->global_count, CURVES - position < BATCH ? CURVES - position : BATCH);
            assert_int_equal(batch->windows.count, batch->global_count);
            assert_int_equal(batch->last, position + BATCH >= CURVES);
            if (position == 0) first_of_epoch[epoch] = batch->windows.curve[0];
            for (int w = 0; w < batch->windows.count; w++) {
                int64_t curve = batch->windows.curve[w];
                check_window(&batch->windows, w);
                assert_int_equal(batch->windows.length[w], small_length(curve) < STEPS ? small_length(curve) : STEPS);
                assert_int_equal(batch->windows.start[w], window_start(5, (uint32_t)epoch, curve, small_length(curve), STEPS));
                moved = moved || (epoch > 0 && start_of[curve] != batch->windows.start[w]);
                start_of[curve] = batch->windows.start[w];
                seen[curve]++;
            }
        }
        for (int c = 0; c < CURVES; c++) assert_int_equal(seen[c], 1);
    }
    assert_true(moved);
    assert_false(first_of_epoch[0] == first_of_epoch[1] && first_of_epoch[1] == first_of_epoch[2]);
    assert_true(loader_wait_seconds(loader) >= 0 && loader_wait_seconds(loader) < 60);
    loader_free(loader);
    view_close(&view);
}

static void starts_are_uniform(void **state)
{
    (void)state;
    int often[31] = {0};
    for (int64_t curve = 0; curve < 31000; curve++) often[window_start(1, 2, curve, 230, 200)]++;
    for (int i = 0; i < 31; i++) assert_in_range(often[i], 1000 - 150, 1000 + 150);
    assert_int_equal(window_start(1, 2, 3, 200, 200), 0);
    assert_int_equal(window_start(1, 2, 3, 1, 200), 0);
}

/* The group's batch is the part of the single rank's that lies in this rank's shards, in the same order. */
static void compare_with_one_rank(struct comm *group, bool resident)
{
    struct view ours, whole;
    view_open(&ours, group, resident);
    view_open(&whole, self, !resident);
    struct loader *loader = loader_training(&ours.all, BATCH, STEPS, 9, 3, 0);
    struct loader *reference = loader_training(&whole.all, BATCH, STEPS, 9, 3, 0);
    for (int step = 0; step < 11; step++) {
        const struct batch *batch = next(loader), *expected = next(reference);
        assert_int_equal(batch->epoch, expected->epoch);
        assert_int_equal(batch->position, expected->position);
        assert_int_equal(batch->global_count, expected->global_count);
        assert_int_equal(batch->last, expected->last);
        int own = 0;
        for (int w = 0; w < expected->windows.count; w++)
            if (survey_owns(&ours.survey, shard_of(expected->windows.curve[w])))
                assert_same_window(&batch->windows, own++, &expected->windows, w);
        assert_int_equal(batch->windows.count, own);
    }
    loader_free(loader);
    loader_free(reference);
    view_close(&whole);
    view_close(&ours);
}

static void batches_do_not_depend_on_the_ranks(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= comm_size(world); ranks++) {
        struct comm *group = comm_split(world, comm_rank(world) < ranks ? 0 : -1);
        if (group) compare_with_one_rank(group, ranks % 2);
        comm_free(group);
    }
}

static void a_restart_goes_on_with_the_same_batches(void **state)
{
    (void)state;
    struct view view;
    view_open(&view, world, false);
    struct loader *loader = loader_training(&view.all, BATCH, STEPS, 5, 0, 0);
    for (int step = 0; step < 9; step++) {
        const struct batch *expected = next(loader);
        struct loader *restarted = loader_training(&view.all, BATCH, STEPS, 5, expected->epoch, expected->position);
        const struct batch *batch = next(restarted);
        assert_int_equal(batch->windows.count, expected->windows.count);
        for (int w = 0; w < batch->windows.count; w++) assert_same_window(&batch->windows, w, &expected->windows, w);
        loader_free(restarted);
    }
    struct loader *after =
        loader_training(&view.all, BATCH, STEPS, 5, 0, CURVES); /* an epoch's end is the next one's beginning */
    assert_int_equal(next(after)->epoch, 1);
    loader_free(after);
    loader_free(loader);
    view_close(&view);
}

static void a_sequential_pass_sees_all_in_order(void **state)
{
    (void)state;
    struct view view;
    view_open(&view, world, true);
    for (int kind = 0; kind < 8; kind++) {
        bool full_only = kind & 1;
        int64_t per_curve = kind & 2 ? 1 : 0;
        int capacity = kind & 4 ? 1000 : 7;
        struct loader *loader = loader_sequential(&view.all, capacity, STEPS, per_curve, full_only);
        const struct batch *batch = next(loader);
        int w = 0;
        for (int s = comm_rank(world); s < SHARDS; s += comm_size(world)) {
            for (int64_t c = view.survey.first_curve[s]; c < view.survey.first_curve[s + 1]; c++) {
                int64_t windows = sequential_windows(small_length(c), STEPS, per_curve, full_only);
                for (int64_t k = 0; k < windows; k++) {
                    if (w == batch->windows.count) {
                        assert_false(batch->last);
                        assert_int_equal(batch->windows.count, capacity);
                        batch = next(loader);
                        w = 0;
                    }
                    int64_t left = small_length(c) - k * STEPS;
                    assert_int_equal(batch->global_count, batch->windows.count);
                    assert_int_equal(batch->windows.curve[w], c);
                    assert_int_equal(batch->windows.start[w], k * STEPS);
                    assert_int_equal(batch->windows.length[w], left < STEPS ? left : STEPS);
                    check_window(&batch->windows, w++);
                }
            }
        }
        assert_true(batch->last);
        assert_int_equal(w, batch->windows.count);
        loader_free(loader);
    }
    view_close(&view);
}

static void windows_are_counted(void **state)
{
    (void)state;
    assert_int_equal(sequential_windows(1, 200, 0, false), 1);
    assert_int_equal(sequential_windows(200, 200, 0, false), 1);
    assert_int_equal(sequential_windows(201, 200, 0, false), 2);
    assert_int_equal(sequential_windows(201, 200, 0, true), 1);
    assert_int_equal(sequential_windows(199, 200, 0, true), 0);
    assert_int_equal(sequential_windows(999, 200, 3, false), 3);
    assert_int_equal(sequential_windows(399, 200, 3, false), 2);
}

static void nothing_selected_is_one_empty_batch(void **state)
{
    (void)state;
    struct view view;
    struct selection none;
    struct error error = {0};
    view_open(&view, self, true);
    assert_int_equal(selection_new(&none, &view.survey, self, PART_VALIDATION, &(struct split){0}, &error), STATUS_OK);
    struct loader *loader = loader_sequential(&none, 10, STEPS, 0, false);
    const struct batch *batch = next(loader);
    assert_int_equal(batch->windows.count, 0);
    assert_true(batch->last);
    loader_free(loader);
    selection_release(&none);
    view_close(&view);
}

static void a_read_error_arrives(void **state)
{
    (void)state;
    comm_barrier(world);
    if (comm_rank(world) == 0) {
        struct view view;
        char path[128];
        view_open(&view, self, false);
        snprintf(path, sizeof path, "%s/shard-00004-of-00007.h5", folder);
        assert_int_equal(truncate(path, 100), 0);
        struct loader *loader = loader_sequential(&view.all, 5, STEPS, 0, false);
        struct error error = {0};
        const struct batch *batch;
        int batches = 0;
        while (loader_next(loader, &batch, &error) == STATUS_OK) {
            batches++;
            for (int w = 0; w < batch->windows.count; w++) check_window(&batch->windows, w);
        }
        assert_true(batches > 2);
        assert_non_null(strstr(error.message, "shard-00004-of-00007.h5"));
        struct error again = {0};
        assert_int_equal(loader_next(loader, &batch, &again), STATUS_FAILED);
        assert_string_equal(again.message, error.message);
        loader_free(loader);
        view_close(&view);
        memset(&error, 0, sizeof error);
        assert_int_equal(small_survey(folder, "again", counts, SHARDS, &error), STATUS_OK);
    }
    comm_barrier(world);
}

static void stops_at_any_moment(void **state)
{
    (void)state;
    struct view view;
    view_open(&view, self, true);
    for (int i = 0; i < 200; i++) {
        struct loader *loader =
            i % 2 ? loader_training(&view.all, BATCH, STEPS, 5, 0, 0) : loader_sequential(&view.all, 5, STEPS, 0, false);
        for (int taken = 0; taken < i % 5; taken++) next(loader);
        if (i % 3 == 0) usleep((unsigned)i);
        loader_free(loader);
    }
    loader_free(NULL);
    view_close(&view);
}

int main(int argc, char **argv)
{
    world = comm_begin(&argc, &argv);
    self = comm_split(world, comm_rank(world));
    struct error error = {0};
    if (comm_rank(world) == 0) {
        strcpy(folder, "/tmp/astromer-test-loader-XXXXXX");
        if (!mkdtemp(folder)) error_set(&error, STATUS_FAILED, "cannot make %s", folder);
        small_survey(folder, "small", counts, SHARDS, &error);
    }
    comm_broadcast(world, folder, sizeof folder, 0);
    CHECK(comm_agree(world, &error) == STATUS_OK, "%s", error.message);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_draws_every_curve_once),
        cmocka_unit_test(starts_are_uniform),
        cmocka_unit_test(batches_do_not_depend_on_the_ranks),
        cmocka_unit_test(a_restart_goes_on_with_the_same_batches),
        cmocka_unit_test(a_sequential_pass_sees_all_in_order),
        cmocka_unit_test(windows_are_counted),
        cmocka_unit_test(nothing_selected_is_one_empty_batch),
        cmocka_unit_test(a_read_error_arrives),
        cmocka_unit_test(stops_at_any_moment),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_barrier(world);
    if (comm_rank(world) == 0) remove_folder(folder);
    comm_free(self);
    comm_end(world);
    return failed;
}
