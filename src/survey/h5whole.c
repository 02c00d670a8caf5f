/* SPDX-License-Identifier: MIT
 *
 * HDF5 files as wholes: opened for reading with a line of error that says what is wrong, or made under a temporary name, flushed
 * to the disk and only then given their own, so that a killed program or a full disk leaves no half file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "survey/h5file.h"

int h5_file_open(const char *path, int *fd, hid_t *file, int64_t *bytes, struct error *error)
{
    struct stat status;
    *file = H5I_INVALID_HID;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe in its place must not make us wait */
    if (*fd < 0 || fstat(*fd, &status)) return error_set(error, STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode)) return error_set(error, STATUS_FAILED, "%s: is not a file", path);
    if (status.st_size == 0) return error_set(error, STATUS_FAILED, "%s: is empty", path);
    *bytes = status.st_size;
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true); /* locks fail on many cluster file systems, and nobody writes a finished file */
    *file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (*file < 0 && H5Fis_hdf5(path) <= 0)
        return error_set(error, STATUS_FAILED, "%s: is not an HDF5 file, or its beginning is damaged", path);
    if (*file < 0) return h5_failed(error, path, "is damaged or cut short");
    return STATUS_OK;
}

void h5_file_close(int fd, hid_t file)
{
    if (file >= 0) H5Fclose(file);
    if (fd >= 0) close(fd);
}

hid_t h5_file_create(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST); /* this format has checksums over its own structures */
    H5Pset_file_locking(access, false, true);
    H5Pset_obj_track_times(create, false);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    H5Pclose(access);
    H5Pclose(create);
    return file;
}

/* Makes sure that what was written is on the disk. */
static int flush(const char *path, struct error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd);
    if (failed) error_set(error, STATUS_FAILED, "%s: cannot be flushed to the disk: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return error->status;
}

int h5_file_take_name(const char *temporary, const char *path, struct error *error)
{
    if (!error->status) flush(temporary, error);
    if (!error->status && rename(temporary, path))
        error_set(error, STATUS_FAILED, "%s: cannot be given its name: %s", temporary, strerror(errno));
    if (error->status) unlink(temporary);
    return error->status;
}
