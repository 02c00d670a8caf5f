/* SPDX-License-Identifier: MIT
 *
 * Writing shards: a new file under a temporary name, closed, flushed to the disk and only then given its name, so that a killed
 * program or a full disk leaves no half shard. The same content gives the same bytes. */
#include "survey/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/h5file.h"

static hid_t file_create(const char *path)
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

static herr_t put_attributes(hid_t file, int shard, int shards, const struct survey_identity *identity)
{
    if (h5_integer_put(file, "format_version", H5T_STD_I32LE, SHARD_FORMAT_VERSION) < 0) return -1;
    if (h5_text_put(file, "survey_id", identity->survey_id) < 0) return -1;
    if (h5_text_put(file, "name", identity->name) < 0) return -1;
    if (h5_text_put(file, "band", identity->band) < 0) return -1;
    if (h5_text_put(file, "cuts", identity->cuts ? identity->cuts : "") < 0) return -1;
    if (h5_integer_put(file, "shard", H5T_STD_I32LE, shard) < 0) return -1;
    if (h5_integer_put(file, "shards", H5T_STD_I32LE, shards) < 0) return -1;
    return identity->class_count ? h5_texts_put(file, "classes", identity->class_count, identity->classes) : 0;
}

static herr_t put_ids(hid_t file, const struct curves *curves)
{
    size_t bytes = 1;
    for (int64_t i = 0; i < curves->count; i++) bytes = strlen(curves->id[i]) > bytes ? strlen(curves->id[i]) : bytes;
    char *stored = memory_zeroed((size_t)curves->count, bytes, "the ids of a shard");
    for (int64_t i = 0; i < curves->count; i++) memcpy(stored + (size_t)i * bytes, curves->id[i], strlen(curves->id[i]));
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, bytes);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    herr_t status = h5_dataset_put(file, "id", type, curves->count, stored);
    H5Tclose(type);
    memory_free(stored);
    return status;
}

static herr_t put_curves(hid_t file, const struct curves *curves)
{
    static const uint64_t no_offset = 0;
    if (h5_dataset_put(file, "time", H5T_IEEE_F64LE, curves->observations, curves->time) < 0) return -1;
    if (h5_dataset_put(file, "magnitude", H5T_IEEE_F32LE, curves->observations, curves->magnitude) < 0) return -1;
    if (h5_dataset_put(file, "error", H5T_IEEE_F32LE, curves->observations, curves->error) < 0) return -1;
    const uint64_t *offset = curves->offset ? curves->offset : &no_offset;
    if (h5_dataset_put(file, "offset", H5T_STD_U64LE, curves->count + 1, offset) < 0) return -1;
    if (put_ids(file, curves) < 0) return -1;
    return curves->label ? h5_dataset_put(file, "label", H5T_STD_I32LE, curves->count, curves->label) : 0;
}

/* Makes sure that what was written to a file or a folder is on the disk. */
static int flush(const char *path, int flags, struct error *error)
{
    int fd = open(path, flags | O_CLOEXEC);
    int failed = fd < 0 || (fsync(fd) && errno != EINVAL); /* EINVAL: the file system has no fsync of folders */
    if (failed) error_set(error, STATUS_FAILED, "%s: cannot be flushed to the disk: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return error->status;
}

int shard_write(const char *folder, int shard, int shards, const struct survey_identity *identity, const struct curves *curves,
                struct error *error)
{
    char name[SHARD_NAME_BYTES], path[PATH_MAX], temporary[PATH_MAX + 16];
    struct h5_quiet quiet;
    shard_file_name(name, shard, shards);
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return error_set(error, STATUS_FAILED, "%s: the path is too long", folder);
    snprintf(temporary, sizeof temporary, "%s.partial", path);
    h5_quiet_begin(&quiet);
    hid_t file = file_create(temporary);
    if (file < 0) {
        h5_failed(error, temporary, "cannot be made");
    } else {
        if (put_attributes(file, shard, shards, identity) < 0 || put_curves(file, curves) < 0)
            h5_failed(error, temporary, "cannot be written");
        if (H5Fclose(file) < 0) h5_failed(error, temporary, "cannot be written");
    }
    h5_quiet_end(&quiet);
    if (!error->status) flush(temporary, O_RDONLY, error);
    if (!error->status && rename(temporary, path))
        error_set(error, STATUS_FAILED, "%s: cannot be given its name: %s", temporary, strerror(errno));
    if (!error->status) flush(folder, O_RDONLY | O_DIRECTORY, error);
    if (error->status) unlink(temporary);
    return error->status;
}
