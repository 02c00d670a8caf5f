/* SPDX-License-Identifier: MIT
 *
 * Reading a checkpoint: rank 0 reads and verifies, all receive. Every tensor must be there, in the shape that the table gives. */
#include "checkpoint/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint/h5.h"

enum { SHAPE_TEXT = 80, FEW_PARAMETERS = 1 << 20 };

int checkpoint_config_text(hid_t file, const char *path, char **text, struct error *error)
{
    struct hdf5_dataset dataset;
    *text = NULL;
    if (H5Lexists(file, "config", H5P_DEFAULT) <= 0)
        return error_set(error, STATUS_FAILED, "%s: is not a checkpoint (the dataset config is missing)", path);
    if (!hdf5_dataset_open(&dataset, file, path, "config", error)) hdf5_read_text(&dataset, text, error);
    hdf5_dataset_close(&dataset);
    return error->status;
}

/* Progress ------------------------------------------------------------------------------------------------------ */

static int read_progress_field(hid_t group, const char *path, const struct progress_field *field, bool required,
                               struct progress_state *progress, struct error *error)
{
    void *place = (char *)progress + field->offset;
    bool found = false;
    if (group >= 0 &&
        hdf5_get_number(group, field->name, field->is_integer ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE, place, &found) < 0)
        return hdf5_failed(error, path, "progress attribute %s cannot be read as a number", field->name);
    if (!found && required && !field->optional)
        return error_set(error, STATUS_FAILED, "%s: progress attribute %s is missing, a run cannot go on from this file", path,
                         field->name);
    double value = field->is_integer ? (double)*(int64_t *)place : *(double *)place;
    if (!(value >= field->least))
        return error_set(error, STATUS_FAILED, "%s: progress attribute %s is %g, it is at least %g", path, field->name, value,
                         field->least);
    return STATUS_OK;
}

/* Where a run stands; a run that has not begun where the file does not say. */
int checkpoint_progress(hid_t file, const char *path, bool required, struct progress_state *progress, struct error *error)
{
    *progress = (struct progress_state){.best_rmse = INFINITY, .best_epoch = -1};
    htri_t exists = H5Lexists(file, "progress", H5P_DEFAULT);
    hid_t group = exists > 0 ? H5Gopen2(file, "progress", H5P_DEFAULT) : -1;
    if (exists < 0 || (exists > 0 && group < 0)) hdf5_failed(error, path, "progress cannot be read");
    for (int i = 0; i < progress_field_count && !error->status; i++)
        read_progress_field(group, path, &progress_fields[i], required, progress, error);
    if (group >= 0) H5Gclose(group);
    return error->status;
}

/* Tensors ------------------------------------------------------------------------------------------------------- */

static void shape_text(char text[SHAPE_TEXT], int dimensions, const hsize_t *shape)
{
    int used = snprintf(text, SHAPE_TEXT, "%s", dimensions ? "" : "one number");
    for (int i = 0; i < dimensions && used < SHAPE_TEXT; i++)
        used += snprintf(text + used, (size_t)(SHAPE_TEXT - used), "%s%llu", i ? " x " : "", (unsigned long long)shape[i]);
}

/* Shapes are compared without dimensions of one: 1 x 256, 256 x 1 and 256 are the same numbers. */
static int check_shape(const struct hdf5_dataset *dataset, const struct parameter *p, struct error *error)
{
    hsize_t found[H5S_MAX_RANK], wanted[2], table[2] = {(hsize_t)p->rows, (hsize_t)p->columns};
    int founds = 0, wanteds = 0;
    for (int i = 0; i < dataset->dimensions; i++)
        if (dataset->shape[i] != 1) found[founds++] = dataset->shape[i];
    for (int i = 0; i < 2; i++)
        if (table[i] != 1) wanted[wanteds++] = table[i];
    if (founds == wanteds && !memcmp(found, wanted, (size_t)founds * sizeof *found)) return STATUS_OK;
    char file_shape[SHAPE_TEXT], table_shape[SHAPE_TEXT];
    shape_text(file_shape, dataset->dimensions, dataset->shape);
    shape_text(table_shape, p->rank, p->rank == 1 ? &table[1] : table);
    return error_set(error, STATUS_FAILED, "%s: %s has the shape %s, the model needs %s", dataset->path, dataset->name,
                     file_shape, table_shape);
}

static int read_tensor(hid_t file, const char *path, int group, const struct parameter *p, float *dense, struct error *error)
{
    struct hdf5_dataset dataset = {.set = -1, .type = -1};
    char name[CHECKPOINT_TENSOR_BYTES];
    checkpoint_tensor_name(name, group, p);
    if (H5Lexists(file, name, H5P_DEFAULT) == 0)
        return error_set(error, STATUS_FAILED, "%s: %s is missing, the file does not fit the model that its config describes",
                         path, name);
    if (!hdf5_dataset_open(&dataset, file, path, name, error) && !check_shape(&dataset, p, error)) {
        if (H5Tget_class(dataset.type) != H5T_FLOAT)
            error_set(error, STATUS_FAILED, "%s: %s does not hold floating-point numbers", path, name);
        else
            hdf5_read_numbers(&dataset, dense, error);
    }
    hdf5_dataset_close(&dataset);
    return error->status;
}

struct stranger {
    const struct parameter_table *table;
    char name[CHECKPOINT_TENSOR_BYTES];
};

static herr_t find_stranger(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    struct stranger *stranger = data;
    (void)group, (void)info;
    if (parameter_find(stranger->table, name)) return 0;
    snprintf(stranger->name, sizeof stranger->name, "%s", name);
    return 1;
}

static int64_t largest_tensor(const struct parameter_table *table)
{
    int64_t most = 0;
    for (int i = 0; i < table->count; i++) {
        int64_t elements = (int64_t)table->parameter[i].rows * table->parameter[i].columns;
        if (elements > most) most = elements;
    }
    return most;
}

/* One group of tensors into a flat buffer (NULL: they are only checked). A tensor that the table has not is refused: the file is
 * of a larger model. */
static int read_group(hid_t file, const char *path, int group, const struct parameter_table *table, float *flat,
                      struct error *error)
{
    struct stranger stranger = {.table = table};
    if (group != PARAMETERS && H5Lexists(file, "adam", H5P_DEFAULT) <= 0)
        return error_set(error, STATUS_FAILED, "%s: holds weights only, not Adam's state; a run cannot go on from it", path);
    if (H5Lexists(file, checkpoint_group[group], H5P_DEFAULT) <= 0)
        return error_set(error, STATUS_FAILED, "%s: the group %s is missing", path, checkpoint_group[group]);
    if (H5Literate_by_name(file, checkpoint_group[group], H5_INDEX_NAME, H5_ITER_NATIVE, NULL, find_stranger, &stranger,
                           H5P_DEFAULT) < 0)
        return hdf5_failed(error, path, "%s cannot be read", checkpoint_group[group]);
    if (stranger.name[0])
        return error_set(error, STATUS_FAILED, "%s: %s/%s is no tensor of the model that its config describes", path,
                         checkpoint_group[group], stranger.name);
    float *dense = flat ? memory_new((size_t)largest_tensor(table), sizeof *dense, "a tensor of a checkpoint") : NULL;
    if (flat) memset(flat, 0, (size_t)table->total * sizeof *flat);
    for (int i = 0; i < table->count; i++) {
        if (read_tensor(file, path, group, &table->parameter[i], dense, error)) break;
        if (flat) parameter_scatter(&table->parameter[i], dense, flat);
    }
    memory_free(dense);
    return error->status;
}

/* Public -------------------------------------------------------------------------------------------------------- */

static int read_all(const char *path, struct checkpoint *checkpoint, struct error *error)
{
    float *flat[TENSOR_GROUPS] = {checkpoint->parameters, checkpoint->adam_m, checkpoint->adam_v};
    hid_t file = hdf5_open_checkpoint(path, error);
    if (file < 0) return error->status;
    for (int group = 0; group < TENSOR_GROUPS && !error->status; group++)
        if (flat[group]) read_group(file, path, group, checkpoint->table, flat[group], error);
    if (!error->status) checkpoint_progress(file, path, checkpoint->adam_m != NULL, &checkpoint->progress, error);
    H5Fclose(file);
    return error->status;
}

int checkpoint_read(const char *path, struct checkpoint *checkpoint, struct comm *comm, struct error *error)
{
    float *flat[TENSOR_GROUPS] = {checkpoint->parameters, checkpoint->adam_m, checkpoint->adam_v};
    hdf5_silence();
    if (comm_rank(comm) == 0) read_all(path, checkpoint, error);
    if (comm_agree(comm, error)) return error->status;
    comm_broadcast(comm, &checkpoint->progress, sizeof checkpoint->progress, 0);
    for (int group = 0; group < TENSOR_GROUPS; group++)
        if (flat[group]) comm_broadcast(comm, flat[group], (size_t)checkpoint->table->total * sizeof *flat[group], 0);
    return STATUS_OK;
}

static int parse_config(const char *path, const char *text, struct config *config, struct error *error)
{
    char name[CHECKPOINT_PATH_BYTES + 16];
    snprintf(name, sizeof name, "%s (config)", path);
    if (config_parse(config, text, name, error))
        error->status = STATUS_FAILED; /* nothing that the user could have typed better */
    return error->status;
}

struct count {
    const char *path;
    int64_t elements;
};

static herr_t count_elements(hid_t file, const char *name, const H5L_info_t *info, void *data)
{
    struct count *count = data;
    struct hdf5_dataset dataset;
    struct error ignored = {0};
    char whole[CHECKPOINT_TENSOR_BYTES];
    (void)info;
    snprintf(whole, sizeof whole, "%s", name);
    if (!hdf5_dataset_open(&dataset, file, count->path, whole, &ignored)) count->elements += dataset.elements;
    hdf5_dataset_close(&dataset);
    return 0;
}

/* Before anyone takes memory for the model: a config that describes one far larger than what the file holds is a mistake or a
 * trap. What is only incomplete is read, so that the tensor that is missing can be named. */
static int check_size(hid_t file, const char *path, const struct config *config, struct error *error)
{
    struct count count = {.path = path};
    hid_t group = H5Gopen2(file, checkpoint_group[PARAMETERS], H5P_DEFAULT);
    struct parameter_table *table = parameter_table_new(&config->model);
    if (group < 0 || H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, count_elements, &count) < 0)
        hdf5_failed(error, path, "%s cannot be read", checkpoint_group[PARAMETERS]);
    else if (table->trainable / 2 > count.elements + FEW_PARAMETERS)
        error_set(error, STATUS_FAILED, "%s: holds %lld parameters, the model that its config describes has %lld", path,
                  (long long)count.elements, (long long)table->trainable);
    parameter_table_free(table);
    if (group >= 0) H5Gclose(group);
    return error->status;
}

static int check_against_own_config(hid_t file, const char *path, int64_t step, struct error *error)
{
    struct config config;
    struct progress_state progress;
    char *text = NULL;
    if (!checkpoint_config_text(file, path, &text, error) && !parse_config(path, text, &config, error))
        check_size(file, path, &config, error);
    memory_free(text);
    if (error->status) return error->status;
    struct parameter_table *table = parameter_table_new(&config.model);
    for (int group = 0; group < TENSOR_GROUPS && !error->status; group++) read_group(file, path, group, table, NULL, error);
    parameter_table_free(table);
    if (error->status || checkpoint_progress(file, path, true, &progress, error)) return error->status;
    if (progress.step != step)
        error_set(error, STATUS_FAILED, "%s: is of step %lld by its content, not what its name says", path,
                  (long long)progress.step);
    return error->status;
}

int checkpoint_check_resumable(const char *path, int64_t step, struct error *error)
{
    hdf5_silence();
    hid_t file = hdf5_open_checkpoint(path, error);
    if (file < 0) return error->status;
    check_against_own_config(file, path, step, error);
    H5Fclose(file);
    H5Eclear2(H5E_DEFAULT);
    return error->status;
}

/* The config of an open file, and its text. */
static int read_config(hid_t file, const char *path, char **text, struct error *error)
{
    struct config config;
    if (checkpoint_config_text(file, path, text, error) || parse_config(path, *text, &config, error)) return error->status;
    return check_size(file, path, &config, error);
}

int checkpoint_read_config(const char *path, struct config *config, struct comm *comm, struct error *error)
{
    char *text = NULL;
    hdf5_silence();
    if (comm_rank(comm) == 0) {
        hid_t file = hdf5_open_checkpoint(path, error);
        if (file >= 0) {
            read_config(file, path, &text, error);
            H5Fclose(file);
        }
    }
    if (comm_agree(comm, error)) {
        memory_free(text);
        return error->status;
    }
    int64_t bytes = text ? (int64_t)strlen(text) + 1 : 0;
    comm_broadcast(comm, &bytes, sizeof bytes, 0);
    if (!text) text = memory_new((size_t)bytes, 1, "a config");
    comm_broadcast(comm, text, (size_t)bytes, 0);
    parse_config(path, text, config, error);
    memory_free(text);
    return comm_agree(comm, error);
}
