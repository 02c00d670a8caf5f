/* SPDX-License-Identifier: MIT
 * Shows that folds keep every star on one side, are nested, have the sizes that were asked for and depend on nothing but ids,
 * labels, options and seed; that the file gives back what was written and no damaged one passes; and what a window set holds. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hdf5.h>

#include "base/memory.h"
#include "survey/folds.h"
#include "survey/h5file.h"
#include "survey/window_set.h"

static char folder[] = "/tmp/test_folds.XXXXXX";
static char path[128], other_path[128];

/* The made survey: stars in MACHO's two bands in the first class, single ones in the others. */
enum { CLASSES = 5, BOTH_BANDS = 0, LARGE = 1, MIDDLE = 2, SMALL = 3, TINY = 4 };
static const int class_curves[CLASSES] = {600, 900, 200, 60, 9};
static const char *const class_names[CLASSES] = {"both bands", "large", "middle", "small", "tiny"};
enum { UNLABELLED = 50, CURVES = 600 + 900 + 200 + 60 + 9 + UNLABELLED };

static const int64_t samples[] = {20, 100, 300};
static const struct folds_options usual = {
    .folds = 3, .samples = samples, .sample_counts = 3, .test = 150, .validation = 30, .least = 50, .seed = 7};

static void curve_of(int64_t curve, char id[32], int32_t *label)
{
    int64_t in_class = curve;
    for (int c = 0; c < CLASSES; in_class -= class_curves[c++]) {
        if (in_class >= class_curves[c]) continue;
        *label = c;
        snprintf(id, 32, c ? "%d-%lld" : "1.%d.%lld%s", c ? c : 3441, (long long)(c ? in_class : in_class / 2),
                 c              ? ""
                 : in_class % 2 ? ".B"
                                : ".R");
        return;
    }
    *label = -1;
    snprintf(id, 32, "none-%lld", (long long)in_class);
}

/* The survey in so many shards, curve c in shard c * 7 mod shards; of its first `count` curves. */
static struct survey *survey_make(int shards, int64_t count)
{
    struct survey *survey = memory_zeroed(1, sizeof *survey, "a test");
    *survey = (struct survey){.path = memory_string("made"), .shards = shards, .ranks = 1};
    snprintf(survey->identity.survey_id, sizeof survey->identity.survey_id, "survey-in-%d", shards);
    snprintf(survey->identity.name, sizeof survey->identity.name, "made");
    survey->identity.class_count = CLASSES;
    survey->identity.classes = memory_new(CLASSES, sizeof(char *), "a test");
    for (int c = 0; c < CLASSES; c++) survey->identity.classes[c] = memory_string(class_names[c]);
    survey->count = memory_zeroed((size_t)shards, sizeof(int64_t), "a test");
    survey->first_curve = memory_zeroed((size_t)shards + 1, sizeof(int64_t), "a test");
    survey->shard = memory_zeroed((size_t)shards, sizeof *survey->shard, "a test");
    for (int s = 0; s < shards; s++) {
        struct shard *shard = &survey->shard[s];
        *shard = (struct shard){.path = memory_string("a shard"), .resident = true, .fd = -1};
        shard->id = memory_new((size_t)count, sizeof(char *), "a test");
        shard->id_text = memory_new((size_t)count, 32, "a test");
        shard->label = memory_new((size_t)count, sizeof(int32_t), "a test");
        for (int64_t c = 0; c < count; c++) {
            if (c * 7 % shards != s) continue;
            shard->id[shard->count] = shard->id_text + 32 * shard->count;
            curve_of(c, shard->id[shard->count], &shard->label[shard->count]);
            shard->count++;
        }
        survey->count[s] = shard->count;
        survey->first_curve[s + 1] = survey->first_curve[s] + shard->count;
    }
    return survey;
}

static void survey_free(struct survey *survey)
{
    survey_close(survey);
    memory_free(survey);
}

static void made(struct folds *folds, const struct survey *survey, const struct folds_options *options)
{
    struct error error = {0};
    if (folds_make(folds, survey, options, &error)) fail_msg("%s", error.message);
}

static void made_of(struct folds *folds, int shards, const struct folds_options *options)
{
    struct survey *survey = survey_make(shards, CURVES);
    made(folds, survey, options);
    survey_free(survey);
}

/* Rows of a class in a set. */
static int64_t of_class(const struct folds *folds, const struct fold_set *set, int class)
{
    int64_t count = 0;
    for (int64_t i = 0; i < set->count; i++) count += folds->label[set->row[i]] == class;
    return count;
}

/* The rows of a class of a set, in their order; returns how many. */
static int64_t rows_of_class(const struct folds *folds, const struct fold_set *set, int class, int64_t *row)
{
    int64_t count = 0;
    for (int64_t i = 0; i < set->count; i++)
        if (folds->label[set->row[i]] == class) row[count++] = set->row[i];
    return count;
}

static bool has_row(const struct fold_set *set, int64_t row)
{
    for (int64_t i = 0; i < set->count; i++)
        if (set->row[i] == row) return true;
    return false;
}

static bool repeats(const int64_t *row, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < i; j++)
            if (row[i] == row[j]) return true;
    return false;
}

/* The id without MACHO's band. */
static void star_name(const char *id, char name[32])
{
    snprintf(name, 32, "%s", id);
    if (strncmp(id, "1.3441.", 7) == 0) name[strlen(name) - 2] = 0;
}

static bool shares_star(const struct folds *folds, const struct fold_set *a, const struct fold_set *b)
{
    char one[32], other[32];
    for (int64_t i = 0; i < a->count; i++) {
        star_name(folds->id[a->row[i]], one);
        for (int64_t j = 0; j < b->count; j++) {
            star_name(folds->id[b->row[j]], other);
            if (!strcmp(one, other)) return true;
        }
    }
    return false;
}

static void table_is_of_the_survey(void **state)
{
    (void)state;
    struct folds folds;
    struct error error = {0};
    struct survey *survey = survey_make(5, CURVES);
    made(&folds, survey, &usual);
    assert_int_equal(folds.class_count, 4);
    for (int c = 0; c < 4; c++) assert_string_equal(folds.classes[c], class_names[c]);
    assert_int_equal(folds.left_out_count, 1);
    assert_string_equal(folds.left_out[0], "tiny (9)");
    assert_string_equal(folds.survey_id, "survey-in-5");
    assert_int_equal(folds.ambiguous_stars, 0);
    for (int64_t row = 0; row < folds.stars; row++) {
        int64_t place;
        int s = survey_shard_of(survey, folds.curve[row], &place);
        assert_string_equal(folds.id[row], survey->shard[s].id[place]);
        assert_int_equal(folds.label[row], survey->shard[s].label[place]);
    }
    assert_int_equal(folds_check_survey(&folds, "x", survey, &error), STATUS_OK);
    assert_int_equal(folds_find_samples(&folds, "x", 100, &error), 1);
    assert_int_equal(folds_find_samples(&folds, "x.h5", 50, &error), -1);
    assert_string_equal(error.message, "x.h5: has no training sets of 50 samples a class, but of 20, 100, 300");
    folds_release(&folds);
    folds_release(&folds);
    survey_free(survey);
}

/* 600 in two bands: 300 stars are fewer than 150 + 30 + 300, so 90 are for tests; of 200, 60; of 60, 18. */
static void sets_have_their_sizes(void **state)
{
    (void)state;
    struct folds folds;
    made_of(&folds, 5, &usual);
    static const int64_t test[] = {150, 150, 60, 18}, validation[] = {30, 30, 20, 6}, pool[] = {360, 720, 120, 36};
    for (int k = 0; k < 3; k++)
        for (int c = 0; c < 4; c++) {
            const struct fold *fold = &folds.fold[k];
            const struct fold_division *division = &folds.division[4 * k + c];
            assert_int_equal(division->test, test[c]);
            assert_int_equal(division->validation, validation[c]);
            assert_int_equal(division->pool, pool[c]);
            assert_int_equal(division->unused, c == BOTH_BANDS ? 600 - 150 - 30 - 360 : 0);
            assert_int_equal(of_class(&folds, &fold->test, c), test[c]);
            assert_int_equal(of_class(&folds, &fold->validation, c), validation[c]);
            for (int n = 0; n < 3; n++) assert_int_equal(of_class(&folds, &fold->training[n], c), samples[n]);
        }
    folds_release(&folds);
}

static void stars_are_on_one_side(void **state)
{
    (void)state;
    struct folds folds;
    made_of(&folds, 5, &usual);
    for (int k = 0; k < 3; k++) {
        const struct fold *fold = &folds.fold[k];
        assert_false(shares_star(&folds, &fold->test, &fold->validation));
        for (int n = 0; n < 3; n++) {
            assert_false(shares_star(&folds, &fold->test, &fold->training[n]));
            assert_false(shares_star(&folds, &fold->validation, &fold->training[n]));
        }
    }
    folds_release(&folds);
}

/* And repeat rows only where the pool is too small. */
static void training_sets_are_nested(void **state)
{
    (void)state;
    struct folds folds;
    int64_t small[300], large[300];
    made_of(&folds, 5, &usual);
    for (int k = 0; k < 3; k++)
        for (int c = 0; c < 4; c++) {
            int64_t pool = folds.division[4 * k + c].pool;
            const struct fold *fold = &folds.fold[k];
            for (int n = 0; n < 3; n++) {
                rows_of_class(&folds, &fold->training[n], c, large);
                assert_int_equal(repeats(large, samples[n]), samples[n] > pool);
            }
            for (int n = 0; n < 2; n++) {
                int64_t count = rows_of_class(&folds, &fold->training[n], c, small);
                rows_of_class(&folds, &fold->training[n + 1], c, large);
                if ((samples[n] > pool) == (samples[n + 1] > pool))
                    assert_memory_equal(small, large, (size_t)count * sizeof *small);
            }
            int64_t count = rows_of_class(&folds, &fold->test, c, large);
            assert_false(repeats(large, count));
        }
    folds_release(&folds);
}

/* The first training sets have each star once, the larger ones both bands of some; so do the bands themselves. */
static void second_bands_come_last(void **state)
{
    (void)state;
    struct folds folds;
    int64_t row[300];
    char one[32], other[32];
    made_of(&folds, 5, &usual);
    for (int n = 0; n < 3; n++) {
        int pairs = 0, red = 0;
        int64_t count = rows_of_class(&folds, &folds.fold[0].training[n], BOTH_BANDS, row);
        for (int64_t i = 0; i < count; i++) {
            star_name(folds.id[row[i]], one);
            red += folds.id[row[i]][strlen(folds.id[row[i]]) - 1] == 'R';
            for (int64_t j = 0; j < i; j++) {
                star_name(folds.id[row[j]], other);
                pairs += !strcmp(one, other);
            }
        }
        assert_int_equal(pairs, count > 180 ? count - 180 : 0); /* 300 stars less 90 and 30 */
        assert_in_range(red, count / 4, count * 3 / 4);
    }
    folds_release(&folds);
}

/* Every star is equally likely in a test set, and folds and seeds differ. */
static void draws_are_random(void **state)
{
    (void)state;
    struct folds folds, again;
    struct folds_options options = usual, other = usual;
    options.folds = 100;
    made_of(&folds, 3, &options);
    int64_t *times = memory_zeroed((size_t)folds.stars, sizeof *times, "a test");
    for (int k = 0; k < 100; k++)
        for (int64_t i = 0; i < folds.fold[k].test.count; i++) times[folds.fold[k].test.row[i]]++;
    for (int64_t row = 0; row < folds.stars; row++) /* 3 of 10 times, give or take five standard deviations */
        if (folds.label[row] == MIDDLE) assert_in_range(times[row], 30 - 23, 30 + 23);
    for (int k = 1; k < 100; k++) assert_memory_not_equal(folds.fold[k].test.row, folds.fold[0].test.row, 150 * sizeof(int64_t));
    memory_free(times);
    folds_release(&folds);

    other.seed = 8;
    made_of(&folds, 3, &usual);
    made_of(&again, 3, &other);
    int same = 0;
    for (int64_t i = 0; i < folds.fold[0].test.count; i++)
        for (int64_t j = 0; j < again.fold[0].test.count; j++)
            same += !strcmp(folds.id[folds.fold[0].test.row[i]], again.id[again.fold[0].test.row[j]]);
    assert_in_range(same, 1, folds.fold[0].test.count / 2);
    folds_release(&folds);
    folds_release(&again);
}

static void assert_same_set(const struct fold_set *a, const struct fold_set *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->row, b->row, (size_t)a->count * sizeof *a->row);
}

/* But for survey id and the indices of light curves. */
static void assert_same(const struct folds *a, const struct folds *b)
{
    assert_int_equal(a->class_count, b->class_count);
    for (int c = 0; c < a->class_count; c++) assert_string_equal(a->classes[c], b->classes[c]);
    assert_int_equal(a->left_out_count, b->left_out_count);
    for (int c = 0; c < a->left_out_count; c++) assert_string_equal(a->left_out[c], b->left_out[c]);
    assert_int_equal(a->stars, b->stars);
    assert_memory_equal(a->label, b->label, (size_t)a->stars * sizeof *a->label);
    for (int64_t row = 0; row < a->stars; row++) assert_string_equal(a->id[row], b->id[row]);
    assert_int_equal(a->fold_count, b->fold_count);
    assert_int_equal(a->sample_counts, b->sample_counts);
    assert_int_equal(a->seed, b->seed);
    for (int k = 0; k < a->fold_count; k++) {
        assert_same_set(&a->fold[k].test, &b->fold[k].test);
        assert_same_set(&a->fold[k].validation, &b->fold[k].validation);
        for (int n = 0; n < a->sample_counts; n++) assert_same_set(&a->fold[k].training[n], &b->fold[k].training[n]);
    }
}

static void shards_do_not_matter(void **state)
{
    (void)state;
    struct folds folds, other;
    made_of(&folds, 1, &usual);
    for (int shards = 1; shards <= 16; shards *= 4) {
        made_of(&other, shards, &usual);
        assert_same(&folds, &other);
        folds_release(&other);
    }
    folds_release(&folds);
}

/* A smaller survey is another one, but a star that both have stands in the same order among the others. */
static void other_stars_do_not_matter(void **state)
{
    (void)state;
    struct folds folds, other;
    struct folds_options options = usual;
    options.test = 100;
    options.folds = 1;
    struct survey *survey = survey_make(1, 600 + 450);
    made_of(&folds, 1, &options);
    made(&other, survey, &options);
    int64_t row[300], of_smaller = 0, next = 0, count = rows_of_class(&folds, &folds.fold[0].test, LARGE, row), first[300];
    int64_t smaller = rows_of_class(&other, &other.fold[0].test, LARGE, first);
    for (int64_t i = 0; i < count; i++) {
        if (atoi(folds.id[row[i]] + 2) >= 450) continue;
        of_smaller++;
        while (next < smaller && strcmp(other.id[first[next]], folds.id[row[i]])) next++;
        assert_true(next < smaller); /* in the same order */
    }
    assert_in_range(of_smaller, 20, 80);
    folds_release(&folds);
    folds_release(&other);
    survey_free(survey);
}

static void test_part_of_a_split(void **state)
{
    (void)state;
    struct folds folds;
    struct folds_options options = usual;
    const struct split split = {.validation = 0.1, .test = 0.25}, none = {.validation = 0.1};
    struct error error = {0};
    options.split = &split;
    options.test = 40;
    int64_t small = 0;
    for (int64_t star = 0; star < class_curves[SMALL]; star++) {
        char id[32];
        snprintf(id, sizeof id, "3-%lld", (long long)star);
        small += split_part(&split, id) == PART_TEST;
    }
    made_of(&folds, 4, &options);
    for (int k = 0; k < 3; k++) {
        const struct fold *fold = &folds.fold[k];
        for (int64_t row = 0; row < folds.stars; row++) {
            bool for_tests = split_part(&split, folds.id[row]) == PART_TEST;
            if (has_row(&fold->test, row)) assert_true(for_tests);
            if (has_row(&fold->validation, row) || has_row(&fold->training[2], row)) assert_false(for_tests);
        }
        assert_int_equal(of_class(&folds, &fold->test, LARGE), 40);
        assert_int_equal(of_class(&folds, &fold->test, SMALL), small < 40 ? small : 40);
        assert_int_equal(of_class(&folds, &fold->test, MIDDLE), 40);
        assert_int_equal(of_class(&folds, &fold->training[2], SMALL), 300);
    }
    folds_release(&folds);
    options.split = &none;
    struct survey *survey = survey_make(2, CURVES);
    assert_int_equal(folds_make(&folds, survey, &options, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "made: none of its 5 classes"));
    survey_free(survey);
}

/* A star that is of one class in red and of another in blue is of none; one without a label in blue is there in red. */
static void labels_of_bands(void **state)
{
    (void)state;
    struct folds folds;
    struct survey *survey = survey_make(1, CURVES);
    survey->shard[0].label[1] = LARGE;
    survey->shard[0].label[3] = -1;
    struct folds_options options = usual;
    options.folds = 20;
    made(&folds, survey, &options);
    assert_int_equal(folds.ambiguous_stars, 1);
    bool red_is_there = false;
    for (int64_t row = 0; row < folds.stars; row++) {
        assert_null(strstr(folds.id[row], "1.3441.0."));
        assert_string_not_equal(folds.id[row], "1.3441.1.B");
        red_is_there = red_is_there || !strcmp(folds.id[row], "1.3441.1.R");
    }
    assert_true(red_is_there);
    folds_release(&folds);
    survey_free(survey);
}

/* Three stars are one for each purpose; the smallest that can be. */
static void smallest_classes(void **state)
{
    (void)state;
    struct folds folds;
    struct folds_options options = usual;
    options.least = 1;
    for (int64_t stars = 2; stars <= 9; stars++) {
        struct survey *survey = survey_make(1, 600 + 900 + 200 + 60 + stars);
        made(&folds, survey, &options);
        assert_int_equal(folds.class_count, stars < 3 ? 4 : 5);
        for (int k = 0; k < 3 && stars >= 3; k++) {
            assert_int_equal(of_class(&folds, &folds.fold[k].test, TINY), (stars * 3 + 9) / 10);
            assert_int_equal(of_class(&folds, &folds.fold[k].validation, TINY), 1);
            assert_int_equal(of_class(&folds, &folds.fold[k].training[2], TINY), 300);
        }
        folds_release(&folds);
        survey_free(survey);
    }
}

static void refuses(const struct survey *survey, const struct folds_options *options, int status, const char *words)
{
    struct folds folds;
    struct error error = {0};
    assert_int_equal(folds_make(&folds, survey, options, &error), status);
    if (!strstr(error.message, words)) fail_msg("'%s' is not in: %s", words, error.message);
}

static void what_cannot_be_drawn(void **state)
{
    (void)state;
    static const int64_t descending[] = {100, 20}, none[] = {0, 20};
    struct survey *survey = survey_make(2, CURVES);
    struct folds_options options = usual;
    options.least = 700;
    refuses(survey, &options, STATUS_FAILED, "made: only one of its 5 classes");
    options = usual;
    options.sample_counts = 2;
    options.samples = descending;
    refuses(survey, &options, STATUS_USAGE, "ascend");
    options.samples = none;
    refuses(survey, &options, STATUS_USAGE, "at least one");
    options = usual;
    options.folds = 0;
    refuses(survey, &options, STATUS_USAGE, "0 folds");
    for (int s = 0; s < 2; s++) {
        memory_free(survey->shard[s].label);
        survey->shard[s].label = NULL;
    }
    refuses(survey, &usual, STATUS_FAILED, "no labels");
    survey_free(survey);
}

/* The file -------------------------------------------------------------------------------------------------------- */

static void read_whole(const char *name, char **bytes, size_t *count)
{
    struct stat status;
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &status) == 0);
    *count = (size_t)status.st_size;
    *bytes = memory_new(*count, 1, "a test");
    assert_int_equal(read(fd, *bytes, *count), *count);
    close(fd);
}

static void write_whole(const char *name, const char *bytes, size_t count)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, count), count);
    close(fd);
}

static void file_gives_back_what_was_written(void **state)
{
    (void)state;
    struct folds folds, read;
    struct error error = {0};
    struct survey *survey = survey_make(5, CURVES);
    made(&folds, survey, &usual);
    assert_int_equal(folds_write(&folds, path, &error), STATUS_OK);
    if (folds_read(&read, path, &error)) fail_msg("%s", error.message);
    assert_same(&folds, &read);
    assert_memory_equal(folds.curve, read.curve, (size_t)folds.stars * sizeof *folds.curve);
    assert_string_equal(read.survey_id, "survey-in-5");
    assert_string_equal(read.survey_name, "made");
    assert_memory_equal(read.samples, samples, sizeof samples);
    assert_null(read.division);
    assert_int_equal(folds_check_survey(&read, path, survey, &error), STATUS_OK);
    assert_int_equal(folds_write(&read, other_path, &error), STATUS_OK);

    char *bytes, *again;
    size_t count, count_again;
    read_whole(path, &bytes, &count);
    read_whole(other_path, &again, &count_again);
    assert_int_equal(count, count_again);
    assert_memory_equal(bytes, again, count);
    memory_free(bytes);
    memory_free(again);

    struct survey *other = survey_make(4, CURVES);
    assert_int_equal(folds_check_survey(&read, path, other, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "another survey"));
    survey_free(other);
    error = (struct error){0};
    other = survey_make(5, 700);
    assert_int_equal(folds_check_survey(&read, path, other, &error), STATUS_FAILED);
    survey_free(other);
    survey_free(survey);
    folds_release(&folds);
    folds_release(&read);
}

static void no_damaged_file_passes(void **state)
{
    (void)state;
    struct folds folds, read;
    struct error error = {0};
    struct folds_options options = usual;
    options.folds = options.sample_counts = 1;
    made_of(&folds, 2, &options);
    assert_int_equal(folds_write(&folds, path, &error), STATUS_OK);
    char *bytes;
    size_t count;
    read_whole(path, &bytes, &count);
    int passed = 0;
    for (size_t at = 0; at < count; at += count / 1500 + 1) {
        struct error own = {0};
        bytes[at] ^= 0x10;
        write_whole(other_path, bytes, count);
        bytes[at] ^= 0x10;
        if (folds_read(&read, other_path, &own)) continue;
        assert_same(&folds, &read); /* a byte that nobody reads */
        assert_memory_equal(folds.curve, read.curve, (size_t)folds.stars * sizeof *folds.curve);
        folds_release(&read);
        passed++;
    }
    for (size_t part = 0; part < count; part += count / 60 + 1) {
        struct error own = {0};
        write_whole(other_path, bytes, part);
        assert_int_equal(folds_read(&read, other_path, &own), STATUS_FAILED);
        assert_non_null(strstr(own.message, other_path));
    }
    assert_in_range(passed, 0, 300);
    memory_free(bytes);
    folds_release(&folds);
}

/* Writes the folds after a change, and wants the reader to refuse them with these words. */
static void refused(const struct folds *folds, const char *words)
{
    struct folds read;
    struct error error = {0};
    assert_int_equal(folds_write(folds, path, &error), STATUS_OK);
    assert_int_equal(folds_read(&read, path, &error), STATUS_FAILED);
    if (!strstr(error.message, words)) fail_msg("'%s' is not in: %s", words, error.message);
    if (!strstr(error.message, path)) fail_msg("no path in: %s", error.message);
}

#define WRONG(place, value, words)      \
    do {                                \
        __typeof__(place) kept = place; \
        place = value;                  \
        refused(&folds, words);         \
        place = kept;                   \
    } while (0)

/* Files with right checksums and wrong content. */
static void wrong_content_is_refused(void **state)
{
    (void)state;
    struct folds folds, read;
    struct error error = {0};
    made_of(&folds, 2, &usual);
    struct fold *fold = &folds.fold[1];
    WRONG(folds.curve[4], -3, "has the index -3");
    WRONG(folds.curve[4], folds.curve[5], "twice");
    WRONG(folds.label[4], 4, "label 4");
    WRONG(folds.label[4], -1, "label -1");
    WRONG(fold->test.row[2], folds.stars, "row");
    WRONG(fold->test.row[2], -1, "row -1");
    WRONG(fold->test.row[2], fold->test.row[1], "is in fold1/test twice");
    WRONG(fold->test.row[2], fold->training[0].row[1], "another set of the fold");
    WRONG(fold->validation.row[2], fold->training[2].row[250], "another set of the fold");
    WRONG(fold->training[1].row[0], fold->validation.row[0], "another set of the fold");
    WRONG(fold->training[1].row[0], fold->training[1].row[150], "light curves of class");
    WRONG(fold->training[1].count, 399, "light curves of class small");
    WRONG(fold->test.count, 150, "0 light curves of class large");
    WRONG(folds.samples[1], 15, "do not ascend");
    WRONG(folds.samples[0], 0, "do not ascend");
    WRONG(folds.samples[2], 301, "300 light curves of class");
    WRONG(folds.class_count, 3, "label 3");
    assert_int_equal(folds_write(&folds, path, &error), STATUS_OK);
    if (folds_read(&read, path, &error)) fail_msg("%s", error.message);
    folds_release(&read);

    /* the other band of a star of the test set, as if it were learned from */
    int64_t row = fold->test.row[0], twin = -1;
    for (int64_t other = 0; other < folds.stars; other++) {
        char one[32], two[32];
        star_name(folds.id[row], one);
        star_name(folds.id[other], two);
        if (other != row && !strcmp(one, two)) twin = other;
    }
    assert_true(twin >= 0);
    WRONG(fold->training[0].row[0], twin, "another set of the fold");
    folds_release(&folds);
}

/* Attributes and datasets that lack or are something else. */
static void wrong_files_are_refused(void **state)
{
    (void)state;
    static const char *const attributes[] = {"format_version", "kind",  "survey_id", "survey",
                                             "seed",           "folds", "samples",   "classes"};
    static const char *const datasets[] = {
        "curve", "id", "label", "fold0", "fold2/test", "fold0/validation", "fold1/training-100"};
    struct folds folds, read;
    for (int i = 0; i < 8 + 7 + 3; i++) {
        struct error error = {0};
        made_of(&folds, 1, &usual);
        assert_int_equal(folds_write(&folds, path, &error), STATUS_OK);
        folds_release(&folds);
        hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
        if (i < 8) H5Adelete(file, attributes[i]);
        if (i >= 8 && i < 15) H5Ldelete(file, datasets[i - 8], H5P_DEFAULT);
        if (i >= 15) H5Adelete(file, i == 15 ? "format_version" : i == 16 ? "folds" : "samples");
        if (i == 15) h5_integer_put(file, "format_version", H5T_STD_I32LE, 2);
        if (i == 16) h5_integer_put(file, "folds", H5T_STD_I32LE, 4);
        if (i == 17) h5_text_put(file, "samples", "20");
        H5Fclose(file);
        assert_int_equal(folds_read(&read, path, &error), STATUS_FAILED);
        assert_non_null(strstr(error.message, path));
        const char *named = i < 8 ? (i == 1 ? "holds no folds" : attributes[i]) : i < 15 ? datasets[i - 8] : "";
        if (!strstr(error.message, named)) fail_msg("'%s' is not in: %s", named, error.message);
    }
}

static void full_disk_leaves_nothing(void **state)
{
    (void)state;
    struct folds folds;
    struct error error = {0};
    made_of(&folds, 1, &usual);
    assert_int_equal(folds_write(&folds, "/nowhere/folds.h5", &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "/nowhere/folds.h5.partial: cannot be made"));
    folds_release(&folds);
}

/* Window sets ------------------------------------------------------------------------------------------------------ */

enum { SHARDS = 3 };

/* Light curves of 1 + 37 curve mod 50 observations whose values tell curve and place. */
static struct survey *survey_with_observations(void)
{
    struct survey *survey = survey_make(SHARDS, 40);
    for (int s = 0; s < SHARDS; s++) {
        struct shard *shard = &survey->shard[s];
        shard->offset = memory_zeroed((size_t)shard->count + 1, sizeof *shard->offset, "a test");
        for (int64_t c = 0; c < shard->count; c++)
            shard->offset[c + 1] = shard->offset[c] + 1 + (uint64_t)(survey->first_curve[s] + c) * 37 % 50;
        size_t observations = shard->offset[shard->count];
        shard->time = memory_new(observations, sizeof(double), "a test");
        shard->magnitude = memory_new(observations, sizeof(float), "a test");
        shard->error = memory_new(observations, sizeof(float), "a test");
        for (int64_t c = 0; c < shard->count; c++)
            for (uint64_t i = shard->offset[c]; i < shard->offset[c + 1]; i++) {
                shard->time[i] = 50000 + (double)(i - shard->offset[c]);
                shard->magnitude[i] = (float)(survey->first_curve[s] + c) + (float)(i - shard->offset[c]) / 64;
                shard->error[i] = 0.1f;
            }
    }
    return survey;
}

static void window_set_has_all_windows(void **state)
{
    (void)state;
    enum { STEPS = 12 };
    static const int64_t list[] = {30, 7, 7, 0, 39, 12};
    struct survey *survey = survey_with_observations();
    struct window_set set;
    struct error error = {0};
    if (window_set_read(&set, survey, list, 6, STEPS, &error)) fail_msg("%s", error.message);
    int w = 0;
    for (int64_t star = 0; star < 6; star++) {
        int64_t length = 1 + list[star] * 37 % 50;
        for (int64_t start = 0; start < length; start += STEPS, w++) {
            int64_t n = length - start < STEPS ? length - start : STEPS;
            assert_int_equal(set.star[w], star);
            assert_int_equal(set.windows.curve[w], list[star]);
            assert_int_equal(set.windows.start[w], start);
            assert_int_equal(set.windows.length[w], n);
            for (int64_t i = 0; i < STEPS; i++) {
                const float *magnitude = set.windows.magnitude + w * STEPS;
                const double *time = set.windows.time + w * STEPS;
                assert_true(magnitude[i] == (i < n ? (float)list[star] + (float)(start + i) / 64 : 0));
                assert_true(time[i] == (i < n ? (double)i - (double)(n - 1) / 2 : 0));
            }
        }
    }
    assert_int_equal(set.windows.count, w);
    window_set_release(&set);
    window_set_release(&set);
    assert_int_equal(window_set_read(&set, survey, NULL, 0, STEPS, &error), STATUS_OK);
    assert_int_equal(set.windows.count, 0);
    window_set_release(&set);
    for (int64_t wrong = -1; wrong <= 40; wrong += 41) {
        error = (struct error){0};
        assert_int_equal(window_set_read(&set, survey, &wrong, 1, STEPS, &error), STATUS_FAILED);
        assert_non_null(strstr(error.message, "has 40 light curves"));
        assert_null(set.star);
    }
    survey_free(survey);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_of_the_survey),
        cmocka_unit_test(sets_have_their_sizes),
        cmocka_unit_test(stars_are_on_one_side),
        cmocka_unit_test(training_sets_are_nested),
        cmocka_unit_test(second_bands_come_last),
        cmocka_unit_test(draws_are_random),
        cmocka_unit_test(shards_do_not_matter),
        cmocka_unit_test(other_stars_do_not_matter),
        cmocka_unit_test(test_part_of_a_split),
        cmocka_unit_test(labels_of_bands),
        cmocka_unit_test(smallest_classes),
        cmocka_unit_test(what_cannot_be_drawn),
        cmocka_unit_test(file_gives_back_what_was_written),
        cmocka_unit_test(no_damaged_file_passes),
        cmocka_unit_test(wrong_content_is_refused),
        cmocka_unit_test(wrong_files_are_refused),
        cmocka_unit_test(full_disk_leaves_nothing),
        cmocka_unit_test(window_set_has_all_windows),
    };
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (!mkdtemp(folder)) return 1;
    snprintf(path, sizeof path, "%s/folds.h5", folder);
    snprintf(other_path, sizeof other_path, "%s/other.h5", folder);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    unlink(other_path);
    rmdir(folder);
    return failed;
}
