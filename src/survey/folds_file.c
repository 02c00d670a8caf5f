/* SPDX-License-Identifier: MIT
 *
 * Folds as a file. What is read is checked until nothing in it can lead anyone astray: rows of the table, each star on one side
 * of every fold, as many samples of each class as the set's name says. */
#include "survey/folds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "survey/h5file.h"

enum { PATH_BYTES = 4096, NAME_BYTES = 64 };

static const char kind[] = "folds";

/* Writing -------------------------------------------------------------------------------------------------------- */

static herr_t put_attributes(hid_t file, const struct folds *folds)
{
    if (h5_integer_put(file, "format_version", H5T_STD_I32LE, FOLDS_FORMAT_VERSION) < 0) return -1;
    if (h5_text_put(file, "kind", kind) < 0) return -1;
    if (h5_text_put(file, "survey_id", folds->survey_id) < 0) return -1;
    if (h5_text_put(file, "survey", folds->survey_name) < 0) return -1;
    if (h5_integer_put(file, "seed", H5T_STD_I64LE, folds->seed) < 0) return -1;
    if (h5_integer_put(file, "folds", H5T_STD_I32LE, folds->fold_count) < 0) return -1;
    if (h5_integers_put(file, "samples", folds->sample_counts, folds->samples) < 0) return -1;
    if (h5_texts_put(file, "classes", folds->class_count, folds->classes) < 0) return -1;
    return folds->left_out_count ? h5_texts_put(file, "left_out", folds->left_out_count, folds->left_out) : 0;
}

static herr_t put_table(hid_t file, const struct folds *folds)
{
    if (h5_dataset_put(file, "curve", H5T_STD_I64LE, folds->stars, folds->curve) < 0) return -1;
    if (h5_strings_put(file, "id", folds->stars, folds->id) < 0) return -1;
    return h5_dataset_put(file, "label", H5T_STD_I32LE, folds->stars, folds->label);
}

/* "fold0/training-20", or "fold0/test" where samples is 0. */
static void set_name(char name[NAME_BYTES], int fold, const char *word, int64_t samples)
{
    if (samples)
        snprintf(name, NAME_BYTES, "fold%d/%s-%lld", fold, word, (long long)samples);
    else
        snprintf(name, NAME_BYTES, "fold%d/%s", fold, word);
}

static herr_t put_set(hid_t file, int fold, const char *word, int64_t samples, const struct fold_set *set)
{
    char name[NAME_BYTES];
    set_name(name, fold, word, samples);
    return h5_dataset_put(file, name, H5T_STD_I64LE, set->count, set->row);
}

static herr_t put_fold(hid_t file, const struct folds *folds, int k)
{
    char name[NAME_BYTES];
    const struct fold *fold = &folds->fold[k];
    hid_t properties = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(properties, false); /* the same content must give the same file */
    snprintf(name, sizeof name, "fold%d", k);
    hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    if (group < 0 || H5Gclose(group) < 0) return -1;
    if (put_set(file, k, "test", 0, &fold->test) < 0) return -1;
    if (put_set(file, k, "validation", 0, &fold->validation) < 0) return -1;
    for (int n = 0; n < folds->sample_counts; n++)
        if (put_set(file, k, "training", folds->samples[n], &fold->training[n]) < 0) return -1;
    return 0;
}

static herr_t put_all(hid_t file, const struct folds *folds)
{
    if (put_attributes(file, folds) < 0 || put_table(file, folds) < 0) return -1;
    for (int k = 0; k < folds->fold_count; k++)
        if (put_fold(file, folds, k) < 0) return -1;
    return 0;
}

int folds_write(const struct folds *folds, const char *path, struct error *error)
{
    char temporary[PATH_BYTES];
    struct h5_quiet quiet;
    if (snprintf(temporary, sizeof temporary, "%s.partial", path) >= (int)sizeof temporary)
        return error_set(error, STATUS_FAILED, "%s: the path is too long", path);
    h5_quiet_begin(&quiet);
    hid_t file = h5_file_create(temporary);
    if (file < 0) {
        h5_failed(error, temporary, "cannot be made");
    } else {
        if (put_all(file, folds) < 0) h5_failed(error, temporary, "cannot be written");
        if (H5Fclose(file) < 0) h5_failed(error, temporary, "cannot be written");
    }
    h5_quiet_end(&quiet);
    return h5_file_take_name(temporary, path, error);
}

/* Reading -------------------------------------------------------------------------------------------------------- */

/* A file being read. */
struct reading {
    const char *path;
    hid_t file;
    int64_t bytes;
};

static int read_kind(const struct reading *in, struct error *error)
{
    char *text;
    int64_t version = 0;
    if (h5_text_get(in->file, in->path, "kind", true, &text, error)) return error->status;
    if (!text || strcmp(text, kind))
        error_set(error, STATUS_FAILED, "%s: holds no folds; make some with astromer folds", in->path);
    memory_free(text);
    if (error->status || h5_integer_get(in->file, in->path, "format_version", &version, error)) return error->status;
    if (version != FOLDS_FORMAT_VERSION)
        error_set(error, STATUS_FAILED, "%s: has format version %lld of folds, this program reads version %d", in->path,
                  (long long)version, FOLDS_FORMAT_VERSION);
    return error->status;
}

static int read_attributes(struct folds *folds, const struct reading *in, struct error *error)
{
    int64_t count = 0;
    if (read_kind(in, error)) return error->status;
    if (h5_text_get(in->file, in->path, "survey_id", false, &folds->survey_id, error)) return error->status;
    if (h5_text_get(in->file, in->path, "survey", false, &folds->survey_name, error)) return error->status;
    if (h5_integer_get(in->file, in->path, "seed", &folds->seed, error)) return error->status;
    if (h5_integer_get(in->file, in->path, "folds", &count, error)) return error->status;
    if (count < 1 || count > FOLDS_MOST)
        return error_set(error, STATUS_FAILED, "%s: says it has %lld folds", in->path, (long long)count);
    folds->fold_count = (int)count;
    if (h5_integers_get(in->file, in->path, "samples", FOLDS_SAMPLES_MOST, &folds->sample_counts, &folds->samples, error))
        return error->status;
    for (int n = 0; n < folds->sample_counts; n++)
        if (folds->samples[n] < 1 || folds->samples[n] > FOLDS_SAMPLE_MOST || (n && folds->samples[n] <= folds->samples[n - 1]))
            return error_set(error, STATUS_FAILED, "%s: its samples a class do not ascend from 1 to at most %d", in->path,
                             FOLDS_SAMPLE_MOST);
    if (h5_texts_get(in->file, in->path, "classes", &folds->class_count, &folds->classes, error)) return error->status;
    if (folds->class_count < 1) return error_set(error, STATUS_FAILED, "%s: attribute classes is missing", in->path);
    return h5_texts_get(in->file, in->path, "left_out", &folds->left_out_count, &folds->left_out, error);
}

/* All integers of a dataset that has `count` elements, or any number when count is negative. */
static int read_integers(const struct reading *in, const char *name, hid_t native, int64_t *count, void **values,
                         struct error *error)
{
    struct h5_dataset dataset;
    *values = NULL;
    if (!h5_dataset_open(&dataset, in->file, in->path, name, H5T_INTEGER, in->bytes, error)) {
        if (*count >= 0 && dataset.count != *count)
            error_set(error, STATUS_FAILED, "%s: dataset %s has %lld elements, curve has %lld", in->path, name,
                      (long long)dataset.count, (long long)*count);
        else if (!h5_numbers_read(&dataset, native, values, error))
            *count = dataset.count;
    }
    h5_dataset_close(&dataset);
    return error->status;
}

static int read_ids(struct folds *folds, const struct reading *in, struct error *error)
{
    struct h5_dataset dataset;
    if (!h5_dataset_open(&dataset, in->file, in->path, "id", H5T_STRING, in->bytes, error)) {
        if (dataset.count != folds->stars)
            error_set(error, STATUS_FAILED, "%s: dataset id has %lld elements, curve has %lld", in->path,
                      (long long)dataset.count, (long long)folds->stars);
        else
            h5_strings_read(&dataset, &folds->id, &folds->id_text, error);
    }
    h5_dataset_close(&dataset);
    return error->status;
}

static int compare_integers(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return a < b ? -1 : a > b;
}

/* Indices and labels that can be, each light curve once. */
static int check_table(const struct folds *folds, const struct reading *in, struct error *error)
{
    for (int64_t row = 0; row < folds->stars; row++) {
        if (folds->label[row] < 0 || folds->label[row] >= folds->class_count)
            return error_set(error, STATUS_FAILED, "%s: light curve %s has label %d, but there are %d classes", in->path,
                             folds->id[row], folds->label[row], folds->class_count);
        if (folds->curve[row] < 0)
            return error_set(error, STATUS_FAILED, "%s: light curve %s has the index %lld", in->path, folds->id[row],
                             (long long)folds->curve[row]);
    }
    int64_t *sorted = memory_new((size_t)folds->stars, sizeof *sorted, "folds");
    memcpy(sorted, folds->curve, (size_t)folds->stars * sizeof *sorted);
    qsort(sorted, (size_t)folds->stars, sizeof *sorted, compare_integers);
    for (int64_t row = 1; row < folds->stars && !error->status; row++)
        if (sorted[row] == sorted[row - 1])
            error_set(error, STATUS_FAILED, "%s: has the light curve of index %lld twice", in->path, (long long)sorted[row]);
    memory_free(sorted);
    return error->status;
}

static int read_table(struct folds *folds, const struct reading *in, struct error *error)
{
    void *values;
    int64_t count = -1;
    if (read_integers(in, "curve", H5T_NATIVE_INT64, &count, &values, error)) return error->status;
    folds->curve = values;
    folds->stars = count;
    if (read_integers(in, "label", H5T_NATIVE_INT32, &count, &values, error)) return error->status;
    folds->label = values;
    if (read_ids(folds, in, error)) return error->status;
    return check_table(folds, in, error);
}

/* Rows within the table. */
static int read_set(struct fold_set *set, const struct folds *folds, const struct reading *in, const char *name,
                    struct error *error)
{
    void *values;
    int64_t count = -1;
    if (read_integers(in, name, H5T_NATIVE_INT64, &count, &values, error)) return error->status;
    *set = (struct fold_set){count, values};
    for (int64_t i = 0; i < count; i++)
        if (set->row[i] < 0 || set->row[i] >= folds->stars)
            return error_set(error, STATUS_FAILED, "%s: dataset %s asks for row %lld of a table of %lld", in->path, name,
                             (long long)set->row[i], (long long)folds->stars);
    return STATUS_OK;
}

/* What is needed to check a fold. */
struct check {
    int64_t *star;  /* of each row: the number of its star */
    char *side;     /* of each star, in the present fold: of no side (0), or 't', 'v' or 'l' for learning */
    char *seen;     /* of each row: in the present set */
    int64_t *count; /* of each class: rows of the present set */
};

static int compare_star_names(const void *one, const void *other)
{
    const char *a = *(const char *const *)one, *b = *(const char *const *)other;
    size_t a_bytes = star_bytes(a), b_bytes = star_bytes(b);
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : a_bytes < b_bytes ? -1 : a_bytes > b_bytes;
}

/* Numbers the stars that the rows belong to. */
static void number_stars(const struct folds *folds, int64_t *star)
{
    const char **sorted = memory_new((size_t)folds->stars, sizeof *sorted, "folds");
    for (int64_t row = 0; row < folds->stars; row++) sorted[row] = folds->id[row];
    qsort(sorted, (size_t)folds->stars, sizeof *sorted, compare_star_names);
    for (int64_t row = 0; row < folds->stars; row++) {
        int64_t low = 0, high = folds->stars - 1; /* the first place that is not before the row's star */
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            if (compare_star_names(&sorted[middle], &folds->id[row]) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        star[row] = low;
    }
    memory_free(sorted);
}

/* The stars of the set are on this side and no other; rows repeat only in training sets. */
static int check_side(const struct folds *folds, const struct fold_set *set, char side, struct check *check, const char *path,
                      const char *name, struct error *error)
{
    memset(check->seen, 0, (size_t)folds->stars);
    memset(check->count, 0, (size_t)folds->class_count * sizeof *check->count);
    for (int64_t i = 0; i < set->count; i++) {
        int64_t row = set->row[i], star = check->star[row];
        if (check->side[star] && check->side[star] != side)
            return error_set(error, STATUS_FAILED, "%s: star %s is in %s and in another set of the fold", path, folds->id[row],
                             name);
        if (check->seen[row] && side != 'l')
            return error_set(error, STATUS_FAILED, "%s: light curve %s is in %s twice", path, folds->id[row], name);
        check->side[star] = side;
        check->seen[row] = 1;
        check->count[folds->label[row]]++;
    }
    return STATUS_OK;
}

/* So many rows of each class, or at least one where samples is 0. */
static int check_counts(const struct folds *folds, const struct check *check, int64_t samples, const char *path, const char *name,
                        struct error *error)
{
    for (int c = 0; c < folds->class_count; c++)
        if (check->count[c] == 0 || (samples && check->count[c] != samples))
            error_set(error, STATUS_FAILED, "%s: dataset %s has %lld light curves of class %s", path, name,
                      (long long)check->count[c], folds->classes[c]);
    return error->status;
}

static int read_checked(struct fold_set *set, const struct folds *folds, const struct reading *in, struct check *check, int k,
                        const char *word, int64_t samples, struct error *error)
{
    char name[NAME_BYTES];
    set_name(name, k, word, samples);
    if (read_set(set, folds, in, name, error)) return error->status;
    char side = word[0] == 't' && samples ? 'l' : word[0];
    if (check_side(folds, set, side, check, in->path, name, error)) return error->status;
    return check_counts(folds, check, samples, in->path, name, error);
}

static int read_fold(struct folds *folds, const struct reading *in, struct check *check, int k, struct error *error)
{
    struct fold *fold = &folds->fold[k];
    fold->training = memory_zeroed((size_t)folds->sample_counts, sizeof *fold->training, "folds");
    memset(check->side, 0, (size_t)folds->stars);
    if (read_checked(&fold->test, folds, in, check, k, "test", 0, error)) return error->status;
    if (read_checked(&fold->validation, folds, in, check, k, "validation", 0, error)) return error->status;
    for (int n = 0; n < folds->sample_counts; n++)
        if (read_checked(&fold->training[n], folds, in, check, k, "training", folds->samples[n], error)) return error->status;
    return STATUS_OK;
}

static int read_all(struct folds *folds, const struct reading *in, struct error *error)
{
    if (read_attributes(folds, in, error) || read_table(folds, in, error)) return error->status;
    size_t stars = (size_t)folds->stars;
    struct check check = {
        .star = memory_new(stars, sizeof *check.star, "folds"),
        .side = memory_new(stars, 1, "folds"),
        .seen = memory_new(stars, 1, "folds"),
        .count = memory_new((size_t)folds->class_count, sizeof *check.count, "folds"),
    };
    number_stars(folds, check.star);
    folds->fold = memory_zeroed((size_t)folds->fold_count, sizeof *folds->fold, "folds");
    for (int k = 0; k < folds->fold_count && !error->status; k++) read_fold(folds, in, &check, k, error);
    memory_free(check.star);
    memory_free(check.side);
    memory_free(check.seen);
    memory_free(check.count);
    return error->status;
}

int folds_read(struct folds *folds, const char *path, struct error *error)
{
    int fd;
    struct h5_quiet quiet;
    struct reading in = {.path = path};
    *folds = (struct folds){0};
    h5_quiet_begin(&quiet);
    if (!h5_file_open(path, &fd, &in.file, &in.bytes, error)) read_all(folds, &in, error);
    h5_file_close(fd, in.file);
    h5_quiet_end(&quiet);
    if (error->status) folds_release(folds);
    return error->status;
}
