/* SPDX-License-Identifier: MIT
 *
 * Shows, for 1 to 4 ranks, that a survey opens with the right shards on the right ranks, that every kind of wrong folder is
 * refused on all ranks with the file's name, and that a selection is the same split of the stars whatever the layout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "small_survey.h"
#include "survey/survey.h"

enum { SHARDS = 5 };
static const int64_t counts[SHARDS] = {4, 0, 11, 3, 7};

static struct comm *world;
static char folder[64];

/* A fresh survey for every test; rank 0 makes it. */
static int make(void **state)
{
    (void)state;
    struct error error = {0};
    if (comm_rank(world) == 0) {
        strcpy(folder, "/tmp/astromer-test-survey-XXXXXX");
        if (!mkdtemp(folder)) error_set(&error, STATUS_FAILED, "cannot make %s", folder);
        small_survey(folder, "survey-one", counts, SHARDS, &error);
    }
    comm_agree(world, &error);
    comm_broadcast(world, folder, sizeof folder, 0);
    return error.status;
}

static int unmake(void **state)
{
    (void)state;
    comm_barrier(world);
    if (comm_rank(world) == 0) remove_folder(folder);
    return 0;
}

static const char *file(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void check_content(const struct survey *survey)
{
    int64_t first = 0, observations = 0;
    assert_int_equal(survey->shards, SHARDS);
    for (int s = 0; s < SHARDS; s++) {
        assert_int_equal(survey->count[s], counts[s]);
        assert_int_equal(survey->first_curve[s], first);
        assert_int_equal(survey_owns(survey, s), s % comm_size(world) == comm_rank(world));
        if (survey_owns(survey, s)) {
            assert_int_equal(survey->shard[s].count, counts[s]);
            for (int64_t c = 0; c < counts[s]; c++) {
                char id[32];
                small_id(first + c, id);
                assert_string_equal(survey->shard[s].id[c], id);
            }
        } else {
            assert_null(survey->shard[s].path);
        }
        first += counts[s];
    }
    for (int64_t c = 0; c < first; c++) observations += small_length(c);
    assert_int_equal(survey->first_curve[SHARDS], first);
    assert_int_equal(survey->observations, observations);
    assert_string_equal(survey->identity.survey_id, "survey-one");
    assert_string_equal(survey->identity.band, "R");
    assert_string_equal(survey->identity.cuts, "filter: off\n");
}

static void opens(void **state)
{
    (void)state;
    for (int resident = 0; resident < 2; resident++) {
        struct survey survey;
        struct error error = {0};
        assert_int_equal(survey_open(&survey, folder, world, resident ? 1 << 20 : 0, &error), STATUS_OK);
        check_content(&survey);
        for (int s = 0; s < SHARDS; s++)
            if (survey_owns(&survey, s) && counts[s]) assert_int_equal(survey.shard[s].resident, resident);
        survey_close(&survey);
        survey_close(&survey); /* twice does no harm */
    }
}

static void other_files_do_not_matter(void **state)
{
    (void)state;
    if (comm_rank(world) == 0) {
        const char *stray[] = {"README",          "shard-00001-of-00009.h5.tmp", ".shard-00000-of-00005.h5.x7",
                               "shard-1-of-9.h5", "shard-00001-of-00009.h5~",    "shard-000001-of-000009.h5"};
        for (size_t i = 0; i < sizeof stray / sizeof *stray; i++) close(open(file(stray[i]), O_CREAT | O_WRONLY, 0600));
        assert_int_equal(mkdir(file("plots"), 0700), 0);
    }
    comm_barrier(world);
    struct survey survey;
    struct error error = {0};
    if (survey_open(&survey, folder, world, 0, &error)) fail_msg("%s", error.message);
    check_content(&survey);
    survey_close(&survey);
}

/* Every rank gets the same refusal, and it holds both words. */
static void refused(const char *path, int status, const char *word, const char *other_word)
{
    struct survey survey;
    struct error error = {0};
    comm_barrier(world);
    int got = survey_open(&survey, path, world, 1 << 20, &error);
    if (got != status || !strstr(error.message, word) || !strstr(error.message, other_word))
        fail_msg("status %d, message: %s", got, error.message);
    assert_null(survey.shard);
    survey_close(&survey);
    struct error first = error;
    comm_broadcast(world, &first, sizeof first, 0);
    assert_string_equal(error.message, first.message);
}

static void wrong_folders(void **state)
{
    (void)state;
    refused("/nowhere/survey", STATUS_FAILED, "/nowhere/survey", "No such file");
    refused(file("shard-00002-of-00005.h5"), STATUS_FAILED, "shard-00002-of-00005.h5", "not a folder");
    if (comm_rank(world) == 0) assert_int_equal(mkdir(file("empty"), 0700), 0);
    refused(file("empty"), STATUS_FAILED, "/empty", "holds no shards");
}

static void missing_shard(void **state)
{
    (void)state;
    if (comm_rank(world) == 0) {
        assert_int_equal(unlink(file("shard-00003-of-00005.h5")), 0);
        assert_int_equal(unlink(file("shard-00004-of-00005.h5")), 0);
    }
    refused(folder, STATUS_FAILED, "shard-00003-of-00005.h5: is missing", "3 of 5");
}

static void two_layouts(void **state)
{
    (void)state;
    struct error error = {0};
    if (comm_rank(world) == 0) small_shard(folder, "survey-one", 1, 4, 0, 2, &error);
    refused(folder, STATUS_FAILED, folder, "shards of two surveys");
}

static void impossible_number(void **state)
{
    (void)state;
    if (comm_rank(world) == 0) close(open(file("shard-00005-of-00005.h5"), O_CREAT | O_WRONLY, 0600));
    refused(folder, STATUS_FAILED, "shard-00005-of-00005.h5", "no survey has such a shard");
}

static void foreign_shard(void **state)
{
    (void)state;
    struct error error = {0};
    if (comm_rank(world) == 0) small_shard(folder, "survey-two", 3, SHARDS, 15, 3, &error);
    refused(folder, STATUS_FAILED, "shard-00003-of-00005.h5: belongs to another survey", "survey-two");
}

static void renamed_shard(void **state)
{
    (void)state;
    if (comm_rank(world) == 0) {
        char from[256];
        snprintf(from, sizeof from, "%s", file("shard-00002-of-00005.h5"));
        assert_int_equal(rename(from, file("shard-00004-of-00005.h5")), 0);
        struct error error = {0};
        small_shard(folder, "survey-one", 2, SHARDS, 4, 11, &error);
        assert_int_equal(error.status, STATUS_OK);
    }
    refused(folder, STATUS_FAILED, "shard-00004-of-00005.h5: is shard 2 of 5", "not what its name says");
}

static void damaged_shards(void **state)
{
    (void)state;
    if (comm_rank(world) == 0) {
        struct stat status;
        int fd = open(file("shard-00004-of-00005.h5"), O_RDWR);
        assert_true(fd >= 0 && fstat(fd, &status) == 0);
        assert_int_equal(ftruncate(fd, status.st_size / 2), 0);
        close(fd);
    }
    refused(folder, STATUS_FAILED, folder, "shard-00004-of-00005.h5");
    if (comm_rank(world) == 0) close(open(file("shard-00002-of-00005.h5"), O_TRUNC | O_WRONLY));
    refused(folder, STATUS_FAILED, folder, ".h5"); /* one of the two, the same on all ranks */
}

static void too_many_ranks(void **state)
{
    (void)state;
    struct error error = {0};
    if (comm_rank(world) == 0) {
        remove_folder(folder);
        mkdir(folder, 0700);
        small_shard(folder, "survey-one", 0, 1, 0, 3, &error);
    }
    comm_barrier(world);
    if (comm_size(world) > 1) {
        refused(folder, STATUS_USAGE, folder, "start at most 1");
    } else {
        struct survey survey;
        assert_int_equal(survey_open(&survey, folder, world, 0, &error), STATUS_OK);
        survey_close(&survey);
    }
}

static void hash_is_the_documented_one(void **state)
{
    (void)state;
    /* FNV-1a 64 of "" and of "1.3441.15" finished by SplitMix64's mixer, worked out by another program. */
    assert_true(id_hash("") == 0x1.ea542bd3536bdp-1);
    assert_true(id_hash("1.3441.15") == 0x1.807f9e716f73bp-1);
}

static void selection_splits_by_id(void **state)
{
    (void)state;
    struct survey survey;
    struct selection all, training, validation;
    struct error error = {0};
    assert_int_equal(survey_open(&survey, folder, world, 0, &error), STATUS_OK);
    assert_int_equal(selection_new(&all, &survey, world, PART_ALL, NULL, &error), STATUS_OK);
    assert_int_equal(selection_new(&training, &survey, world, PART_TRAINING, &(struct split){.validation = 0.3}, &error),
                     STATUS_OK);
    assert_int_equal(selection_new(&validation, &survey, world, PART_VALIDATION, &(struct split){.validation = 0.3}, &error),
                     STATUS_OK);
    assert_int_equal(all.total, 25);
    assert_int_equal(training.total + validation.total, 25);
    int64_t held_out = 0;
    for (int s = 0; s < SHARDS; s++) {
        assert_int_equal(all.count[s], counts[s]);
        assert_int_equal(training.count[s] + validation.count[s], counts[s]);
        int64_t expected = 0;
        for (int64_t c = 0; c < counts[s]; c++) {
            char id[32];
            small_id(survey.first_curve[s] + c, id);
            bool out = id_hash(id) < 0.3;
            const struct selection *part = out ? &validation : &training;
            if (survey_owns(&survey, s)) assert_int_equal(part->curve[s][out ? expected : c - expected], c);
            expected += out;
        }
        assert_int_equal(validation.count[s], expected);
        if (!survey_owns(&survey, s)) assert_null(validation.curve[s]);
        held_out += expected;
    }
    assert_int_equal(validation.total, held_out);
    assert_in_range(held_out, 1, 24);
    selection_release(&all);
    selection_release(&training);
    selection_release(&validation);
    assert_int_equal(selection_new(&all, &survey, world, PART_TRAINING, &(struct split){.validation = 1.5}, &error),
                     STATUS_USAGE);
    selection_release(&all);
    survey_close(&survey);
}

/* Given by their indices, in any order and some twice. */
static void selection_of_given_curves(void **state)
{
    (void)state;
    static const int64_t given[] = {24, 3, 4, 14, 3, 18, 0, 24};
    static const int64_t expected_count[SHARDS] = {2, 0, 2, 0, 2};
    static const int32_t expected[SHARDS][2] = {{0, 3}, {0}, {0, 10}, {0}, {0, 6}};
    struct survey survey;
    struct selection selection;
    struct error error = {0};
    assert_int_equal(survey_open(&survey, folder, world, 0, &error), STATUS_OK);
    assert_int_equal(selection_of(&selection, &survey, world, given, 8, &error), STATUS_OK);
    assert_int_equal(selection.total, 6);
    for (int s = 0; s < SHARDS; s++) {
        assert_int_equal(selection.count[s], expected_count[s]);
        if (survey_owns(&survey, s))
            assert_memory_equal(selection.curve[s], expected[s], (size_t)expected_count[s] * sizeof **expected);
        else
            assert_null(selection.curve[s]);
    }
    selection_release(&selection);
    assert_int_equal(selection_of(&selection, &survey, world, given, 0, &error), STATUS_OK);
    assert_int_equal(selection.total, 0);
    selection_release(&selection);
    for (int64_t wrong = -1; wrong <= 25; wrong += 26) {
        const int64_t with_wrong[] = {3, wrong};
        error = (struct error){0};
        assert_int_equal(selection_of(&selection, &survey, world, with_wrong, 2, &error), STATUS_FAILED);
        assert_non_null(strstr(error.message, "has 25 light curves"));
        selection_release(&selection);
    }
    survey_close(&survey);
}

static void every_curve_has_a_shard(void **state)
{
    (void)state;
    struct survey survey;
    struct error error = {0};
    assert_int_equal(survey_open(&survey, folder, world, 0, &error), STATUS_OK);
    for (int64_t s = 0, curve = 0; s < SHARDS; s++)
        for (int64_t c = 0; c < counts[s]; c++, curve++) {
            int64_t place;
            assert_int_equal(survey_shard_of(&survey, curve, &place), s);
            assert_int_equal(place, c);
        }
    survey_close(&survey);
}

/* Training, validation and test part are the survey without overlap, and a larger validation part takes no star of the test part.
 */
static void the_test_part_is_of_no_training(void **state)
{
    (void)state;
    struct survey survey;
    struct selection part[3], test;
    struct error error = {0};
    const struct split split = {.validation = 0.2, .test = 0.4}, wider = {.validation = 0.5, .test = 0.4}, too_wide = {0.7, 0.4};
    assert_int_equal(survey_open(&survey, folder, world, 0, &error), STATUS_OK);
    for (int p = 0; p < 3; p++)
        assert_int_equal(selection_new(&part[p], &survey, world, (enum part)(PART_TRAINING + p), &split, &error), STATUS_OK);
    assert_int_equal(part[0].total + part[1].total + part[2].total, 25);
    assert_in_range(part[2].total, 1, 24);
    assert_int_equal(selection_new(&test, &survey, world, PART_TEST, &wider, &error), STATUS_OK);
    assert_memory_equal(test.count, part[2].count, SHARDS * sizeof *test.count);
    for (int64_t c = 0; c < 25; c++) {
        char id[32];
        small_id(c, id);
        double hash = id_hash(id);
        assert_int_equal(split_part(&split, id), hash < 0.2 ? PART_VALIDATION : hash >= 0.6 ? PART_TEST : PART_TRAINING);
    }
    for (int p = 0; p < 3; p++) selection_release(&part[p]);
    selection_release(&test);
    assert_int_equal(selection_new(&test, &survey, world, PART_TEST, &too_wide, &error), STATUS_USAGE);
    selection_release(&test);
    survey_close(&survey);
}

/* A MACHO star in both bands is on one side; other ids that end alike are stars of their own. */
static void bands_of_a_star_stay_together(void **state)
{
    (void)state;
    enum { STARS = 200, KINDS = 5 };
    static const char *const forms[KINDS] = {"%d.%d.%d", "%d.%d.%d.R", "%d.%d.%d.B", "star-%d.%d.%d.R", "%d.%d.%d.RB"};
    char id[STARS * KINDS][48], *pointer[STARS * KINDS];
    for (int i = 0; i < STARS * KINDS; i++) {
        snprintf(id[i], sizeof id[i], forms[i % KINDS], i / KINDS % 82, i / KINDS, i / KINDS * 7);
        pointer[i] = id[i];
    }
    struct shard shard = {.count = STARS * KINDS, .id = pointer};
    int64_t count = STARS * KINDS;
    struct survey survey = {.shards = 1, .ranks = comm_size(world), .rank = comm_rank(world), .count = &count, .shard = &shard};
    struct selection selection;
    struct error error = {0};
    assert_int_equal(selection_new(&selection, &survey, world, PART_VALIDATION, &(struct split){.validation = 0.4}, &error),
                     STATUS_OK);
    bool out[STARS * KINDS] = {false};
    int64_t places = survey_owns(&survey, 0) ? selection.count[0] : 0;
    for (int64_t i = 0; i < places; i++) out[selection.curve[0][i]] = true;
    for (int i = 0; i < STARS * KINDS && survey_owns(&survey, 0); i++) {
        const char *star = i % KINDS < 3 ? id[i / KINDS * KINDS] : id[i];
        assert_int_equal(out[i], id_hash(star) < 0.4);
    }
    selection_release(&selection);
}

static void hash_is_uniform(void **state)
{
    (void)state;
    int below[10] = {0};
    for (int i = 0; i < 100000; i++) {
        char id[32];
        snprintf(id, sizeof id, "%d.%d.%d", i % 82 + 1, i / 50, i % 977);
        double hash = id_hash(id);
        assert_true(hash >= 0 && hash < 1);
        below[(int)(hash * 10)]++;
    }
    for (int i = 0; i < 10; i++) assert_in_range(below[i], 10000 - 400, 10000 + 400); /* four standard deviations */
}

#define WITH_SURVEY(test) cmocka_unit_test_setup_teardown(test, make, unmake)

int main(int argc, char **argv)
{
    world = comm_begin(&argc, &argv);
    const struct CMUnitTest tests[] = {
        WITH_SURVEY(opens),
        WITH_SURVEY(other_files_do_not_matter),
        WITH_SURVEY(wrong_folders),
        WITH_SURVEY(missing_shard),
        WITH_SURVEY(two_layouts),
        WITH_SURVEY(impossible_number),
        WITH_SURVEY(foreign_shard),
        WITH_SURVEY(renamed_shard),
        WITH_SURVEY(damaged_shards),
        WITH_SURVEY(too_many_ranks),
        WITH_SURVEY(selection_splits_by_id),
        WITH_SURVEY(selection_of_given_curves),
        WITH_SURVEY(every_curve_has_a_shard),
        WITH_SURVEY(the_test_part_is_of_no_training),
        cmocka_unit_test(hash_is_the_documented_one),
        cmocka_unit_test(bands_of_a_star_stay_together),
        cmocka_unit_test(hash_is_uniform),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_end(world);
    return failed;
}
