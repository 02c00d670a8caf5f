/* SPDX-License-Identifier: MIT
 *
 * Writing embeddings. Rank 0 makes the file with all names, shapes and attributes and its room on the disk; then all ranks open
 * it together through MPI and each writes its own rows whenever it has some. Structure that only one rank writes cannot differ
 * between ranks, and since rows are written independently, a rank that fails keeps no other one waiting. */
#include "commands/embedding_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/memory.h"
#include "survey/h5file.h"

enum { STRUCTURE_BYTES = 1 << 20 }; /* more than all names and attributes take */

enum { DIMENSIONS_MOST = 4 };

/* What a dataset has rows for. */
enum rows_of { ROWS_WINDOWS, ROWS_CURVES, ROWS_ENDS /* a curve more */, ROWS_ATTENTION };
enum number { NUMBER_F32, NUMBER_F64, NUMBER_I32, NUMBER_I64, TEXT };

static const struct {
    const char *name;
    enum rows_of rows;
    enum number type;
} sets[EMBEDDING_SETS] = {
    [SET_EMBEDDING] = {"embedding", ROWS_WINDOWS, NUMBER_F32},
    [SET_BLOCKS] = {"blocks", ROWS_WINDOWS, NUMBER_F32},
    [SET_CURVE] = {"curve", ROWS_WINDOWS, NUMBER_I64},
    [SET_START] = {"start", ROWS_WINDOWS, NUMBER_I32},
    [SET_LENGTH] = {"length", ROWS_WINDOWS, NUMBER_I32},
    [SET_ID] = {"id", ROWS_CURVES, TEXT},
    [SET_LABEL] = {"label", ROWS_CURVES, NUMBER_I32},
    [SET_FIRST_WINDOW] = {"first_window", ROWS_ENDS, NUMBER_I64},
    [SET_ATTENTION_WEIGHTS] = {"attention/weights", ROWS_ATTENTION, NUMBER_F32},
    [SET_ATTENTION_CURVE] = {"attention/curve", ROWS_ATTENTION, NUMBER_I64},
    [SET_ATTENTION_START] = {"attention/start", ROWS_ATTENTION, NUMBER_I32},
    [SET_ATTENTION_LENGTH] = {"attention/length", ROWS_ATTENTION, NUMBER_I32},
    [SET_ATTENTION_TIME] = {"attention/time", ROWS_ATTENTION, NUMBER_F64},
    [SET_ATTENTION_MAGNITUDE] = {"attention/magnitude", ROWS_ATTENTION, NUMBER_F32},
};

/* The shape of a dataset: how many dimensions, 0 when this file has no such dataset. */
static int set_shape(const struct embedding_layout *layout, int set, hsize_t shape[DIMENSIONS_MOST])
{
    const int64_t rows[] = {layout->windows, layout->curves, layout->curves + 1, layout->attention_windows};
    hsize_t D = (hsize_t)layout->width, L = (hsize_t)layout->window, H = (hsize_t)layout->heads;
    shape[0] = (hsize_t)rows[sets[set].rows];
    if (set == SET_LABEL && !layout->labelled) return 0;
    if (set == SET_BLOCKS && !layout->stages) return 0;
    if (sets[set].rows == ROWS_ATTENTION && !layout->attention_windows) return 0;
    switch (set) {
    case SET_EMBEDDING:
        shape[1] = D;
        return 2;
    case SET_BLOCKS:
        shape[1] = (hsize_t)layout->stages, shape[2] = D;
        return 3;
    case SET_ATTENTION_WEIGHTS:
        shape[1] = H, shape[2] = shape[3] = L;
        return 4;
    case SET_ATTENTION_TIME:
    case SET_ATTENTION_MAGNITUDE:
        shape[1] = L;
        return 2;
    }
    return 1;
}

/* The type of a dataset's elements in the file, or in memory when `native`. To be closed by the caller. */
static hid_t set_type(const struct embedding_layout *layout, int set, bool native)
{
    switch (sets[set].type) {
    case NUMBER_F32:
        return H5Tcopy(native ? H5T_NATIVE_FLOAT : H5T_IEEE_F32LE);
    case NUMBER_F64:
        return H5Tcopy(native ? H5T_NATIVE_DOUBLE : H5T_IEEE_F64LE);
    case NUMBER_I32:
        return H5Tcopy(native ? H5T_NATIVE_INT32 : H5T_STD_I32LE);
    case NUMBER_I64:
        return H5Tcopy(native ? H5T_NATIVE_INT64 : H5T_STD_I64LE);
    case TEXT:
        break;
    }
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, layout->id_bytes);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static int64_t set_bytes(const struct embedding_layout *layout, int set)
{
    hsize_t shape[DIMENSIONS_MOST];
    int dimensions = set_shape(layout, set, shape);
    hid_t type = set_type(layout, set, false);
    int64_t bytes = dimensions ? (int64_t)H5Tget_size(type) : 0;
    for (int i = 0; i < dimensions; i++) bytes *= (int64_t)shape[i];
    H5Tclose(type);
    return bytes;
}

/* Rank 0 makes the file --------------------------------------------------------------------------------------------------------
 */

static herr_t put_attributes(hid_t file, const struct embedding_origin *origin)
{
    const struct survey_identity *survey = origin->survey;
    if (h5_integer_put(file, "format_version", H5T_STD_I32LE, EMBEDDING_FORMAT_VERSION) < 0) return -1;
    if (h5_text_put(file, "survey_id", survey->survey_id) < 0) return -1;
    if (h5_text_put(file, "survey", survey->name) < 0) return -1;
    if (h5_text_put(file, "band", survey->band) < 0) return -1;
    if (h5_text_put(file, "checkpoint", origin->checkpoint) < 0) return -1;
    if (h5_integer_put(file, "step", H5T_STD_I64LE, origin->step) < 0) return -1;
    if (h5_text_put(file, "pool", origin->pool) < 0) return -1;
    if (h5_integer_put(file, "window", H5T_STD_I32LE, origin->window) < 0) return -1;
    if (h5_integer_put(file, "full_windows", H5T_STD_I32LE, origin->full_windows) < 0) return -1;
    if (h5_text_put(file, "precision", origin->precision) < 0) return -1;
    if (h5_text_put(file, "config", origin->config_text) < 0) return -1;
    return survey->class_count ? h5_texts_put(file, "classes", survey->class_count, survey->classes) : 0;
}

/* An empty dataset whose room is allocated; nothing when the file has no such dataset. */
static herr_t put_set(hid_t file, const struct embedding_layout *layout, int set)
{
    hsize_t shape[DIMENSIONS_MOST];
    int dimensions = set_shape(layout, set, shape);
    if (!dimensions) return 0;
    hid_t type = set_type(layout, set, false), space = H5Screate_simple(dimensions, shape, NULL);
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(properties, false); /* the same content must give the same file */
    hid_t opened = H5Dcreate2(file, sets[set].name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    herr_t status = opened < 0 || H5Dclose(opened) < 0 ? -1 : 0;
    H5Pclose(properties);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

/* The group of attention's datasets, where there are any. */
static herr_t put_group(hid_t file, const struct embedding_layout *layout)
{
    if (!layout->attention_windows) return 0;
    hid_t properties = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(properties, false);
    hid_t group = H5Gcreate2(file, "attention", H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    herr_t status = group < 0 ? -1 : h5_integer_put(group, "block", H5T_STD_I32LE, layout->attention_block + 1);
    if (group >= 0 && H5Gclose(group) < 0) status = -1;
    return status;
}

/* File access without HDF5's locks, which fail on many cluster file systems, in the format of HDF5 1.8, which old readers know
 * and which has checksums over HDF5's own structures. */
static hid_t file_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_file_locking(access, false, true);
    return access;
}

static void put_structure(struct embedding_file *file, const struct embedding_origin *origin, struct error *error)
{
    hid_t access = file_access(), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(create, false);
    hid_t made = H5Fcreate(file->temporary, H5F_ACC_TRUNC, create, access);
    H5Pclose(create);
    H5Pclose(access);
    herr_t status = made < 0 ? -1 : put_attributes(made, origin);
    if (status >= 0) status = put_group(made, &file->layout);
    for (int set = 0; set < EMBEDDING_SETS && status >= 0; set++) status = put_set(made, &file->layout, set);
    file->stuck = made >= 0 && H5Fclose(made) < 0;
    if (status < 0 || file->stuck) h5_failed(error, file->temporary, "cannot be written");
}

/* Claims room for the file on the disk; bytes 0: as many as it has. A file system that cannot do that is taken as it is. */
static int claim_room(const char *path, int flags, int64_t bytes, struct error *error)
{
    struct stat status;
    int fd = open(path, O_RDWR | O_CLOEXEC | flags, 0666);
    if (fd < 0)
        return error_set(error, STATUS_FAILED, "%s: cannot be made: %s%s", path, strerror(errno),
                         errno == ENOENT ? "; make its folder first" : "");
    int code = fstat(fd, &status) ? errno : 0;
    if (bytes == 0) bytes = status.st_size;
    if (!code && fallocate(fd, 0, 0, bytes))
        code = errno; /* not posix_fallocate: where there is none, it writes block by block */
    if (code == EOPNOTSUPP || code == ENOSYS || code == EINVAL) code = 0;
    if (close(fd) && !code) code = errno;
    if (code)
        error_set(error, STATUS_FAILED, "%s: no room for %.1f MB of embeddings: %s", path, (double)bytes / 1e6, strerror(code));
    return error->status;
}

/* A file of its own: MPI-IO may lock the one that it writes, and would wait for us for ever. A file system without locks is no
 * reason to fail. */
static int take_lock(struct embedding_file *file, struct error *error)
{
    bool busy;
    size_t bytes = strlen(file->temporary) + sizeof "-lock";
    file->lock_path = memory_new(bytes, 1, "a path");
    snprintf(file->lock_path, bytes, "%s-lock", file->temporary);
    file->lock = lock_take(file->lock_path, &busy);
    if (busy)
        error_set(error, STATUS_FAILED, "%s: another embed is writing it; wait for it, stop it, or choose another --out",
                  file->temporary);
    return error->status;
}

static void drop_lock(struct embedding_file *file)
{
    if (file->lock_path) lock_drop(file->lock_path, file->lock);
    memory_free(file->lock_path);
    file->lock_path = NULL;
}

/* The room is claimed once before HDF5 begins, which does not take a full disk well, and once more when it has given the file
 * its size: a disk that is too small is told of at once, not after hours. */
static void make_file(struct embedding_file *file, const struct embedding_origin *origin, struct error *error)
{
    struct stat status;
    int64_t bytes = STRUCTURE_BYTES;
    for (int set = 0; set < EMBEDDING_SETS; set++) bytes += set_bytes(&file->layout, set);
    if (!stat(file->path, &status) && !S_ISREG(status.st_mode)) {
        error_set(error, STATUS_FAILED, "%s: is %s, embeddings cannot take its place; name a file", file->path,
                  S_ISDIR(status.st_mode) ? "a folder" : "no ordinary file");
        return;
    }
    if (take_lock(file, error)) return;
    if (unlink(file->temporary) && errno != ENOENT && errno != ENOTDIR) {
        error_set(error, STATUS_FAILED, "%s: is in the way and cannot be removed: %s", file->temporary, strerror(errno));
        return;
    }
    file->owned = true;
    if (!claim_room(file->temporary, O_CREAT | O_EXCL, bytes, error)) put_structure(file, origin, error);
    if (!error->status) claim_room(file->temporary, 0, 0, error);
}

/* All ranks open it ------------------------------------------------------------------------------------------------------------
 */

/* Collective. All ranks fail or none: a file that is open on some of the ranks can be neither used nor closed. */
static void open_together(struct embedding_file *file, struct error *error)
{
    if (access(file->temporary, R_OK | W_OK))
        error_set(error, STATUS_FAILED, "%s: not seen by every rank: %s", file->temporary, strerror(errno));
    if (comm_agree(file->comm, error)) return;
    hid_t properties = file_access();
    herr_t status = 0; /* a rank alone needs no MPI for its file, and Open MPI without a launcher is not good at it */
    if (comm_size(file->comm) > 1) status = H5Pset_fapl_mpio(properties, comm_mpi(file->comm), MPI_INFO_NULL);
    file->file = status < 0 ? H5I_INVALID_HID : H5Fopen(file->temporary, H5F_ACC_RDWR, properties);
    H5Pclose(properties);
    int64_t failed = file->file < 0;
    if (failed) h5_failed(error, file->temporary, "cannot be opened for all ranks to write");
    comm_sum_int64(file->comm, &failed, 1);
    CHECK(failed == 0 || failed == comm_size(file->comm) || file->file >= 0, "%s", error->message);
    hsize_t shape[DIMENSIONS_MOST];
    for (int set = 0; set < EMBEDDING_SETS && !failed; set++) {
        if (!set_shape(&file->layout, set, shape)) continue;
        file->set[set] = H5Dopen2(file->file, sets[set].name, H5P_DEFAULT);
        if (file->set[set] < 0) h5_failed(error, file->temporary, "dataset %s cannot be opened", sets[set].name);
    }
}

int embedding_file_create(struct embedding_file *file, const char *path, const struct embedding_layout *layout,
                          const struct embedding_origin *origin, struct comm *comm, struct error *error)
{
    struct h5_quiet quiet;
    size_t bytes = strlen(path) + sizeof ".partial";
    *file = (struct embedding_file){.comm = comm, .layout = *layout, .file = H5I_INVALID_HID, .lock = -1};
    for (int set = 0; set < EMBEDDING_SETS; set++) file->set[set] = H5I_INVALID_HID;
    file->path = memory_string(path);
    file->temporary = memory_new(bytes, 1, "a path");
    snprintf(file->temporary, bytes, "%s.partial", path);
    h5_quiet_begin(&quiet);
    if (comm_rank(comm) == 0) make_file(file, origin, error);
    if (!comm_agree(comm, error)) open_together(file, error);
    h5_quiet_end(&quiet);
    return comm_agree(comm, error) ? embedding_file_close(file, error) : STATUS_OK;
}

/* Each rank writes its rows ----------------------------------------------------------------------------------------------------
 */

/* Rows first .. first + count - 1 of one dataset, dense in memory. */
static int write_rows(struct embedding_file *file, int set, int64_t first, int64_t count, const void *values, struct error *error)
{
    struct h5_quiet quiet;
    hsize_t shape[DIMENSIONS_MOST], start[DIMENSIONS_MOST] = {(hsize_t)first};
    int dimensions = set_shape(&file->layout, set, shape);
    if (!dimensions || count == 0 || error->status) return error->status;
    shape[0] = (hsize_t)count;
    h5_quiet_begin(&quiet);
    hid_t there = H5Dget_space(file->set[set]), here = H5Screate_simple(dimensions, shape, NULL);
    hid_t type = set_type(&file->layout, set, true);
    herr_t status = there < 0 ? -1 : H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, shape, NULL);
    if (status >= 0) status = H5Dwrite(file->set[set], type, here, there, H5P_DEFAULT, values);
    if (status < 0) {
        h5_failed(error, file->temporary, "%s cannot be written", sets[set].name);
        file->stuck = true;
    }
    H5Tclose(type);
    H5Sclose(here);
    if (there >= 0) H5Sclose(there);
    h5_quiet_end(&quiet);
    return error->status;
}

int embedding_file_rows(struct embedding_file *file, const struct embedding_rows *rows, struct error *error)
{
    CHECK(rows->first >= 0 && rows->first + rows->count <= file->layout.windows, "rows %lld to %lld of %lld",
          (long long)rows->first, (long long)(rows->first + rows->count), (long long)file->layout.windows);
    write_rows(file, SET_EMBEDDING, rows->first, rows->count, rows->embedding, error);
    write_rows(file, SET_BLOCKS, rows->first, rows->count, rows->blocks, error);
    write_rows(file, SET_CURVE, rows->first, rows->count, rows->curve, error);
    write_rows(file, SET_START, rows->first, rows->count, rows->start, error);
    return write_rows(file, SET_LENGTH, rows->first, rows->count, rows->length, error);
}

int embedding_file_attention(struct embedding_file *file, const struct attention_rows *rows, struct error *error)
{
    CHECK(rows->first >= 0 && rows->first + rows->count <= file->layout.attention_windows,
          "rows %lld to %lld of %lld of attention", (long long)rows->first, (long long)(rows->first + rows->count),
          (long long)file->layout.attention_windows);
    write_rows(file, SET_ATTENTION_WEIGHTS, rows->first, rows->count, rows->weights, error);
    write_rows(file, SET_ATTENTION_CURVE, rows->first, rows->count, rows->curve, error);
    write_rows(file, SET_ATTENTION_START, rows->first, rows->count, rows->start, error);
    write_rows(file, SET_ATTENTION_LENGTH, rows->first, rows->count, rows->length, error);
    write_rows(file, SET_ATTENTION_TIME, rows->first, rows->count, rows->time, error);
    return write_rows(file, SET_ATTENTION_MAGNITUDE, rows->first, rows->count, rows->magnitude, error);
}

static void write_ids(struct embedding_file *file, int64_t first, const struct shard *shard, struct error *error)
{
    size_t bytes = file->layout.id_bytes;
    char *ids = memory_zeroed((size_t)shard->count, bytes, "the ids of a shard");
    for (int64_t c = 0; c < shard->count; c++) memcpy(ids + (size_t)c * bytes, shard->id[c], strnlen(shard->id[c], bytes));
    write_rows(file, SET_ID, first, shard->count, ids, error);
    memory_free(ids);
}

static void write_labels(struct embedding_file *file, int64_t first, const struct shard *shard, struct error *error)
{
    int32_t *labels = memory_new((size_t)shard->count, sizeof *labels, "the labels of a shard");
    for (int64_t c = 0; c < shard->count; c++) labels[c] = shard->label ? shard->label[c] : -1;
    write_rows(file, SET_LABEL, first, shard->count, labels, error);
    memory_free(labels);
}

int embedding_file_curves(struct embedding_file *file, int64_t first, const struct shard *shard, const int64_t *first_window,
                          struct error *error)
{
    bool last = first + shard->count == file->layout.curves;
    CHECK(first >= 0 && first + shard->count <= file->layout.curves, "light curves %lld to %lld of %lld", (long long)first,
          (long long)(first + shard->count), (long long)file->layout.curves);
    write_ids(file, first, shard, error);
    if (file->layout.labelled) write_labels(file, first, shard, error);
    return write_rows(file, SET_FIRST_WINDOW, first, shard->count + last, first_window, error);
}

/* The end ----------------------------------------------------------------------------------------------------------------------
 */

/* What was written to a file or a folder reaches the disk. */
static void flush(const char *path, int flags, struct error *error)
{
    int fd = open(path, flags | O_CLOEXEC);
    int code = fd < 0 || (fsync(fd) && errno != EINVAL) ? errno : 0; /* EINVAL: a file system without fsync of folders */
    if (fd >= 0 && close(fd) && !code) code = errno;
    if (code) error_set(error, STATUS_FAILED, "%s: cannot be flushed to the disk: %s", path, strerror(code));
}

static void take_name(const struct embedding_file *file, struct error *error)
{
    if (rename(file->temporary, file->path)) {
        error_set(error, STATUS_FAILED, "%s: cannot take its name: %s", file->path, strerror(errno));
        return;
    }
    char *folder = memory_string(file->path), *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    flush(slash ? folder : ".", O_RDONLY | O_DIRECTORY, error);
    memory_free(folder);
}

/* Collective. */
static bool any_stuck(const struct embedding_file *file)
{
    int64_t stuck = file->stuck;
    comm_sum_int64(file->comm, &stuck, 1);
    return stuck > 0;
}

/* A file that could not be written must not be closed: HDF5 would try to write once more, leave its peers waiting in a collective
 * call, and crash over the file at the end of the program. So the program ends here, with the one line that the error would
 * have made. Collective. */
static _Noreturn void leave(struct comm *comm, const struct error *error)
{
    if (comm_rank(comm) == 0) fprintf(stderr, "astromer: %s\n", error->message);
    fflush(NULL);
    comm_barrier(comm);
    _exit(error->status);
}

/* Collective. */
static void close_file(struct embedding_file *file, struct error *error)
{
    struct h5_quiet quiet;
    h5_quiet_begin(&quiet);
    for (int set = 0; set < EMBEDDING_SETS; set++)
        if (file->set[set] >= 0 && H5Dclose(file->set[set]) < 0) {
            h5_failed(error, file->temporary, "%s cannot be written", sets[set].name);
            file->stuck = true;
        }
    if (!any_stuck(file) && file->file >= 0 && H5Fclose(file->file) < 0) {
        h5_failed(error, file->temporary, "cannot be closed");
        file->stuck = true;
    }
    h5_quiet_end(&quiet);
}

int embedding_file_close(struct embedding_file *file, struct error *error)
{
    if (!file->path) return error->status;
    bool leads = comm_rank(file->comm) == 0;
    close_file(file, error);
    if (!error->status && comm_local_rank(file->comm) == 0) flush(file->temporary, O_RDWR, error);
    comm_agree(file->comm, error);
    if (leads && !error->status) take_name(file, error);
    if (leads && error->status && file->owned) unlink(file->temporary);
    drop_lock(file);
    comm_agree(file->comm, error);
    if (any_stuck(file)) leave(file->comm, error);
    memory_free(file->path);
    memory_free(file->temporary);
    *file = (struct embedding_file){0};
    return error->status;
}
