/* SPDX-License-Identifier: MIT
 *
 * Reading embeddings. What embed writes lies in one piece in the file; a dataset that does not is another program's. */
#include "commands/embedding_reader.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "commands/embedding_file.h"

/* What a window or a vector may be at most: bounds on nonsense, not on use. */
enum { WIDTH_MOST = 1 << 20, WINDOW_MOST = 1 << 24 };

/* The attributes ---------------------------------------------------------------------------------------------------------------
 */

static int read_attributes(struct embedding_reader *r, struct error *error)
{
    int64_t version, window;
    if (h5_integer_get(r->file, r->path, "format_version", &version, error)) return error->status;
    if (version != EMBEDDING_FORMAT_VERSION)
        return error_set(error, STATUS_FAILED, "%s: has format version %lld, this program reads version %d of embeddings",
                         r->path, (long long)version, EMBEDDING_FORMAT_VERSION);
    if (h5_integer_get(r->file, r->path, "window", &window, error) ||
        h5_text_get(r->file, r->path, "survey", false, &r->survey, error) ||
        h5_text_get(r->file, r->path, "pool", false, &r->pool, error) ||
        h5_texts_get(r->file, r->path, "classes", &r->class_count, &r->classes, error))
        return error->status;
    if (window < 1 || window > WINDOW_MOST)
        return error_set(error, STATUS_FAILED, "%s: says that a window has %lld observations", r->path, (long long)window);
    r->window = (int)window;
    return STATUS_OK;
}

/* The datasets -----------------------------------------------------------------------------------------------------------------
 */

static int not_in_one_piece(const struct embedding_reader *r, const char *name, struct error *error)
{
    return error_set(error, STATUS_FAILED, "%s: dataset %s does not lie in one piece, as astromer embed writes it", r->path,
                     name);
}

/* The shape of the embeddings, and that the file has room for them. */
static int describe_embedding(struct embedding_reader *r, int64_t file_bytes, struct error *error)
{
    hsize_t shape[2] = {0};
    hid_t space = H5Dget_space(r->embedding), type = H5Dget_type(r->embedding), properties = H5Dget_create_plist(r->embedding);
    bool two = space >= 0 && H5Sget_simple_extent_ndims(space) == 2 && H5Sget_simple_extent_dims(space, shape, NULL) == 2;
    bool numbers = type >= 0 && H5Tget_class(type) == H5T_FLOAT;
    bool here = properties >= 0 && H5Pget_layout(properties) == H5D_CONTIGUOUS && H5Pget_external_count(properties) == 0;
    size_t bytes = numbers ? H5Tget_size(type) : 0;
    haddr_t position = two && shape[0] ? H5Dget_offset(r->embedding) : HADDR_UNDEF;
    if (properties >= 0) H5Pclose(properties);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (!two || !numbers || shape[1] < 1 || shape[1] > WIDTH_MOST)
        return error_set(error, STATUS_FAILED, "%s: dataset embedding is not a table of windows x width numbers", r->path);
    if (!here || (shape[0] && position == HADDR_UNDEF)) return not_in_one_piece(r, "embedding", error);
    if (shape[0] && (position > (haddr_t)file_bytes || shape[0] > ((haddr_t)file_bytes - position) / (shape[1] * bytes)))
        return error_set(error, STATUS_FAILED, "%s: dataset embedding says it has %llu rows, more than the file can hold",
                         r->path, (unsigned long long)shape[0]);
    r->windows = (int64_t)shape[0], r->width = (int)shape[1];
    return STATUS_OK;
}

static int open_embedding(struct embedding_reader *r, int64_t file_bytes, struct error *error)
{
    if (H5Lexists(r->file, "embedding", H5P_DEFAULT) <= 0)
        return error_set(error, STATUS_FAILED, "%s: has no dataset embedding: it is no file of astromer embed", r->path);
    r->embedding = H5Dopen2(r->file, "embedding", H5P_DEFAULT);
    if (r->embedding < 0) return h5_failed(error, r->path, "embedding cannot be opened as a dataset, the file is damaged");
    return describe_embedding(r, file_bytes, error);
}

/* A dataset of `count` elements. */
static int open_column(struct embedding_reader *r, struct h5_dataset *column, const char *name, H5T_class_t class, int64_t count,
                       int64_t file_bytes, struct error *error)
{
    if (h5_dataset_open(column, r->file, r->path, name, class, file_bytes, error)) return error->status;
    if (column->count != count)
        return error_set(error, STATUS_FAILED, "%s: dataset %s has %lld elements where there should be %lld", r->path, name,
                         (long long)column->count, (long long)count);
    return count && column->position < 0 ? not_in_one_piece(r, name, error) : STATUS_OK;
}

static int open_columns(struct embedding_reader *r, int64_t file_bytes, struct error *error)
{
    if (h5_dataset_open(&r->id, r->file, r->path, "id", H5T_STRING, file_bytes, error)) return error->status;
    r->curves = r->id.count, r->id_bytes = r->id.element_bytes + 1;
    if (r->curves && r->id.position < 0) return not_in_one_piece(r, "id", error);
    if (open_column(r, &r->first_window, "first_window", H5T_INTEGER, r->curves + 1, file_bytes, error) ||
        open_column(r, &r->length, "length", H5T_INTEGER, r->windows, file_bytes, error))
        return error->status;
    r->labelled = H5Lexists(r->file, "label", H5P_DEFAULT) > 0;
    return r->labelled ? open_column(r, &r->label, "label", H5T_INTEGER, r->curves, file_bytes, error) : STATUS_OK;
}

/* The light curves have all windows between them. */
static int check_ends(struct embedding_reader *r, struct error *error)
{
    int64_t ends[4] = {0};
    if (r->curves == 0) return error_set(error, STATUS_FAILED, "%s: holds no light curves", r->path);
    if (embedding_reader_first_windows(r, 0, 1, ends, error) ||
        embedding_reader_first_windows(r, r->curves - 1, 1, ends + 2, error))
        return error->status;
    if (ends[0] == 0 && ends[3] == r->windows) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: first_window goes from %lld to %lld, but there are %lld windows", r->path,
                     (long long)ends[0], (long long)ends[3], (long long)r->windows);
}

static int open_file(struct embedding_reader *r, struct error *error)
{
    hsize_t file_bytes = 0;
    struct stat status;
    if (!stat(r->path, &status) && !S_ISREG(status.st_mode)) return error_set(error, STATUS_FAILED, "%s: is not a file", r->path);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true);
    r->file = H5Fopen(r->path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (r->file < 0 || H5Fget_filesize(r->file, &file_bytes) < 0)
        return h5_failed(error, r->path, "cannot be read as a file of embeddings");
    int64_t bytes = (int64_t)(file_bytes & INT64_MAX);
    if (open_embedding(r, bytes, error) || read_attributes(r, error) || open_columns(r, bytes, error)) return error->status;
    return check_ends(r, error);
}

int embedding_reader_open(struct embedding_reader *reader, const char *path, struct error *error)
{
    struct h5_quiet quiet;
    *reader = (struct embedding_reader){.path = memory_string(path), .file = H5I_INVALID_HID, .embedding = H5I_INVALID_HID};
    h5_quiet_begin(&quiet);
    open_file(reader, error);
    h5_quiet_end(&quiet);
    return error->status;
}

void embedding_reader_close(struct embedding_reader *r)
{
    if (!r->path) return;
    h5_dataset_close(&r->id);
    h5_dataset_close(&r->label);
    h5_dataset_close(&r->first_window);
    h5_dataset_close(&r->length);
    if (r->embedding >= 0) H5Dclose(r->embedding);
    if (r->file >= 0) H5Fclose(r->file);
    for (int i = 0; i < r->class_count; i++) memory_free(r->classes[i]);
    memory_free(r->classes);
    memory_free(r->survey);
    memory_free(r->pool);
    memory_free(r->path);
    *r = (struct embedding_reader){0};
}

/* Parts of them ----------------------------------------------------------------------------------------------------------------
 */

/* Rows first .. first + count - 1 of a dataset as a type of memory. */
static int read_rows(const struct embedding_reader *r, hid_t set, const char *name, hid_t type, int64_t first, int64_t count,
                     void *values, struct error *error)
{
    struct h5_quiet quiet;
    hsize_t start[2] = {(hsize_t)first, 0}, shape[2] = {(hsize_t)count, (hsize_t)r->width};
    if (count == 0) return STATUS_OK;
    h5_quiet_begin(&quiet);
    hid_t there = H5Dget_space(set), here = H5Screate_simple(set == r->embedding ? 2 : 1, shape, NULL);
    herr_t status = there < 0 ? -1 : H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, shape, NULL);
    if (status >= 0) status = H5Dread(set, type, here, there, H5P_DEFAULT, values);
    if (status < 0) h5_failed(error, r->path, "dataset %s cannot be read, the file is damaged", name);
    H5Sclose(here);
    if (there >= 0) H5Sclose(there);
    h5_quiet_end(&quiet);
    return error->status;
}

/* Ids as they are stored stand one behind the other at first, without room for a NUL. */
int embedding_reader_ids(struct embedding_reader *r, int64_t first, int64_t count, char *ids, struct error *error)
{
    size_t stored = r->id.element_bytes;
    if (read_rows(r, r->id.set, "id", r->id.type, first, count, ids, error)) return error->status;
    for (int64_t i = count - 1; i >= 0; i--) {
        char *id = ids + (size_t)i * r->id_bytes;
        memmove(id, ids + (size_t)i * stored, stored);
        id[stored] = 0;
    }
    for (int64_t i = 0; i < count; i++) {
        char *id = ids + (size_t)i * r->id_bytes;
        size_t length = strlen(id);
        while (H5Tget_strpad(r->id.type) == H5T_STR_SPACEPAD && length > 0 && id[length - 1] == ' ') id[--length] = 0;
        if (length == 0)
            return error_set(error, STATUS_FAILED, "%s: light curve %lld has no id", r->path, (long long)(first + i));
    }
    return STATUS_OK;
}

int embedding_reader_labels(struct embedding_reader *r, int64_t first, int64_t count, int32_t *label, struct error *error)
{
    if (!r->labelled) {
        for (int64_t i = 0; i < count; i++) label[i] = -1;
        return STATUS_OK;
    }
    if (read_rows(r, r->label.set, "label", H5T_NATIVE_INT32, first, count, label, error)) return error->status;
    for (int64_t i = 0; i < count; i++)
        if (label[i] < -1 || label[i] >= r->class_count)
            return error_set(error, STATUS_FAILED, "%s: light curve %lld has the label %d, but there are %d classes", r->path,
                             (long long)(first + i), label[i], r->class_count);
    return STATUS_OK;
}

int embedding_reader_first_windows(struct embedding_reader *r, int64_t first, int64_t count, int64_t *first_window,
                                   struct error *error)
{
    if (read_rows(r, r->first_window.set, "first_window", H5T_NATIVE_INT64, first, count + 1, first_window, error))
        return error->status;
    for (int64_t i = 0; i <= count; i++)
        if (first_window[i] < (i ? first_window[i - 1] : 0) || first_window[i] > r->windows)
            return error_set(error, STATUS_FAILED, "%s: first_window of light curve %lld is %lld, which is out of order", r->path,
                             (long long)(first + i), (long long)first_window[i]);
    return STATUS_OK;
}

int embedding_reader_lengths(struct embedding_reader *r, int64_t first, int64_t count, int32_t *length, struct error *error)
{
    if (read_rows(r, r->length.set, "length", H5T_NATIVE_INT32, first, count, length, error)) return error->status;
    for (int64_t i = 0; i < count; i++)
        if (length[i] < 1 || length[i] > r->window)
            return error_set(error, STATUS_FAILED, "%s: window %lld has %d observations, but a window has 1 to %d", r->path,
                             (long long)(first + i), length[i], r->window);
    return STATUS_OK;
}

int embedding_reader_embeddings(struct embedding_reader *r, int64_t first, int64_t count, float *embedding, struct error *error)
{
    if (read_rows(r, r->embedding, "embedding", H5T_NATIVE_FLOAT, first, count, embedding, error)) return error->status;
    for (int64_t i = 0; i < count * r->width; i++)
        if (!isfinite(embedding[i]))
            return error_set(error, STATUS_FAILED, "%s: row %lld of embedding holds a number that is not finite", r->path,
                             (long long)(first + i / r->width));
    return STATUS_OK;
}
