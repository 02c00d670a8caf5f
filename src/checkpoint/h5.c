/* SPDX-License-Identifier: MIT
 *
 * Names of the checkpoint format, HDF5's errors, and datasets read with their checksums. */
#include "checkpoint/h5.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <zlib.h>

#include "base/memory.h"
#include "checkpoint/checkpoint.h"

/* Deflate packs at most about 1032 to 1: a dataset lies when it is larger than this factor times its bytes on the disk. */
enum { LARGEST_COMPRESSION = 1100 };

const char *const checkpoint_group[TENSOR_GROUPS] = {"parameters", "adam/m", "adam/v"};

#define FIELD(field, integer, least, optional)                                   \
    {                                                                            \
#field, offsetof(struct progress_state, field), integer, least, optional \
    }
#define INTEGER(field, least) FIELD(field, true, least, false)
#define NUMBER(field) FIELD(field, false, 0, false)
const struct progress_field progress_fields[] = {
    INTEGER(step, 0),
    INTEGER(skipped, 0),
    INTEGER(epoch, 0),
    INTEGER(position, 0),
    INTEGER(windows_seen, 0),
    NUMBER(seconds),
    NUMBER(best_rmse),
    INTEGER(best_epoch, -1),
    INTEGER(patience_used, 0),
    NUMBER(epoch_error_sum),
    NUMBER(epoch_plain_error_sum),
    INTEGER(epoch_windows, 0),
    INTEGER(epoch_steps, 0),
    NUMBER(epoch_seconds),
    FIELD(survey_content, true, -0x1p63, true),
    FIELD(fold_content, true, -0x1p63, true),
    FIELD(start_content, true, -0x1p63, true),
    FIELD(validation_seconds, false, 0, true),
    FIELD(validation_content, true, -0x1p63, true),
};
const int progress_field_count = sizeof progress_fields / sizeof *progress_fields;

void checkpoint_tensor_name(char name[CHECKPOINT_TENSOR_BYTES], int group, const struct parameter *parameter)
{
    snprintf(name, CHECKPOINT_TENSOR_BYTES, "%s/%s", checkpoint_group[group], parameter->name);
}

void hdf5_silence(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* Walking upward starts with the innermost call: its description says most. */
static herr_t innermost(unsigned depth, const H5E_error2_t *entry, void *data)
{
    if (depth == 0 && entry->desc) snprintf(data, 512, "%s", entry->desc);
    return 0;
}

int hdf5_failed(struct error *error, const char *path, const char *format, ...)
{
    char what[256], reason[512] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, reason);
    H5Eclear2(H5E_DEFAULT);
    if (reason[0]) return error_set(error, STATUS_FAILED, "%s: %s (HDF5: %s)", path, what, reason);
    return error_set(error, STATUS_FAILED, "%s: %s", path, what);
}

hid_t hdf5_access(bool writer)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (writer) H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    H5Pset_file_locking(access, false, true);
    return access;
}

/* Single values ------------------------------------------------------------------------------------------------- */

/* One number. Absent: *found is false and *value stays. Returns negative when there is something that cannot be read as one. */
herr_t hdf5_get_number(hid_t object, const char *name, hid_t memory_type, void *value, bool *found)
{
    htri_t exists = H5Aexists(object, name);
    *found = exists > 0;
    if (exists <= 0) return exists;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = attribute < 0 ? -1 : H5Aget_type(attribute), space = attribute < 0 ? -1 : H5Aget_space(attribute);
    H5T_class_t class = type < 0 ? H5T_NO_CLASS : H5Tget_class(type);
    bool is_number = class == H5T_INTEGER || class == H5T_FLOAT;
    herr_t status = is_number && H5Sget_simple_extent_npoints(space) == 1 ? H5Aread(attribute, memory_type, value) : -1;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}

static int check_version(hid_t file, const char *path, struct error *error)
{
    int64_t version = 0;
    bool found;
    if (hdf5_get_number(file, "format_version", H5T_NATIVE_INT64, &version, &found) < 0)
        return hdf5_failed(error, path, "format_version cannot be read");
    if (!found || H5Lexists(file, "parameters", H5P_DEFAULT) <= 0)
        return error_set(error, STATUS_FAILED, "%s: is not a checkpoint (%s is missing)", path,
                         found ? "the group parameters" : "the attribute format_version");
    if (version != CHECKPOINT_FORMAT_VERSION)
        return error_set(error, STATUS_FAILED, "%s: has checkpoint format version %lld, this program reads version %d", path,
                         (long long)version, CHECKPOINT_FORMAT_VERSION);
    return STATUS_OK;
}

/* An open checkpoint, or a negative number and an error. */
hid_t hdf5_open_checkpoint(const char *path, struct error *error)
{
    struct stat status;
    hid_t file = H5I_INVALID_HID;
    if (stat(path, &status)) {
        error_set(error, STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        error_set(error, STATUS_FAILED, "%s: is not a file", path);
    } else {
        hid_t properties = hdf5_access(false);
        htri_t is_hdf5 = H5Fis_hdf5(path);
        file = H5Fopen(path, H5F_ACC_RDONLY, properties);
        if (file < 0 && is_hdf5 == 0)
            error_set(error, STATUS_FAILED, "%s: is not an HDF5 file, or its beginning is damaged", path);
        else if (file < 0)
            hdf5_failed(error, path, "cannot be opened, or is damaged or cut short");
        H5Pclose(properties);
    }
    if (file >= 0 && check_version(file, path, error)) {
        H5Fclose(file);
        file = H5I_INVALID_HID;
    }
    return file;
}

/* Datasets ------------------------------------------------------------------------------------------------------ */

void hdf5_dataset_close(struct hdf5_dataset *dataset)
{
    if (dataset->type >= 0) H5Tclose(dataset->type);
    if (dataset->set >= 0) H5Dclose(dataset->set);
}

/* The most bytes that a dataset can have, going by what it takes up of the file; 0 when its data lie in another file, which a
 * stranger's must not make us read. */
static uint64_t most_bytes(hid_t set)
{
    hsize_t file_bytes = 0, stored = H5Dget_storage_size(set);
    hid_t properties = H5Dget_create_plist(set);
    H5D_layout_t layout = properties < 0 ? H5D_LAYOUT_ERROR : H5Pget_layout(properties);
    bool elsewhere = layout < 0 || layout == H5D_VIRTUAL || H5Pget_external_count(properties) != 0;
    if (properties >= 0) H5Pclose(properties);
    hid_t file = H5Iget_file_id(set);
    herr_t status = file < 0 ? -1 : H5Fget_filesize(file, &file_bytes);
    if (file >= 0) H5Fclose(file);
    if (elsewhere || status < 0) return 0;
    if (stored > file_bytes) stored = file_bytes;
    return layout == H5D_CHUNKED ? stored * LARGEST_COMPRESSION : stored;
}

int hdf5_dataset_open(struct hdf5_dataset *dataset, hid_t file, const char *path, const char *name, struct error *error)
{
    *dataset = (struct hdf5_dataset){.path = path, .name = name, .set = H5Dopen2(file, name, H5P_DEFAULT), .type = -1};
    if (dataset->set < 0) return hdf5_failed(error, path, "%s cannot be read", name);
    hid_t space = H5Dget_space(dataset->set);
    dataset->type = H5Dget_type(dataset->set);
    dataset->dimensions = space < 0 ? -1 : H5Sget_simple_extent_dims(space, dataset->shape, NULL);
    dataset->elements = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    dataset->element_bytes = dataset->type < 0 ? 0 : H5Tget_size(dataset->type);
    if (space >= 0) H5Sclose(space);
    if (dataset->dimensions < 0 || dataset->elements < 0 || dataset->element_bytes == 0)
        return hdf5_failed(error, path, "%s cannot be read", name);
    bool variable = H5Tis_variable_str(dataset->type) > 0; /* its bytes are counted by element here, and lie elsewhere */
    if (!variable && (uint64_t)dataset->elements > most_bytes(dataset->set) / dataset->element_bytes)
        return error_set(error, STATUS_FAILED, "%s: %s is larger than what the file holds of it; the file is damaged", path,
                         name);
    int64_t crc = 0;
    if (hdf5_get_number(dataset->set, "crc32", H5T_NATIVE_INT64, &crc, &dataset->has_crc) < 0)
        return hdf5_failed(error, path, "the checksum of %s cannot be read", name);
    dataset->crc = (uint32_t)crc;
    return STATUS_OK;
}

static int check_crc(const struct hdf5_dataset *dataset, const void *bytes, size_t count, struct error *error)
{
    if (!dataset->has_crc || (uint32_t)crc32_z(0, bytes, count) == dataset->crc) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: %s is damaged, its checksum is wrong", dataset->path, dataset->name);
}

/* The one string of a dataset, checked; owned by the caller. */
int hdf5_read_text(const struct hdf5_dataset *dataset, char **text, struct error *error)
{
    *text = NULL;
    if (H5Tget_class(dataset->type) != H5T_STRING || dataset->elements != 1)
        return error_set(error, STATUS_FAILED, "%s: %s is not one string", dataset->path, dataset->name);
    bool variable = H5Tis_variable_str(dataset->type) > 0;
    char *variable_text = NULL, *fixed_text = variable ? NULL : memory_zeroed(dataset->element_bytes + 1, 1, "text");
    void *target = variable ? (void *)&variable_text : fixed_text;
    if (H5Dread(dataset->set, dataset->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, target) < 0) {
        hdf5_failed(error, dataset->path, "%s cannot be read", dataset->name);
    } else if (variable) {
        const char *found = variable_text ? variable_text : "";
        check_crc(dataset, found, strlen(found), error);
        *text = memory_string(found);
        H5free_memory(variable_text);
    } else {
        check_crc(dataset, fixed_text, dataset->element_bytes, error);
        *text = memory_string(fixed_text);
    }
    memory_free(fixed_text);
    if (error->status) {
        memory_free(*text);
        *text = NULL;
    }
    return error->status;
}

/* The numbers of a dataset as stored and checked, then as f32 when `values` is wanted (room for `elements`). */
int hdf5_read_numbers(const struct hdf5_dataset *dataset, float *values, struct error *error)
{
    size_t bytes = (size_t)dataset->elements * dataset->element_bytes;
    void *stored = memory_new((size_t)dataset->elements, dataset->element_bytes, "a tensor of a checkpoint");
    if (H5Dread(dataset->set, dataset->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, stored) < 0) {
        hdf5_failed(error, dataset->path, "%s cannot be read", dataset->name);
    } else if (!check_crc(dataset, stored, bytes, error) && values) {
        if (H5Tequal(dataset->type, H5T_NATIVE_FLOAT) > 0)
            memcpy(values, stored, bytes);
        else if (H5Dread(dataset->set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
            hdf5_failed(error, dataset->path, "%s cannot be read as f32", dataset->name);
    }
    memory_free(stored);
    return error->status;
}
