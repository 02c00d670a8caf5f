/* SPDX-License-Identifier: MIT
 *
 * Writing shards: observations are collected in files, one a column, since a dataset's size must be known when it is made; then
 * all goes into a new file under a temporary name, closed, flushed to the disk and only then given its name, so that a killed
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

enum { TIME, MAGNITUDE, ERROR };
static const char *const column_names[SHARD_COLUMNS] = {"time", "magnitude", "error"};

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

static herr_t put_curves(hid_t file, const struct curves *curves, const int column[SHARD_COLUMNS])
{
    static const uint64_t no_offset = 0;
    if (h5_dataset_copy(file, "time", H5T_IEEE_F64LE, curves->observations, column[TIME]) < 0) return -1;
    if (h5_dataset_copy(file, "magnitude", H5T_IEEE_F32LE, curves->observations, column[MAGNITUDE]) < 0) return -1;
    if (h5_dataset_copy(file, "error", H5T_IEEE_F32LE, curves->observations, column[ERROR]) < 0) return -1;
    const uint64_t *offset = curves->offset ? curves->offset : &no_offset;
    if (h5_dataset_put(file, "offset", H5T_STD_U64LE, curves->count + 1, offset) < 0) return -1;
    if (h5_strings_put(file, "id", curves->count, curves->id) < 0) return -1;
    return curves->label ? h5_dataset_put(file, "label", H5T_STD_I32LE, curves->count, curves->label) : 0;
}

int shard_begin(struct shard_writer *writer, const char *folder, int shard, int shards, struct error *error)
{
    char name[SHARD_NAME_BYTES], temporary[SHARD_PATH_BYTES + 32];
    *writer = (struct shard_writer){.shard = shard, .shards = shards, .column = {-1, -1, -1}};
    shard_file_name(name, shard, shards);
    if (snprintf(writer->path, sizeof writer->path, "%s/%s", folder, name) >= (int)sizeof writer->path)
        return error_set(error, STATUS_FAILED, "%s: the path is too long", folder);
    for (int c = 0; c < SHARD_COLUMNS; c++) {
        snprintf(temporary, sizeof temporary, "%s.%s.partial", writer->path, column_names[c]);
        writer->column[c] = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (writer->column[c] < 0) return error_set(error, STATUS_FAILED, "%s: cannot be made: %s", temporary, strerror(errno));
        unlink(temporary); /* it lives as long as it is open */
    }
    return STATUS_OK;
}

static int write_column(struct shard_writer *writer, int column, const void *values, size_t bytes, struct error *error)
{
    const char *data = values;
    while (bytes) {
        ssize_t written = write(writer->column[column], data, bytes);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0)
            return error_set(error, STATUS_FAILED, "%s: cannot be written (%s): %s", writer->path, column_names[column],
                             strerror(errno));
        data += written;
        bytes -= (size_t)written;
    }
    return STATUS_OK;
}

/* Offsets, ids (one behind the other in id_text) and labels of more light curves. */
static void append_index(struct shard_writer *writer, const struct curves *curves)
{
    struct curves *index = &writer->index;
    size_t count = (size_t)(index->count + curves->count);
    memory_grow((void **)&index->offset, &writer->offset_room, count + 1, sizeof *index->offset, "the index of a shard");
    if (curves->label)
        memory_grow((void **)&index->label, &writer->label_room, count + 1, sizeof *index->label, "the index of a shard");
    index->offset[0] = 0;
    for (int64_t c = 0; c < curves->count; c++) {
        size_t bytes = strlen(curves->id[c]) + 1;
        memory_grow((void **)&index->id_text, &writer->text_room, writer->text_bytes + bytes, 1, "the ids of a shard");
        memcpy(index->id_text + writer->text_bytes, curves->id[c], bytes);
        writer->text_bytes += bytes;
        index->offset[index->count + c + 1] = (uint64_t)index->observations + curves->offset[c + 1];
        if (curves->label) index->label[index->count + c] = curves->label[c];
    }
    index->count += curves->count;
    index->observations += curves->observations;
}

int shard_append(struct shard_writer *writer, const struct curves *curves, struct error *error)
{
    size_t rows = (size_t)curves->observations;
    if (write_column(writer, TIME, curves->time, rows * sizeof *curves->time, error)) return error->status;
    if (write_column(writer, MAGNITUDE, curves->magnitude, rows * sizeof *curves->magnitude, error)) return error->status;
    if (write_column(writer, ERROR, curves->error, rows * sizeof *curves->error, error)) return error->status;
    append_index(writer, curves);
    return STATUS_OK;
}

static void write_file(const struct shard_writer *writer, const char *temporary, const struct survey_identity *identity,
                       struct error *error)
{
    struct h5_quiet quiet;
    h5_quiet_begin(&quiet);
    hid_t file = h5_file_create(temporary);
    if (file < 0) {
        h5_failed(error, temporary, "cannot be made");
    } else {
        if (put_attributes(file, writer->shard, writer->shards, identity) < 0 ||
            put_curves(file, &writer->index, writer->column) < 0)
            h5_failed(error, temporary, "cannot be written");
        if (H5Fclose(file) < 0) h5_failed(error, temporary, "cannot be written");
    }
    h5_quiet_end(&quiet);
}

/* Pointers to the ids, now that their text stays where it is. */
static void point_to_ids(struct curves *index)
{
    char *next = index->id_text;
    index->id = memory_new((size_t)index->count, sizeof *index->id, "the ids of a shard");
    for (int64_t c = 0; c < index->count; c++) {
        index->id[c] = next;
        next += strlen(next) + 1;
    }
}

int shard_finish(struct shard_writer *writer, const struct survey_identity *identity, struct error *error)
{
    char temporary[SHARD_PATH_BYTES + 16];
    if (!error->status) {
        snprintf(temporary, sizeof temporary, "%s.partial", writer->path);
        point_to_ids(&writer->index);
        write_file(writer, temporary, identity, error);
        h5_file_take_name(temporary, writer->path, error);
    }
    for (int c = 0; c < SHARD_COLUMNS; c++)
        if (writer->column[c] >= 0) close(writer->column[c]);
    curves_release(&writer->index);
    return error->status;
}

int shard_write(const char *folder, int shard, int shards, const struct survey_identity *identity, const struct curves *curves,
                struct error *error)
{
    struct shard_writer writer;
    if (!shard_begin(&writer, folder, shard, shards, error)) shard_append(&writer, curves, error);
    return shard_finish(&writer, identity, error);
}
