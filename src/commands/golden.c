/* SPDX-License-Identifier: MIT
 *
 * Reading golden files. Everything is asked for by name and shape, so that a file of another layout is named as such. */
#include "commands/golden.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

static void quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static int read_number(const struct golden *golden, hid_t object, const char *name, double *value, struct error *error)
{
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return error_set(error, STATUS_FAILED, "%s: attribute %s is missing; is it a golden file?", golden->path, name);
    hid_t type = H5Aget_type(attribute);
    bool whole = H5Tget_class(type) == H5T_ENUM || H5Tget_class(type) == H5T_INTEGER;
    int64_t integer = 0;
    herr_t got = whole ? H5Aread(attribute, H5T_NATIVE_INT64, &integer) : H5Aread(attribute, H5T_NATIVE_DOUBLE, value);
    if (whole) *value = (double)integer;
    H5Tclose(type);
    H5Aclose(attribute);
    return got < 0 ? error_set(error, STATUS_FAILED, "%s: attribute %s is not a number", golden->path, name) : STATUS_OK;
}

/* The mask's format is a text of one or two letters, of fixed or variable length. */
static int read_mask(struct golden *golden, struct error *error)
{
    char text[16] = "", *variable = NULL;
    hid_t attribute = H5Aopen(golden->file, "mask", H5P_DEFAULT);
    if (attribute < 0)
        return error_set(error, STATUS_FAILED, "%s: attribute mask is missing; is it a golden file?", golden->path);
    hid_t type = H5Aget_type(attribute);
    if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) > 0 && H5Aread(attribute, type, &variable) >= 0 &&
        variable) {
        strncpy(text, variable, sizeof text - 1);
        H5free_memory(variable);
    } else if (H5Tget_class(type) == H5T_STRING && H5Tget_size(type) < sizeof text) {
        H5Aread(attribute, type, text);
    }
    H5Tclose(type);
    H5Aclose(attribute);
    if (strcmp(text, "K") && strcmp(text, "QK"))
        return error_set(error, STATUS_FAILED, "%s: attribute mask is neither K nor QK", golden->path);
    golden->model.mask = strcmp(text, "K") ? MASK_QK : MASK_K;
    return STATUS_OK;
}

static int read_attributes(struct golden *golden, struct error *error)
{
    double blocks, heads, width, ffn, leak, token, weighted, window;
    const struct {
        const char *name;
        double *value;
    } numbers[] = {{"blocks", &blocks},
                   {"heads", &heads},
                   {"width", &width},
                   {"ffn", &ffn},
                   {"leak", &leak},
                   {"token", &token},
                   {"weighted", &weighted},
                   {"window", &window},
                   {"alpha", &golden->model.alpha},
                   {"pe_base", &golden->model.pe_base}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (read_number(golden, golden->file, numbers[i].name, numbers[i].value, error)) return error->status;
    if (!(blocks >= 1 && heads >= 1 && width >= 1 && ffn >= 1 && window >= 1 && blocks <= 1e4 && heads <= 1e4 && width <= 1e5 &&
          ffn <= 1e6 && window <= 1e5 && fmod(width, heads) == 0))
        return error_set(error, STATUS_FAILED, "%s: no model has %g blocks, %g heads, width %g, ffn %g and window %g",
                         golden->path, blocks, heads, width, ffn, window);
    golden->model.blocks = (int)blocks, golden->model.heads = (int)heads;
    golden->model.width = (int)width, golden->model.ffn = (int)ffn;
    golden->model.leak = leak != 0, golden->model.token = token != 0;
    golden->weighted = weighted != 0;
    golden->L = (int)window;
    return read_mask(golden, error);
}

int golden_open(struct golden *golden, const char *path, struct error *error)
{
    quiet();
    *golden = (struct golden){.path = path, .file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT)};
    if (golden->file < 0) return error_set(error, STATUS_FAILED, "%s: is not there or not an HDF5 file", path);
    if (read_attributes(golden, error)) return error->status;
    golden->B = (int)golden_count(golden, "input/length");
    if (golden->B < 1) return error_set(error, STATUS_FAILED, "%s: input/length is missing; is it a golden file?", path);
    return STATUS_OK;
}

void golden_close(struct golden *golden)
{
    if (golden->file > 0) H5Fclose(golden->file);
    golden->file = 0;
}

bool golden_has(const struct golden *golden, const char *name)
{
    char group[64] = "";
    const char *slash = strchr(name, '/');
    if (slash) strncat(group, name, (size_t)(slash - name) < sizeof group ? (size_t)(slash - name) : sizeof group - 1);
    if (slash && H5Lexists(golden->file, group, H5P_DEFAULT) <= 0) return false;
    return H5Lexists(golden->file, name, H5P_DEFAULT) > 0;
}

int64_t golden_count(const struct golden *golden, const char *name)
{
    if (!golden_has(golden, name)) return 0;
    hid_t set = H5Dopen2(golden->file, name, H5P_DEFAULT);
    if (set < 0) return 0;
    hid_t space = H5Dget_space(set);
    int64_t count = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    H5Dclose(set);
    return count;
}

int golden_read(const struct golden *golden, const char *name, int64_t count, double **values, struct error *error)
{
    int64_t found = golden_count(golden, name);
    if (!golden_has(golden, name)) return error_set(error, STATUS_FAILED, "%s: %s is missing", golden->path, name);
    if (found != count)
        return error_set(error, STATUS_FAILED, "%s: %s has %lld elements instead of %lld", golden->path, name, (long long)found,
                         (long long)count);
    hid_t set = H5Dopen2(golden->file, name, H5P_DEFAULT);
    *values = memory_new((size_t)count, sizeof **values, "a golden tensor");
    herr_t got = H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, *values);
    H5Dclose(set);
    if (got >= 0) return STATUS_OK;
    memory_free(*values);
    *values = NULL;
    return error_set(error, STATUS_FAILED, "%s: %s cannot be read; the file is damaged", golden->path, name);
}

int golden_read_floats(const struct golden *golden, const char *name, int64_t count, float **values, struct error *error)
{
    double *exact;
    if (golden_read(golden, name, count, &exact, error)) return error->status;
    *values = memory_new((size_t)count, sizeof **values, "a golden tensor");
    for (int64_t i = 0; i < count; i++) (*values)[i] = (float)exact[i];
    memory_free(exact);
    return STATUS_OK;
}

int golden_number(const struct golden *golden, const char *group, const char *name, double *value, struct error *error)
{
    hid_t object = H5Oopen(golden->file, group, H5P_DEFAULT);
    if (object < 0) return error_set(error, STATUS_FAILED, "%s: group %s is missing", golden->path, group);
    int status = read_number(golden, object, name, value, error);
    H5Oclose(object);
    return status;
}
