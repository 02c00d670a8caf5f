/* SPDX-License-Identifier: MIT
 *
 * HDF5 for shards. Reading trusts nothing: every size is checked before memory is taken for it, because a damaged file may say
 * anything. */
#include "survey/h5file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <zlib.h>

#include "base/memory.h"

/* Deflate packs at most about 1032 to 1: more data than this factor times the file is a lie. */
enum { LARGEST_COMPRESSION = 1100 };
/* What a string of variable length takes up in its place: a length, and where it is. */
enum { VARIABLE_BYTES = 16 };

/* H5Ewalk2 upward starts with the innermost call: that one's description says why. */
static herr_t innermost(unsigned depth, const H5E_error2_t *entry, void *data)
{
    if (depth == 0 && entry->desc) snprintf(data, sizeof(((struct h5_quiet *)0)->reason), "%s", entry->desc);
    return 0;
}

/* HDF5 wraps the system's words in a line of its own: keep "No space left on device" of it. */
static void system_words(char *reason)
{
    static const char before[] = "error message = '";
    char *start = strstr(reason, before);
    if (!start) return;
    start += sizeof before - 1;
    size_t length = strcspn(start, "'");
    memmove(reason, start, length);
    reason[length] = 0;
}

/* HDF5 calls this where it would print. Later failures are mostly consequences of the first. */
static herr_t keep_reason(hid_t stack, void *data)
{
    struct h5_quiet *quiet = data;
    if (quiet->reason[0]) return 0;
    H5Ewalk2(stack, H5E_WALK_UPWARD, innermost, quiet->reason);
    system_words(quiet->reason);
    return 0;
}

void h5_quiet_begin(struct h5_quiet *quiet)
{
    quiet->reason[0] = 0;
    H5Eget_auto2(H5E_DEFAULT, &quiet->print, &quiet->data);
    H5Eset_auto2(H5E_DEFAULT, keep_reason, quiet);
}

void h5_quiet_end(const struct h5_quiet *quiet)
{
    H5Eset_auto2(H5E_DEFAULT, quiet->print, quiet->data);
}

/* The innermost h5_quiet in force, or NULL: HDF5 itself remembers it for us. */
static struct h5_quiet *present_quiet(void)
{
    H5E_auto2_t print;
    void *data;
    H5Eget_auto2(H5E_DEFAULT, &print, &data);
    return print == keep_reason ? data : NULL;
}

void h5_forget(void)
{
    struct h5_quiet *quiet = present_quiet();
    if (quiet) quiet->reason[0] = 0;
}

int h5_failed(struct error *error, const char *path, const char *format, ...)
{
    char what[512];
    const struct h5_quiet *quiet = present_quiet();
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (quiet && quiet->reason[0]) return error_set(error, STATUS_FAILED, "%s: %s (%s)", path, what, quiet->reason);
    return error_set(error, STATUS_FAILED, "%s: %s", path, what);
}

uint32_t h5_crc(uint32_t crc, const void *data, size_t bytes)
{
    return (uint32_t)crc32_z(crc, data, bytes);
}

/* A stored string without its padding, as a C string in `out` (bytes + 1 long). */
static void unpad(char *out, const char *stored, size_t bytes, H5T_str_t padding)
{
    size_t length = strnlen(stored, bytes);
    while (padding == H5T_STR_SPACEPAD && length > 0 && stored[length - 1] == ' ') length--;
    memcpy(out, stored, length);
    out[length] = 0;
}

/* The strings of an attribute of any string type as separate copies. */
static int attribute_strings(hid_t attribute, hid_t type, int64_t count, char **texts)
{
    if (H5Tis_variable_str(type) > 0) {
        hid_t space = H5Aget_space(attribute);
        char **stored = memory_zeroed((size_t)count, sizeof *stored, "an attribute");
        herr_t status = H5Aread(attribute, type, stored);
        for (int64_t i = 0; status >= 0 && i < count; i++) texts[i] = memory_string(stored[i] ? stored[i] : "");
        if (status >= 0) H5Dvlen_reclaim(type, space, H5P_DEFAULT, stored);
        memory_free(stored);
        H5Sclose(space);
        return status < 0 ? -1 : 0;
    }
    size_t bytes = H5Tget_size(type);
    char *stored = memory_zeroed((size_t)count, bytes, "an attribute");
    herr_t status = H5Aread(attribute, type, stored);
    for (int64_t i = 0; status >= 0 && i < count; i++) {
        texts[i] = memory_new(bytes + 1, 1, "an attribute");
        unpad(texts[i], stored + (size_t)i * bytes, bytes, H5Tget_strpad(type));
    }
    memory_free(stored);
    return status < 0 ? -1 : 0;
}

/* Opens an attribute and tells its type and element count. Absent: *attribute stays negative and 0 is returned. */
static int attribute_open(hid_t object, const char *name, hid_t *attribute, hid_t *type, int64_t *count)
{
    *attribute = *type = H5I_INVALID_HID;
    htri_t exists = H5Aexists(object, name);
    if (exists <= 0) return exists < 0 ? -1 : 0;
    *attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (*attribute < 0) return -1;
    *type = H5Aget_type(*attribute);
    hid_t space = H5Aget_space(*attribute);
    *count = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    return *type < 0 || *count < 0 ? -1 : 0;
}

static void attribute_close(hid_t attribute, hid_t type)
{
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
}

/* Bytes of the file that an object lies in. */
static int64_t file_bytes_of(hid_t object)
{
    hsize_t bytes = 0;
    hid_t file = H5Iget_file_id(object);
    if (file < 0) return 0;
    if (H5Fget_filesize(file, &bytes) < 0) bytes = 0;
    H5Fclose(file);
    return (int64_t)(bytes & INT64_MAX);
}

/* Whether the file can hold that many strings of an attribute, which are never compressed. */
static bool can_hold(hid_t object, hid_t type, int64_t count)
{
    size_t bytes = H5Tis_variable_str(type) > 0 ? VARIABLE_BYTES : H5Tget_size(type);
    return bytes > 0 && count <= INT32_MAX && count <= file_bytes_of(object) / (int64_t)bytes;
}

int h5_texts_get(hid_t object, const char *path, const char *name, int *count, char ***texts, struct error *error)
{
    hid_t attribute, type;
    int64_t n = 0;
    *count = 0;
    *texts = NULL;
    if (attribute_open(object, name, &attribute, &type, &n)) {
        h5_failed(error, path, "attribute %s cannot be read, the file is damaged", name);
    } else if (attribute >= 0 && n > 0 && H5Tget_class(type) != H5T_STRING) {
        error_set(error, STATUS_FAILED, "%s: attribute %s is not text", path, name);
    } else if (attribute >= 0 && n > 0 && !can_hold(object, type, n)) {
        error_set(error, STATUS_FAILED, "%s: attribute %s says it has %lld texts, more than the file can hold", path, name,
                  (long long)n);
    } else if (attribute >= 0 && n > 0) {
        *texts = memory_zeroed((size_t)n, sizeof **texts, "an attribute");
        *count = (int)n;
        if (attribute_strings(attribute, type, n, *texts))
            h5_failed(error, path, "attribute %s cannot be read, the file is damaged", name);
    }
    attribute_close(attribute, type);
    if (!error->status) return STATUS_OK;
    for (int i = 0; i < *count; i++) memory_free((*texts)[i]);
    memory_free(*texts);
    *count = 0;
    *texts = NULL;
    return error->status;
}

int h5_text_get(hid_t object, const char *path, const char *name, bool optional, char **text, struct error *error)
{
    int count;
    char **texts;
    *text = NULL;
    if (h5_texts_get(object, path, name, &count, &texts, error)) return error->status;
    if (count > 0) *text = texts[0];
    for (int i = 1; i < count; i++) memory_free(texts[i]);
    memory_free(texts);
    if (count == 0 && !optional) return error_set(error, STATUS_FAILED, "%s: attribute %s is missing", path, name);
    return STATUS_OK;
}

int h5_integer_get(hid_t object, const char *path, const char *name, int64_t *value, struct error *error)
{
    hid_t attribute, type;
    int64_t count = 0;
    if (attribute_open(object, name, &attribute, &type, &count)) {
        h5_failed(error, path, "attribute %s cannot be read, the file is damaged", name);
    } else if (attribute < 0) {
        error_set(error, STATUS_FAILED, "%s: attribute %s is missing", path, name);
    } else if (H5Tget_class(type) != H5T_INTEGER || count != 1) {
        error_set(error, STATUS_FAILED, "%s: attribute %s is not one integer", path, name);
    } else if (H5Aread(attribute, H5T_NATIVE_INT64, value) < 0) {
        h5_failed(error, path, "attribute %s cannot be read, the file is damaged", name);
    }
    attribute_close(attribute, type);
    return error->status;
}

int h5_integers_get(hid_t object, const char *path, const char *name, int most, int *count, int64_t **values, struct error *error)
{
    hid_t attribute, type;
    int64_t n = 0;
    *values = NULL;
    if (attribute_open(object, name, &attribute, &type, &n)) {
        h5_failed(error, path, "attribute %s cannot be read, the file is damaged", name);
    } else if (attribute < 0) {
        error_set(error, STATUS_FAILED, "%s: attribute %s is missing", path, name);
    } else if (H5Tget_class(type) != H5T_INTEGER || n < 1 || n > most) {
        error_set(error, STATUS_FAILED, "%s: attribute %s is not 1 to %d integers", path, name, most);
    } else {
        *values = memory_zeroed((size_t)n, sizeof **values, "an attribute");
        *count = (int)n;
        if (H5Aread(attribute, H5T_NATIVE_INT64, *values) < 0)
            h5_failed(error, path, "attribute %s cannot be read, the file is damaged", name);
    }
    attribute_close(attribute, type);
    if (!error->status) return STATUS_OK;
    memory_free(*values);
    *values = NULL;
    return error->status;
}

static hid_t string_type(size_t bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, bytes ? bytes : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static herr_t attribute_put(hid_t object, const char *name, hid_t type, hid_t space, const void *values)
{
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = attribute < 0 ? -1 : H5Awrite(attribute, type, values);
    if (attribute >= 0 && H5Aclose(attribute) < 0) status = -1;
    H5Sclose(space);
    return status;
}

herr_t h5_text_put(hid_t object, const char *name, const char *text)
{
    hid_t type = string_type(strlen(text));
    herr_t status = attribute_put(object, name, type, H5Screate(H5S_SCALAR), text);
    H5Tclose(type);
    return status;
}

herr_t h5_texts_put(hid_t object, const char *name, int count, char *const *texts)
{
    size_t bytes = 1;
    for (int i = 0; i < count; i++) bytes = strlen(texts[i]) > bytes ? strlen(texts[i]) : bytes;
    char *stored = memory_zeroed((size_t)count, bytes, "an attribute");
    for (int i = 0; i < count; i++) memcpy(stored + (size_t)i * bytes, texts[i], strlen(texts[i]));
    hid_t type = string_type(bytes);
    hsize_t dimension = (hsize_t)count;
    herr_t status = attribute_put(object, name, type, H5Screate_simple(1, &dimension, NULL), stored);
    H5Tclose(type);
    memory_free(stored);
    return status;
}

herr_t h5_integer_put(hid_t object, const char *name, hid_t type, int64_t value)
{
    hid_t attribute = -1, space = H5Screate(H5S_SCALAR);
    attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = attribute < 0 ? -1 : H5Awrite(attribute, H5T_NATIVE_INT64, &value);
    if (attribute >= 0 && H5Aclose(attribute) < 0) status = -1;
    H5Sclose(space);
    return status;
}

herr_t h5_integers_put(hid_t object, const char *name, int count, const int64_t *values)
{
    hsize_t dimension = (hsize_t)count;
    return attribute_put(object, name, H5T_STD_I64LE, H5Screate_simple(1, &dimension, NULL), values);
}

static const char *class_name(H5T_class_t class)
{
    return class == H5T_FLOAT ? "floating-point numbers" : class == H5T_INTEGER ? "integers" : "strings";
}

/* The most bytes that the dataset can have, going by its place in the file or by what it takes up there. */
static int64_t most_bytes(const struct h5_dataset *dataset, int64_t file_bytes)
{
    hid_t properties = H5Dget_create_plist(dataset->set);
    bool chunked = properties >= 0 && H5Pget_layout(properties) == H5D_CHUNKED;
    if (properties >= 0) H5Pclose(properties);
    int64_t stored = (int64_t)(H5Dget_storage_size(dataset->set) & INT64_MAX);
    if (stored > file_bytes) stored = file_bytes;
    if (dataset->position >= 0) return file_bytes - dataset->position;
    return chunked ? stored * LARGEST_COMPRESSION : stored;
}

/* Data in another file, which a stranger's must not make us read. */
static bool lies_elsewhere(const struct h5_dataset *dataset)
{
    hid_t properties = H5Dget_create_plist(dataset->set);
    bool elsewhere = properties < 0 || H5Pget_layout(properties) == H5D_VIRTUAL || H5Pget_external_count(properties) != 0;
    if (properties >= 0) H5Pclose(properties);
    return elsewhere;
}

/* Type, element count, place and CRC of an open dataset. */
static int dataset_describe(struct h5_dataset *dataset, H5T_class_t class, int64_t file_bytes, struct error *error)
{
    const char *path = dataset->path, *name = dataset->name;
    dataset->type = H5Dget_type(dataset->set);
    hid_t space = H5Dget_space(dataset->set);
    int dimensions = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    dataset->count = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    if (dataset->type < 0 || dataset->count < 0)
        return h5_failed(error, path, "dataset %s cannot be read, the file is damaged", name);
    if (H5Tget_class(dataset->type) != class)
        return error_set(error, STATUS_FAILED, "%s: dataset %s does not hold %s", path, name, class_name(class));
    if (dimensions != 1) return error_set(error, STATUS_FAILED, "%s: dataset %s is not one-dimensional", path, name);
    bool variable = class == H5T_STRING && H5Tis_variable_str(dataset->type) > 0;
    dataset->element_bytes = variable ? 0 : H5Tget_size(dataset->type);
    haddr_t position = dataset->count ? H5Dget_offset(dataset->set) : HADDR_UNDEF;
    h5_forget();
    dataset->position = position == HADDR_UNDEF || variable ? -1 : (int64_t)position;
    if (lies_elsewhere(dataset)) return error_set(error, STATUS_FAILED, "%s: dataset %s lies in another file", path, name);
    int64_t largest = most_bytes(dataset, file_bytes);
    size_t least = variable ? VARIABLE_BYTES : dataset->element_bytes;
    if (least == 0 || largest < 0 || dataset->count > largest / (int64_t)least)
        return error_set(error, STATUS_FAILED, "%s: dataset %s says it has %lld elements, more than the file can hold", path,
                         name, (long long)dataset->count);
    htri_t has_crc = H5Aexists(dataset->set, "crc32");
    int64_t crc = 0;
    if (has_crc < 0) return h5_failed(error, path, "dataset %s cannot be read, the file is damaged", name);
    if (has_crc > 0 && h5_integer_get(dataset->set, path, "crc32", &crc, error)) return error->status;
    dataset->has_crc = has_crc > 0 && !variable;
    dataset->crc = (uint32_t)crc;
    return STATUS_OK;
}

int h5_dataset_open(struct h5_dataset *dataset, hid_t file, const char *path, const char *name, H5T_class_t class,
                    int64_t file_bytes, struct error *error)
{
    *dataset = (struct h5_dataset){.path = path, .name = name, .set = H5I_INVALID_HID, .type = H5I_INVALID_HID};
    htri_t exists = H5Lexists(file, name, H5P_DEFAULT);
    if (exists == 0) return error_set(error, STATUS_FAILED, "%s: dataset %s is missing", path, name);
    dataset->set = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset->set < 0)
        return h5_failed(error, path, "%s cannot be opened as a dataset, the file is damaged or of another kind", name);
    return dataset_describe(dataset, class, file_bytes, error);
}

void h5_dataset_close(struct h5_dataset *dataset)
{
    if (dataset->type > 0) H5Tclose(dataset->type);
    if (dataset->set > 0) H5Dclose(dataset->set);
    dataset->type = dataset->set = 0;
}

int h5_crc_check(const struct h5_dataset *dataset, uint32_t crc, struct error *error)
{
    if (!dataset->has_crc || crc == dataset->crc) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: dataset %s is damaged, its checksum is %08x instead of %08x; make the file again",
                     dataset->path, dataset->name, crc, dataset->crc);
}

/* The bytes as stored, checked, in room for `room` bytes an element. */
static int dataset_bytes(const struct h5_dataset *dataset, size_t room, void **bytes, struct error *error)
{
    *bytes = memory_new((size_t)dataset->count, room, dataset->name);
    if (dataset->count && H5Dread(dataset->set, dataset->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *bytes) < 0)
        h5_failed(error, dataset->path, "dataset %s cannot be read, the file is damaged", dataset->name);
    else
        h5_crc_check(dataset, h5_crc(0, *bytes, (size_t)dataset->count * dataset->element_bytes), error);
    if (!error->status) return STATUS_OK;
    memory_free(*bytes);
    *bytes = NULL;
    return error->status;
}

int h5_numbers_read(const struct h5_dataset *dataset, hid_t native, void **values, struct error *error)
{
    size_t wanted = H5Tget_size(native);
    size_t room = dataset->element_bytes > wanted ? dataset->element_bytes : wanted;
    if (dataset_bytes(dataset, room, values, error)) return error->status;
    if (dataset->count && H5Tequal(dataset->type, native) <= 0 &&
        H5Tconvert(dataset->type, native, (size_t)dataset->count, *values, NULL, H5P_DEFAULT) < 0) {
        memory_free(*values);
        *values = NULL;
        return h5_failed(error, dataset->path, "dataset %s has a number type that cannot be converted", dataset->name);
    }
    return STATUS_OK;
}

/* Variable-length strings, gathered into one block. */
static int variable_strings(const struct h5_dataset *dataset, char **strings, char **text, struct error *error)
{
    char **stored = memory_zeroed((size_t)dataset->count, sizeof *stored, dataset->name);
    if (dataset->count && H5Dread(dataset->set, dataset->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, stored) < 0) {
        memory_free(stored);
        *text = NULL;
        return h5_failed(error, dataset->path, "dataset %s cannot be read, the file is damaged", dataset->name);
    }
    size_t bytes = 0;
    for (int64_t i = 0; i < dataset->count; i++) bytes += (stored[i] ? strlen(stored[i]) : 0) + 1;
    char *next = *text = memory_new(bytes, 1, dataset->name);
    for (int64_t i = 0; i < dataset->count; i++) {
        strings[i] = next;
        next = stpcpy(next, stored[i] ? stored[i] : "") + 1;
    }
    hid_t space = H5Dget_space(dataset->set);
    if (dataset->count) H5Dvlen_reclaim(dataset->type, space, H5P_DEFAULT, stored);
    H5Sclose(space);
    memory_free(stored);
    return STATUS_OK;
}

int h5_strings_read(const struct h5_dataset *dataset, char ***strings, char **text, struct error *error)
{
    *text = NULL;
    *strings = memory_zeroed((size_t)dataset->count, sizeof **strings, dataset->name);
    if (dataset->element_bytes == 0) {
        variable_strings(dataset, *strings, text, error);
    } else {
        size_t bytes = dataset->element_bytes;
        void *stored;
        if (!dataset_bytes(dataset, bytes, &stored, error)) {
            *text = memory_new((size_t)dataset->count, bytes + 1, dataset->name);
            for (int64_t i = 0; i < dataset->count; i++) {
                (*strings)[i] = *text + (size_t)i * (bytes + 1);
                unpad((*strings)[i], (char *)stored + (size_t)i * bytes, bytes, H5Tget_strpad(dataset->type));
            }
            memory_free(stored);
        }
    }
    if (!error->status) return STATUS_OK;
    memory_free(*strings);
    *strings = NULL;
    return error->status;
}

static hid_t dataset_create(hid_t file, const char *name, hid_t type, int64_t count)
{
    hsize_t dimension = (hsize_t)count;
    hid_t space = H5Screate_simple(1, &dimension, NULL);
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_obj_track_times(properties, false); /* the same content must give the same file */
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    H5Sclose(space);
    return set;
}

herr_t h5_dataset_put(hid_t file, const char *name, hid_t type, int64_t count, const void *values)
{
    hid_t set = dataset_create(file, name, type, count);
    herr_t status = set < 0 ? -1 : 0;
    if (set >= 0 && count > 0) status = H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    if (status >= 0) status = h5_integer_put(set, "crc32", H5T_STD_U32LE, h5_crc(0, values, (size_t)count * H5Tget_size(type)));
    if (set >= 0 && H5Dclose(set) < 0) status = -1;
    return status;
}

herr_t h5_strings_put(hid_t file, const char *name, int64_t count, char *const *strings)
{
    size_t bytes = 1;
    for (int64_t i = 0; i < count; i++) bytes = strlen(strings[i]) > bytes ? strlen(strings[i]) : bytes;
    char *stored = memory_zeroed((size_t)count, bytes, name);
    for (int64_t i = 0; i < count; i++) memcpy(stored + (size_t)i * bytes, strings[i], strlen(strings[i]));
    hid_t type = string_type(bytes);
    herr_t status = h5_dataset_put(file, name, type, count, stored);
    H5Tclose(type);
    memory_free(stored);
    return status;
}

static bool pread_all(int fd, char *out, size_t bytes, off_t position)
{
    while (bytes) {
        ssize_t got = pread(fd, out, bytes, position);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        out += got;
        bytes -= (size_t)got;
        position += got;
    }
    return true;
}

/* The elements first .. first + count - 1 of a dataset. */
static herr_t write_part(hid_t set, hid_t type, int64_t first, int64_t count, const void *values)
{
    hsize_t start = (hsize_t)first, many = (hsize_t)count;
    hid_t space = H5Dget_space(set), memory = H5Screate_simple(1, &many, NULL);
    herr_t status = H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &many, NULL);
    if (status >= 0) status = H5Dwrite(set, type, memory, space, H5P_DEFAULT, values);
    H5Sclose(memory);
    H5Sclose(space);
    return status;
}

herr_t h5_dataset_copy(hid_t file, const char *name, hid_t type, int64_t count, int source)
{
    enum { PART = 1 << 16 };
    size_t element_bytes = H5Tget_size(type);
    char *part = memory_new(PART, element_bytes, "a part of a dataset");
    hid_t set = dataset_create(file, name, type, count);
    herr_t status = set < 0 ? -1 : 0;
    uint32_t crc = h5_crc(0, NULL, 0);
    for (int64_t first = 0; status >= 0 && first < count; first += PART) {
        int64_t many = count - first < PART ? count - first : PART;
        size_t bytes = (size_t)many * element_bytes;
        status = pread_all(source, part, bytes, (off_t)(first * (int64_t)element_bytes)) ? 0 : -1;
        crc = h5_crc(crc, part, bytes);
        if (status >= 0) status = write_part(set, type, first, many, part);
    }
    if (status >= 0) status = h5_integer_put(set, "crc32", H5T_STD_U32LE, crc);
    if (set >= 0 && H5Dclose(set) < 0) status = -1;
    memory_free(part);
    return status;
}
