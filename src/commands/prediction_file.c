/* SPDX-License-Identifier: MIT */
#include "commands/prediction_file.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "survey/h5file.h"

enum { FORMAT_VERSION = 1 };

static const char *encoder_word(const struct prediction_origin *origin)
{
    return !head_uses_encoder(origin->head) ? "none" : origin->encoder_trained ? "trained" : "frozen";
}

/* A contiguous dataset of one dimension (columns 0) or two. */
static herr_t put(hid_t file, const char *name, hid_t type, int64_t rows, int64_t columns, const void *values)
{
    const hsize_t shape[2] = {(hsize_t)rows, (hsize_t)columns};
    hid_t space = H5Screate_simple(columns ? 2 : 1, shape, NULL), properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(properties, false);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    herr_t status = set < 0 || H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0 ? -1 : 0;
    if (set >= 0 && H5Dclose(set) < 0) status = -1;
    H5Pclose(properties);
    H5Sclose(space);
    return status;
}

static herr_t put_number(hid_t file, const char *name, double value)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5Acreate2(file, name, H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = attribute < 0 || H5Awrite(attribute, H5T_NATIVE_DOUBLE, &value) < 0 ? -1 : 0;
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

static herr_t put_attributes(hid_t file, const struct classification *r, const struct prediction_origin *origin)
{
    const struct folds *folds = origin->folds;
    herr_t status = h5_integer_put(file, "format_version", H5T_STD_I32LE, FORMAT_VERSION);
    const struct {
        const char *name, *text;
    } texts[] = {{"kind", "predictions"},
                 {"head", head_names[origin->head]},
                 {"encoder", encoder_word(origin)},
                 {"checkpoint", origin->checkpoint ? origin->checkpoint : ""},
                 {"survey", folds->survey_name}};
    const struct {
        const char *name;
        int64_t value;
    } integers[] = {{"fold", origin->fold},
                    {"samples", folds->samples[origin->samples]},
                    {"epochs", r->epochs},
                    {"best_epoch", r->best_epoch}};
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"macro_f1", r->macro_f1},
                   {"accuracy", r->accuracy},
                   {"star_macro_f1", r->star_macro_f1},
                   {"star_accuracy", r->star_accuracy},
                   {"seconds", r->seconds}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts && status >= 0; i++)
        status = h5_text_put(file, texts[i].name, texts[i].text);
    for (size_t i = 0; i < sizeof integers / sizeof *integers && status >= 0; i++)
        status = h5_integer_put(file, integers[i].name, H5T_STD_I64LE, integers[i].value);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status >= 0; i++)
        status = put_number(file, numbers[i].name, numbers[i].value);
    return status < 0 ? status : h5_texts_put(file, "classes", folds->class_count, folds->classes);
}

/* The ids of the test stars. */
static herr_t put_ids(hid_t file, const struct classification *r, const struct folds *folds)
{
    char **id = memory_new((size_t)r->stars, sizeof *id, "the test stars");
    for (int64_t s = 0; s < r->stars; s++) id[s] = folds->id[r->row[s]];
    herr_t status = h5_strings_put(file, "star/id", r->stars, id);
    memory_free(id);
    return status;
}

static herr_t put_sets(hid_t file, const struct classification *r, const struct prediction_origin *origin)
{
    const struct {
        const char *name;
        hid_t type;
        int64_t rows, columns;
        const void *values;
    } sets[] = {{"window/probability", H5T_NATIVE_FLOAT, r->windows, r->classes, r->probability},
                {"window/label", H5T_NATIVE_INT32, r->windows, 0, r->label},
                {"window/prediction", H5T_NATIVE_INT32, r->windows, 0, r->prediction},
                {"window/star", H5T_NATIVE_INT64, r->windows, 0, r->star},
                {"star/probability", H5T_NATIVE_FLOAT, r->stars, r->classes, r->star_probability},
                {"star/label", H5T_NATIVE_INT32, r->stars, 0, r->star_label},
                {"star/prediction", H5T_NATIVE_INT32, r->stars, 0, r->star_prediction},
                {"confusion", H5T_NATIVE_INT64, r->classes, r->classes, r->confusion},
                {"star_confusion", H5T_NATIVE_INT64, r->classes, r->classes, r->star_confusion},
                {"history/training_loss", H5T_NATIVE_DOUBLE, r->epochs, 0, r->training_loss},
                {"history/validation_loss", H5T_NATIVE_DOUBLE, r->epochs, 0, r->validation_loss},
                {"history/validation_accuracy", H5T_NATIVE_DOUBLE, r->epochs, 0, r->validation_accuracy},
                {"gamma", H5T_NATIVE_FLOAT, r->gamma_count, 0, r->gamma}};
    static const char *const groups[] = {"window", "star", "history"};
    herr_t status = 0;
    for (size_t i = 0; i < sizeof groups / sizeof *groups && status >= 0; i++) {
        hid_t group = H5Gcreate2(file, groups[i], H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        status = group < 0 ? -1 : H5Gclose(group);
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets && status >= 0; i++)
        if (sets[i].values) status = put(file, sets[i].name, sets[i].type, sets[i].rows, sets[i].columns, sets[i].values);
    return status < 0 ? status : put_ids(file, r, origin->folds);
}

int prediction_file_write(const char *path, const struct classification *r, const struct prediction_origin *origin,
                          struct error *error)
{
    char temporary[4096];
    struct h5_quiet quiet;
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.partial", path) >= sizeof temporary)
        return error_set(error, STATUS_USAGE, "%s: the path is too long", path);
    h5_quiet_begin(&quiet);
    hid_t file = h5_file_create(temporary);
    herr_t status = file < 0 ? -1 : put_attributes(file, r, origin);
    if (status >= 0) status = put_sets(file, r, origin);
    if (file >= 0 && H5Fclose(file) < 0) status = -1;
    if (status < 0) h5_failed(error, temporary, "cannot be written");
    h5_file_take_name(temporary, path, error);
    h5_quiet_end(&quiet);
    return error->status;
}

struct prediction_summary prediction_summary_of(const struct classification *r)
{
    return (struct prediction_summary){.macro_f1 = r->macro_f1,
                                       .accuracy = r->accuracy,
                                       .star_macro_f1 = r->star_macro_f1,
                                       .star_accuracy = r->star_accuracy,
                                       .seconds = r->seconds,
                                       .epochs = r->epochs,
                                       .best_epoch = r->best_epoch,
                                       .windows = r->windows,
                                       .stars = r->stars};
}

void prediction_json(struct json *json, const struct prediction_summary *s, const struct prediction_origin *origin)
{
    json_text(json, "survey", origin->folds->survey_name);
    json_integer(json, "samples", origin->folds->samples[origin->samples]);
    json_integer(json, "fold", origin->fold);
    json_text(json, "head", head_names[origin->head]);
    json_text(json, "encoder", encoder_word(origin));
    json_number(json, "macro_f1", s->macro_f1);
    json_number(json, "accuracy", s->accuracy);
    json_number(json, "star_macro_f1", s->star_macro_f1);
    json_number(json, "star_accuracy", s->star_accuracy);
    json_integer(json, "epochs", s->epochs);
    json_integer(json, "best_epoch", s->best_epoch);
    json_number(json, "seconds", s->seconds);
    json_integer(json, "windows_test", s->windows);
    json_integer(json, "stars_test", s->stars);
}

/* Reading back ---------------------------------------------------------------------------------------------------------- */

static int get_number(hid_t file, const char *path, const char *name, double *value, struct error *error)
{
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT), space = attribute < 0 ? -1 : H5Aget_space(attribute);
    bool one = space >= 0 && H5Sget_simple_extent_npoints(space) == 1;
    if (!one || H5Aread(attribute, H5T_NATIVE_DOUBLE, value) < 0) h5_failed(error, path, "has no attribute %s", name);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return error->status;
}

static int expect_text(hid_t file, const char *path, const char *name, const char *expected, struct error *error)
{
    char *text = NULL;
    if (!h5_text_get(file, path, name, false, &text, error) && strcmp(text, expected))
        error_set(error, STATUS_FAILED, "%s: its %s is %s, not %s", path, name, text, expected);
    memory_free(text);
    return error->status;
}

static int expect_integer(hid_t file, const char *path, const char *name, int64_t expected, struct error *error)
{
    int64_t value;
    if (!h5_integer_get(file, path, name, &value, error) && value != expected)
        error_set(error, STATUS_FAILED, "%s: its %s is %lld, not %lld", path, name, (long long)value, (long long)expected);
    return error->status;
}

static int set_count(hid_t file, const char *path, const char *name, int64_t file_bytes, int64_t *count, struct error *error)
{
    struct h5_dataset set = {0};
    if (!h5_dataset_open(&set, file, path, name, H5T_INTEGER, file_bytes, error)) *count = set.count;
    h5_dataset_close(&set);
    return error->status;
}

static int read_summary(hid_t file, const char *path, int64_t bytes, const struct prediction_origin *origin,
                        struct prediction_summary *s, struct error *error)
{
    if (expect_text(file, path, "kind", "predictions", error) ||
        expect_text(file, path, "head", head_names[origin->head], error) ||
        expect_text(file, path, "encoder", encoder_word(origin), error) ||
        expect_text(file, path, "survey", origin->folds->survey_name, error) ||
        expect_integer(file, path, "fold", origin->fold, error) ||
        expect_integer(file, path, "samples", origin->folds->samples[origin->samples], error) ||
        h5_integer_get(file, path, "epochs", &s->epochs, error) ||
        h5_integer_get(file, path, "best_epoch", &s->best_epoch, error))
        return error->status;
    const struct {
        const char *name;
        double *value;
    } numbers[] = {{"macro_f1", &s->macro_f1},
                   {"accuracy", &s->accuracy},
                   {"star_macro_f1", &s->star_macro_f1},
                   {"star_accuracy", &s->star_accuracy},
                   {"seconds", &s->seconds}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (get_number(file, path, numbers[i].name, numbers[i].value, error)) return error->status;
    if (set_count(file, path, "window/label", bytes, &s->windows, error)) return error->status;
    return set_count(file, path, "star/label", bytes, &s->stars, error);
}

int prediction_file_summary(const char *path, const struct prediction_origin *origin, struct prediction_summary *summary,
                            struct error *error)
{
    int fd = -1;
    hid_t file = H5I_INVALID_HID;
    int64_t bytes;
    struct h5_quiet quiet;
    h5_quiet_begin(&quiet);
    *summary = (struct prediction_summary){0};
    if (!h5_file_open(path, &fd, &file, &bytes, error)) read_summary(file, path, bytes, origin, summary, error);
    h5_file_close(fd, file);
    h5_quiet_end(&quiet);
    return error->status;
}

static int describe(hid_t file, const char *path, struct error *error)
{
    char *head = NULL, *encoder = NULL, *survey = NULL;
    int64_t fold, samples;
    double f1, star_f1;
    if (!h5_text_get(file, path, "head", false, &head, error) && !h5_text_get(file, path, "encoder", false, &encoder, error) &&
        !h5_text_get(file, path, "survey", false, &survey, error) && !h5_integer_get(file, path, "fold", &fold, error) &&
        !h5_integer_get(file, path, "samples", &samples, error) && !get_number(file, path, "macro_f1", &f1, error) &&
        !get_number(file, path, "star_macro_f1", &star_f1, error)) {
        printf("predictions %s\n", path);
        printf("  %-14s%s, encoder: %s\n", "head", head, encoder);
        printf("  %-14s%s, fold %lld, %lld samples a class\n", "test stars of", survey, (long long)fold, (long long)samples);
        printf("  %-14s%.4f over windows, %.4f over stars\n", "macro F1", f1, star_f1);
    }
    memory_free(head);
    memory_free(encoder);
    memory_free(survey);
    return error->status;
}

int prediction_file_describe(const char *path, struct error *error)
{
    int fd = -1;
    hid_t file = H5I_INVALID_HID;
    int64_t bytes;
    struct h5_quiet quiet;
    h5_quiet_begin(&quiet);
    if (!h5_file_open(path, &fd, &file, &bytes, error)) describe(file, path, error);
    h5_file_close(fd, file);
    h5_quiet_end(&quiet);
    return error->status;
}
