/* SPDX-License-Identifier: MIT
 *
 * Golden files as they are made: HDF5. */
#include <hdf5.h>
#include <string.h>

#include "base/memory.h"
#include "commands/golden.h"

struct golden_file {
    hid_t file;
};

int golden_file_open(struct golden_file **file, const char *path, struct error *error)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* it would print a page for each name that is not there */
    hid_t opened = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (opened < 0) return error_set(error, STATUS_FAILED, "%s: is not there or not an HDF5 file", path);
    *file = memory_zeroed(1, sizeof **file, "a golden file");
    (*file)->file = opened;
    return STATUS_OK;
}

void golden_file_close(struct golden_file *file)
{
    if (file) H5Fclose(file->file);
    memory_free(file);
}

static bool exists(const struct golden_file *file, const char *name)
{
    char group[64] = "";
    const char *slash = strchr(name, '/');
    if (slash) strncat(group, name, (size_t)(slash - name) < sizeof group ? (size_t)(slash - name) : sizeof group - 1);
    if (slash && H5Lexists(file->file, group, H5P_DEFAULT) <= 0) return false;
    return H5Lexists(file->file, name, H5P_DEFAULT) > 0;
}

int64_t golden_file_count(const struct golden_file *file, const char *name)
{
    H5G_info_t members;
    if (!exists(file, name)) return -1;
    if (H5Gget_info_by_name(file->file, name, &members, H5P_DEFAULT) >= 0) return (int64_t)members.nlinks;
    hid_t set = H5Dopen2(file->file, name, H5P_DEFAULT);
    if (set < 0) return -1;
    hid_t space = H5Dget_space(set);
    int64_t count = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    H5Dclose(set);
    return count;
}

bool golden_file_values(const struct golden_file *file, const char *name, double *values)
{
    hid_t set = H5Dopen2(file->file, name, H5P_DEFAULT);
    if (set < 0) return false;
    herr_t got = H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(set);
    return got >= 0;
}

static hid_t attribute_of(const struct golden_file *file, const char *group, const char *name)
{
    return H5Aopen_by_name(file->file, group, name, H5P_DEFAULT, H5P_DEFAULT);
}

bool golden_file_number(const struct golden_file *file, const char *group, const char *name, double *value)
{
    hid_t attribute = attribute_of(file, group, name);
    if (attribute < 0) return false;
    hid_t type = H5Aget_type(attribute);
    bool whole = H5Tget_class(type) == H5T_ENUM || H5Tget_class(type) == H5T_INTEGER;
    int64_t integer = 0;
    herr_t got = whole ? H5Aread(attribute, H5T_NATIVE_INT64, &integer) : H5Aread(attribute, H5T_NATIVE_DOUBLE, value);
    if (whole) *value = (double)integer;
    H5Tclose(type);
    H5Aclose(attribute);
    return got >= 0;
}

/* Texts are of fixed or of variable length. */
bool golden_file_text(const struct golden_file *file, const char *group, const char *name, char *text, size_t bytes)
{
    hid_t attribute = attribute_of(file, group, name);
    if (attribute < 0) return false;
    hid_t type = H5Aget_type(attribute);
    char *variable = NULL;
    bool is_text = H5Tget_class(type) == H5T_STRING;
    memset(text, 0, bytes);
    if (is_text && H5Tis_variable_str(type) > 0 && H5Aread(attribute, type, &variable) >= 0 && variable) {
        strncpy(text, variable, bytes - 1);
        H5free_memory(variable);
    } else if (is_text && H5Tis_variable_str(type) == 0 && H5Tget_size(type) < bytes) {
        H5Aread(attribute, type, text);
    }
    H5Tclose(type);
    H5Aclose(attribute);
    return is_text;
}
