/* SPDX-License-Identifier: MIT
 *
 * Writing a checkpoint, in three steps with an agreement after each, so that no rank waits for one that has failed:
 * rank 0 makes a new file with all names, shapes, attributes and room on the disk; then all ranks open it together through MPI-IO
 * and write their slices of every tensor; then rank 0 verifies what stands on the disk and gives the file its name.
 * Structure that only one rank writes cannot differ between ranks, and room that is there cannot run out halfway. */
#include "checkpoint/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zlib.h>

#include "base/memory.h"
#include "checkpoint/h5.h"

enum {
    IMAGE_STEP_BYTES = 4 << 20, /* by which a file in memory grows */
    SLICE_BYTES_LEAST = 1 << 16 /* of a tensor, that a rank writes */
};

/* The buffers of a checkpoint, in the order of checkpoint_group; NULL is not written. */
static const float *buffer_of(const struct checkpoint *checkpoint, int group)
{
    const float *buffers[TENSOR_GROUPS] = {checkpoint->parameters, checkpoint->adam_m, checkpoint->adam_v};
    return buffers[group];
}

static int64_t elements_of(const struct parameter *parameter)
{
    return (int64_t)parameter->rows * parameter->columns;
}

/* Scratch for the largest tensor in dense form; owned by the caller. */
static float *dense_new(const struct parameter_table *table)
{
    int64_t most = 0;
    for (int i = 0; i < table->count; i++)
        if (elements_of(&table->parameter[i]) > most) most = elements_of(&table->parameter[i]);
    return memory_new((size_t)most, sizeof(float), "a tensor of a checkpoint");
}

/* Step 1: rank 0 makes the file --------------------------------------------------------------------------------- */

static herr_t put_attribute(hid_t object, const char *name, hid_t file_type, hid_t memory_type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = attribute < 0 ? -1 : H5Awrite(attribute, memory_type, value);
    if (attribute >= 0 && H5Aclose(attribute) < 0) status = -1;
    H5Sclose(space);
    return status;
}

/* A dataset with its CRC-32, its room allocated; `values` NULL leaves it to be written later. */
static herr_t put_dataset(hid_t file, const char *name, hid_t type, hid_t space, uint32_t crc, const void *values)
{
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(properties, false);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    herr_t status = set < 0 ? -1 : put_attribute(set, "crc32", H5T_STD_U32LE, H5T_NATIVE_UINT32, &crc);
    if (status >= 0 && values) status = H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    if (set >= 0 && H5Dclose(set) < 0) status = -1;
    H5Pclose(properties);
    return status;
}

/* An empty group, left open. No object keeps its time, so that the same content gives the same file. */
static hid_t put_group(hid_t file, const char *name)
{
    hid_t properties = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(properties, false);
    hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    return group;
}

static herr_t put_groups(hid_t file, bool with_adam)
{
    const char *const names[] = {checkpoint_group[PARAMETERS], "adam", checkpoint_group[ADAM_M], checkpoint_group[ADAM_V]};
    for (int i = 0; i < (with_adam ? 4 : 1); i++) {
        hid_t group = put_group(file, names[i]);
        if (group < 0 || H5Gclose(group) < 0) return -1;
    }
    return 0;
}

static herr_t put_tensors(hid_t file, const struct checkpoint *checkpoint)
{
    const struct parameter_table *table = checkpoint->table;
    float *dense = dense_new(table);
    herr_t status = 0;
    for (int group = 0; group < TENSOR_GROUPS; group++) {
        const float *flat = buffer_of(checkpoint, group);
        for (int i = 0; flat && status >= 0 && i < table->count; i++) {
            const struct parameter *p = &table->parameter[i];
            char name[CHECKPOINT_TENSOR_BYTES];
            hsize_t shape[2] = {(hsize_t)p->rows, (hsize_t)p->columns};
            hid_t space = H5Screate_simple(p->rank, p->rank == 1 ? &shape[1] : shape, NULL);
            parameter_gather(p, flat, dense);
            uint32_t crc = (uint32_t)crc32_z(0, (const Bytef *)dense, (size_t)elements_of(p) * sizeof *dense);
            checkpoint_tensor_name(name, group, p);
            status = put_dataset(file, name, H5T_IEEE_F32LE, space, crc, NULL);
            H5Sclose(space);
        }
    }
    memory_free(dense);
    return status;
}

static herr_t put_config(hid_t file, const char *text)
{
    size_t bytes = strlen(text) ? strlen(text) : 1; /* HDF5 has no string of zero bytes */
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, bytes);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    herr_t status = put_dataset(file, "config", type, space, (uint32_t)crc32_z(0, (const Bytef *)text, bytes), text);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

static herr_t put_progress(hid_t file, const struct progress_state *progress)
{
    hid_t group = put_group(file, "progress");
    herr_t status = group < 0 ? -1 : 0;
    for (int i = 0; status >= 0 && i < progress_field_count; i++) {
        const struct progress_field *field = &progress_fields[i];
        hid_t file_type = field->is_integer ? H5T_STD_I64LE : H5T_IEEE_F64LE;
        hid_t memory_type = field->is_integer ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE;
        status = put_attribute(group, field->name, file_type, memory_type, (const char *)progress + field->offset);
    }
    if (group >= 0 && H5Gclose(group) < 0) status = -1;
    return status;
}

static herr_t put_structure(hid_t file, const struct checkpoint *checkpoint)
{
    int32_t version = CHECKPOINT_FORMAT_VERSION;
    if (put_attribute(file, "format_version", H5T_STD_I32LE, H5T_NATIVE_INT32, &version) < 0) return -1;
    if (put_progress(file, &checkpoint->progress) < 0) return -1;
    if (put_config(file, checkpoint->config_text) < 0) return -1;
    if (put_groups(file, checkpoint->adam_m != NULL) < 0) return -1;
    return put_tensors(file, checkpoint);
}

/* The folder that the file is to stand in, with its last part made where it is missing. */
static int make_folder(const char *path, struct error *error)
{
    char folder[CHECKPOINT_PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash || slash == folder) return STATUS_OK;
    *slash = 0;
    if (mkdir(folder, 0777) && errno != EEXIST)
        return error_set(error, STATUS_FAILED, "%s: cannot be made: %s", folder, strerror(errno));
    return STATUS_OK;
}

/* The bytes of a file that HDF5 makes in memory. It hands them over in the end by "freeing" them. */
struct image {
    void *bytes;
    size_t count;
};

static void *image_grow(void *bytes, size_t count, H5FD_file_image_op_t operation, void *image)
{
    (void)operation, (void)image;
    return realloc(bytes, count);
}

static herr_t image_hand_over(void *bytes, H5FD_file_image_op_t operation, void *image)
{
    (void)operation;
    ((struct image *)image)->bytes = bytes;
    return 0;
}

static void *image_same(void *image)
{
    return image;
}

static herr_t image_keep(void *image)
{
    (void)image;
    return 0;
}

/* The file as it is to stand on the disk, the tensors' values still zero. HDF5 makes it in memory, because a disk that fails or
 * fills up under HDF5 leaves it in a state that it cannot get out of. image->bytes is the caller's to free(). */
static int make_image(const char *path, const struct checkpoint *checkpoint, struct image *image, struct error *error)
{
    hid_t properties = hdf5_access(true), create = H5Pcreate(H5P_FILE_CREATE);
    H5FD_file_image_callbacks_t hand_over = {.image_realloc = image_grow,
                                             .image_free = image_hand_over,
                                             .udata_copy = image_same,
                                             .udata_free = image_keep,
                                             .udata = image};
    H5Pset_fapl_core(properties, IMAGE_STEP_BYTES, false);
    H5Pset_file_image_callbacks(properties, &hand_over);
    H5Pset_obj_track_times(create, false);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, create, properties);
    ssize_t count = -1;
    if (file >= 0 && put_structure(file, checkpoint) >= 0 && H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0)
        count = H5Fget_file_image(file, NULL, 0);
    image->count = count > 0 ? (size_t)count : 0;
    if (count <= 0) hdf5_failed(error, path, "cannot be made in memory");
    if (file >= 0 && H5Fclose(file) < 0) hdf5_failed(error, path, "cannot be made in memory");
    H5Pclose(create);
    H5Pclose(properties);
    return error->status;
}

/* A new file with these bytes. */
static int put_file(const char *path, const struct image *image, struct error *error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666), code = 0;
    if (fd < 0) return error_set(error, STATUS_FAILED, "%s: cannot be made: %s", path, strerror(errno));
    for (size_t done = 0; !code && done < image->count;) {
        ssize_t written = write(fd, (const char *)image->bytes + done, image->count - done);
        if (written > 0) done += (size_t)written;
        if (written < 0 && errno != EINTR) code = errno;
    }
    if (close(fd) && !code) code = errno;
    if (!code) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: %.1f MB cannot be written: %s", path, (double)image->count / 1e6, strerror(code));
}

/* The new file under its temporary name, complete but for the tensors' values, for which there is room on the disk now. */
static int make_file(const char *path, const char *temporary, const struct checkpoint *checkpoint, struct error *error)
{
    struct stat status;
    struct image image = {0};
    if (!stat(path, &status) && S_ISDIR(status.st_mode))
        return error_set(error, STATUS_FAILED, "%s: is a folder, a checkpoint cannot take its place", path);
    if (make_folder(path, error)) return error->status;
    if (!make_image(temporary, checkpoint, &image, error)) put_file(temporary, &image, error);
    free(image.bytes);
    return error->status;
}

/* Step 2: all ranks write --------------------------------------------------------------------------------------- */

/* The part of `length` rows of `row` floats that this rank writes: of a small tensor few ranks, from rank `turn` on, have one,
 * for a thousand writers in one page of a file wait for each other. */
static void share_rows(int64_t length, int64_t row, int turn, struct comm *comm, int64_t *first, int64_t *end)
{
    int64_t ranks = comm_size(comm), most = length * row * (int64_t)sizeof(float) / SLICE_BYTES_LEAST;
    int64_t slices = most < 1 ? 1 : most < ranks ? most : ranks, slice = (comm_rank(comm) - turn % ranks + ranks) % ranks;
    *first = slice < slices ? length * slice / slices : 0;
    *end = slice < slices ? length * (slice + 1) / slices : 0;
}

/* This rank's rows (of a vector: elements) of one tensor, in one piece; a rank without any takes part with nothing. The transfer
 * is independent: a collective one of HDF5 waits for ever when it fails on one rank only. */
static herr_t write_slice(hid_t file, const char *name, const struct parameter *p, const float *dense, int turn,
                          struct comm *comm)
{
    int64_t length = p->rank == 1 ? p->columns : p->rows, row = p->rank == 1 ? 1 : p->columns, first, end;
    share_rows(length, row, turn, comm, &first, &end);
    hsize_t start[2] = {(hsize_t)first, 0}, count[2] = {(hsize_t)(end - first), (hsize_t)row};
    hsize_t values = (hsize_t)((end - first) * row);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    hid_t there = set < 0 ? -1 : H5Dget_space(set), here = H5Screate_simple(1, &values, NULL);
    herr_t status = there < 0 ? -1 : 0;
    if (status >= 0 && values)
        status = H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, count, NULL);
    else if (status >= 0)
        status = H5Sselect_none(there) < 0 || H5Sselect_none(here) < 0 ? -1 : 0;
    if (status >= 0) status = H5Dwrite(set, H5T_NATIVE_FLOAT, here, there, H5P_DEFAULT, dense + first * row);
    H5Sclose(here);
    if (there >= 0) H5Sclose(there);
    if (set >= 0 && H5Dclose(set) < 0) status = -1;
    return status;
}

static int write_tensors(hid_t file, const char *path, const struct checkpoint *checkpoint, struct comm *comm,
                         struct error *error)
{
    const struct parameter_table *table = checkpoint->table;
    float *dense = dense_new(table);
    for (int group = 0; group < TENSOR_GROUPS; group++) {
        const float *flat = buffer_of(checkpoint, group);
        for (int i = 0; flat && !error->status && i < table->count; i++) {
            char name[CHECKPOINT_TENSOR_BYTES];
            checkpoint_tensor_name(name, group, &table->parameter[i]);
            parameter_gather(&table->parameter[i], flat, dense);
            if (write_slice(file, name, &table->parameter[i], dense, group * table->count + i, comm) < 0)
                hdf5_failed(error, path, "%s cannot be written", name);
        }
    }
    memory_free(dense);
    return error->status;
}

/* What this node has written reaches the disk. */
static int flush_file(const char *path, struct error *error)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int code = fd < 0 || fsync(fd) ? errno : 0;
    if (fd >= 0 && close(fd) && !code) code = errno;
    if (code) error_set(error, STATUS_FAILED, "%s: cannot be flushed to the disk: %s", path, strerror(code));
    return error->status;
}

/* Collective. One rank alone writes without MPI-IO, for which Open MPI keeps files that all such programs of a node share and now
 * and then remove under each other. All ranks fail or none: a file that is open on some of the ranks can be neither used nor
 * closed. */
static hid_t open_together(const char *path, struct comm *comm, struct error *error)
{
    hid_t properties = hdf5_access(true);
    herr_t status = comm_size(comm) == 1 ? 0 : H5Pset_fapl_mpio(properties, comm_mpi(comm), MPI_INFO_NULL);
    hid_t file = status < 0 ? H5I_INVALID_HID : H5Fopen(path, H5F_ACC_RDWR, properties);
    int64_t failed = file < 0;
    if (file < 0) hdf5_failed(error, path, "cannot be opened for all ranks to write");
    H5Pclose(properties);
    comm_sum_int64(comm, &failed, 1);
    CHECK(failed == 0 || failed == comm_size(comm) || file >= 0, "rank %d: %s", comm_rank(comm), error->message);
    return file;
}

/* Closing is collective, and HDF5 then writes a few bytes at the file's beginning from one rank: the others would wait for ever
 * if that failed. So the disk has to take all the rest first; a file that it does not take is left open, and commands.c keeps
 * HDF5 from closing it at the program's end. */
static int write_together(const char *path, const struct checkpoint *checkpoint, struct comm *comm, struct error *error)
{
    if (access(path, R_OK | W_OK)) error_set(error, STATUS_FAILED, "%s: not seen by every rank: %s", path, strerror(errno));
    if (comm_agree(comm, error)) return error->status;
    hid_t file = open_together(path, comm, error);
    if (comm_agree(comm, error)) return error->status;
    write_tensors(file, path, checkpoint, comm, error);
    if (comm_agree(comm, error)) return error->status; /* with the node's other ranks' share in the file, too, */
    if (comm_local_rank(comm) == 0) flush_file(path, error);
    if (comm_agree(comm, error)) return error->status;
    if (H5Fclose(file) < 0) hdf5_failed(error, path, "cannot be closed");
    return comm_agree(comm, error);
}

/* Step 3: rank 0 gives it its name ------------------------------------------------------------------------------ */

static void flush_folder(const char *path, struct error *error)
{
    char folder[CHECKPOINT_PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int code = fd < 0 || (fsync(fd) && errno != EINVAL) ? errno : 0; /* EINVAL: the file system has no fsync of folders */
    if (fd >= 0) close(fd);
    if (code) error_set(error, STATUS_FAILED, "%s: its folder cannot be flushed to the disk: %s", path, strerror(code));
}

static void name_file(const char *temporary, const char *path, struct error *error)
{
    if (checkpoint_verify(temporary, error) || flush_file(temporary, error)) return;
    if (rename(temporary, path)) {
        error_set(error, STATUS_FAILED, "%s: cannot take its name: %s", path, strerror(errno));
        return;
    }
    flush_folder(path, error);
}

/* A name that no other writer has: Open MPI ties a lock in the node's memory to the file's name, and a killed run leaves it
 * locked. Ends with ".tmp". */
static void temporary_name(char temporary[CHECKPOINT_PATH_BYTES], const char *path, struct error *error)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int used = snprintf(temporary, CHECKPOINT_PATH_BYTES, "%s.%d-%llx%08lx.tmp", path, (int)getpid(),
                        (unsigned long long)now.tv_sec, now.tv_nsec);
    if (used >= CHECKPOINT_PATH_BYTES) error_set(error, STATUS_FAILED, "%.200s...: a name this long is not possible", path);
}

int checkpoint_write(const char *path, const struct checkpoint *checkpoint, struct comm *comm, struct error *error)
{
    char temporary[CHECKPOINT_PATH_BYTES];
    bool leads = comm_rank(comm) == 0;
    CHECK(!checkpoint->adam_m == !checkpoint->adam_v, "a checkpoint with only one of Adam's m and v");
    hdf5_silence();
    if (leads) temporary_name(temporary, path, error);
    if (leads && !error->status) make_file(path, temporary, checkpoint, error);
    if (comm_agree(comm, error)) goto cleanup;
    comm_broadcast(comm, temporary, sizeof temporary, 0);
    if (write_together(temporary, checkpoint, comm, error)) goto cleanup;
    if (leads) name_file(temporary, path, error);
    comm_agree(comm, error);
cleanup:
    if (error->status && leads) unlink(temporary);
    return error->status;
}
