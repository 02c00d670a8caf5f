/* SPDX-License-Identifier: MIT
 *
 * Golden files as they are made: HDF5. */
#include <hdf5.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "commands/golden.h"

struct golden_file {
    hid_t file;
};

int golden_file_open(struct golden_file **file, const char *path, struct error *error)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* it would print a page for each name that is not there */
    struct stat status;
    if (stat(path, &status) || !S_ISREG(status.st_mode))
        return error_set(error, STATUS_FAILED, "%s: is not there or no file", path);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true); /* locks fail on many cluster file systems */
    hid_t opened = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
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

/* Deflate packs at most about 1032 to 1: a dataset of more bytes than this factor times those it takes up in the file is a lie.
 * So is one whose data lie in another file. */
static bool is_held(const struct golden_file *file, hid_t set, int64_t count)
{
    enum { LARGEST_COMPRESSION = 1100 };
    hsize_t file_bytes = 0, stored = H5Dget_storage_size(set);
    hid_t properties = H5Dget_create_plist(set), type = H5Dget_type(set);
    H5D_layout_t layout = H5Pget_layout(properties);
    bool elsewhere = layout == H5D_VIRTUAL || H5Pget_external_count(properties) != 0;
    size_t bytes = H5Tget_size(type);
    H5Fget_filesize(file->file, &file_bytes);
    if (stored > file_bytes) stored = file_bytes;
    if (layout == H5D_CHUNKED) stored *= LARGEST_COMPRESSION;
    H5Tclose(type);
    H5Pclose(properties);
    return !elsewhere && bytes > 0 && count >= 0 && (hsize_t)count <= stored / bytes;
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
    bool held = is_held(file, set, count);
    H5Sclose(space);
    H5Dclose(set);
    return held ? count : -1;
}

bool golden_file_values(const struct golden_file *file, const char *name, double *values)
{
    hid_t set = H5Dopen2(file->file, name, H5P_DEFAULT);
    if (set < 0) return false;
    herr_t got = H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(set);
    return got >= 0;
}

/* An attribute of one value, or a negative number. */
static hid_t attribute_of(const struct golden_file *file, const char *group, const char *name)
{
    hid_t attribute = H5Aopen_by_name(file->file, group, name, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = attribute < 0 ? -1 : H5Aget_space(attribute);
    bool single = space >= 0 && H5Sget_simple_extent_npoints(space) == 1;
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0 && !single) H5Aclose(attribute);
    return single ? attribute : -1;
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
