/* SPDX-License-Identifier: MIT
 *
 * Reading shards. Opening one reads and checks all of it, also where the observations stay on disk: a flipped byte must end in
 * a line that names the file, never in a light curve. Writing is in shard_write.c. */
#include "survey/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/h5file.h"

enum { SCAN_BYTES = 1 << 20 };

void survey_identity_release(struct survey_identity *identity)
{
    for (int i = 0; i < identity->class_count; i++) memory_free(identity->classes[i]);
    memory_free(identity->classes);
    memory_free(identity->cuts);
    *identity = (struct survey_identity){0};
}

void curves_release(struct curves *curves)
{
    memory_free(curves->offset);
    memory_free(curves->time);
    memory_free(curves->magnitude);
    memory_free(curves->error);
    memory_free(curves->id);
    memory_free(curves->id_text);
    memory_free(curves->label);
    *curves = (struct curves){0};
}

void shard_file_name(char name[SHARD_NAME_BYTES], int shard, int shards)
{
    snprintf(name, SHARD_NAME_BYTES, "shard-%05d-of-%05d.h5", shard, shards);
}

/* A text attribute into a fixed buffer. */
static int text_copy(hid_t file, const char *path, const char *name, bool optional, char *out, size_t bytes, struct error *error)
{
    char *text;
    out[0] = 0;
    if (h5_text_get(file, path, name, optional, &text, error)) return error->status;
    if (text && strlen(text) >= bytes)
        error_set(error, STATUS_FAILED, "%s: attribute %s is longer than %zu characters", path, name, bytes - 1);
    else if (text)
        strcpy(out, text);
    memory_free(text);
    return error->status;
}

static int read_attributes(struct shard *shard, hid_t file, struct error *error)
{
    int64_t version = 0, index = 0, shards = 0;
    const char *path = shard->path;
    struct survey_identity *identity = &shard->identity;
    if (h5_integer_get(file, path, "format_version", &version, error)) return error_prefix(error, "not a shard");
    if (version != SHARD_FORMAT_VERSION)
        return error_set(error, STATUS_FAILED, "%s: has shard format version %lld, this program reads version %d", path,
                         (long long)version, SHARD_FORMAT_VERSION);
    if (h5_integer_get(file, path, "shard", &index, error)) return error->status;
    if (h5_integer_get(file, path, "shards", &shards, error)) return error->status;
    if (shards < 1 || shards > INT32_MAX || index < 0 || index >= shards)
        return error_set(error, STATUS_FAILED, "%s: says it is shard %lld of %lld", path, (long long)index, (long long)shards);
    shard->index = (int)index;
    shard->shards = (int)shards;
    if (text_copy(file, path, "survey_id", false, identity->survey_id, sizeof identity->survey_id, error)) return error->status;
    if (text_copy(file, path, "name", true, identity->name, sizeof identity->name, error)) return error->status;
    if (text_copy(file, path, "band", true, identity->band, sizeof identity->band, error)) return error->status;
    if (h5_text_get(file, path, "cuts", true, &identity->cuts, error)) return error->status;
    if (!identity->cuts) identity->cuts = memory_string("");
    return h5_texts_get(file, path, "classes", &identity->class_count, &identity->classes, error);
}

/* offset: curves + 1 numbers from 0 to the observations, each curve with at least one. */
static int read_offsets(struct shard *shard, hid_t file, int64_t file_bytes, struct error *error)
{
    struct h5_dataset dataset;
    void *values;
    if (!h5_dataset_open(&dataset, file, shard->path, "offset", H5T_INTEGER, file_bytes, error) &&
        !h5_numbers_read(&dataset, H5T_NATIVE_UINT64, &values, error)) {
        shard->offset = values;
        shard->count = dataset.count - 1;
    }
    h5_dataset_close(&dataset);
    if (error->status) return error->status;
    if (shard->count < 0)
        return error_set(error, STATUS_FAILED, "%s: dataset offset is empty, it must start with 0", shard->path);
    if (shard->offset[0] != 0) return error_set(error, STATUS_FAILED, "%s: dataset offset does not start with 0", shard->path);
    for (int64_t i = 0; i < shard->count; i++) {
        if (shard->offset[i + 1] <= shard->offset[i] || shard->offset[i + 1] > INT64_MAX / 32)
            return error_set(error, STATUS_FAILED, "%s: dataset offset does not grow at light curve %lld", shard->path,
                             (long long)i);
    }
    shard->observations = (int64_t)shard->offset[shard->count];
    return STATUS_OK;
}

static int wrong_count(const struct shard *shard, const char *name, int64_t count, int64_t wanted, struct error *error)
{
    return error_set(error, STATUS_FAILED, "%s: dataset %s has %lld elements, the offsets ask for %lld", shard->path, name,
                     (long long)count, (long long)wanted);
}

static int read_ids(struct shard *shard, hid_t file, int64_t file_bytes, struct error *error)
{
    struct h5_dataset dataset;
    if (!h5_dataset_open(&dataset, file, shard->path, "id", H5T_STRING, file_bytes, error)) {
        if (dataset.count != shard->count)
            wrong_count(shard, "id", dataset.count, shard->count, error);
        else
            h5_strings_read(&dataset, &shard->id, &shard->id_text, error);
    }
    h5_dataset_close(&dataset);
    return error->status;
}

static int read_labels(struct shard *shard, hid_t file, int64_t file_bytes, struct error *error)
{
    struct h5_dataset dataset;
    void *values = NULL;
    if (H5Lexists(file, "label", H5P_DEFAULT) == 0) return STATUS_OK;
    if (!h5_dataset_open(&dataset, file, shard->path, "label", H5T_INTEGER, file_bytes, error)) {
        if (dataset.count != shard->count)
            wrong_count(shard, "label", dataset.count, shard->count, error);
        else
            h5_numbers_read(&dataset, H5T_NATIVE_INT32, &values, error);
    }
    h5_dataset_close(&dataset);
    shard->label = values;
    for (int64_t i = 0; !error->status && i < shard->count; i++) {
        if (shard->label[i] < -1 || shard->label[i] >= shard->identity.class_count)
            error_set(error, STATUS_FAILED, "%s: light curve %s has label %d, but there are %d classes", shard->path,
                      shard->id[i], shard->label[i], shard->identity.class_count);
    }
    return error->status;
}

/* The three datasets of observations. */
enum column { TIME, MAGNITUDE, ERROR, COLUMNS };
static const char *const column_name[COLUMNS] = {"time", "magnitude", "error"};
static const size_t column_bytes[COLUMNS] = {sizeof(double), sizeof(float), sizeof(float)};

/* Checks values that follow one another through a column; *curve is the one that observation `first` lies in or behind. */
static int check_times(const struct shard *shard, const double *time, int64_t first, int64_t count, int64_t *curve, double *last,
                       struct error *error)
{
    for (int64_t i = 0; i < count; i++) {
        while ((uint64_t)(first + i) >= shard->offset[*curve + 1]) {
            ++*curve;
            *last = -INFINITY;
        }
        if (!isfinite(time[i]) || time[i] < *last)
            return error_set(error, STATUS_FAILED, "%s: light curve %s has a time that is %s", shard->path, shard->id[*curve],
                             isfinite(time[i]) ? "before the one ahead of it" : "not a number");
        *last = time[i];
    }
    return STATUS_OK;
}

static int check_values(const struct shard *shard, int column, const float *values, int64_t first, int64_t count,
                        struct error *error)
{
    for (int64_t i = 0; i < count; i++) {
        if (isfinite(values[i]) && (column == MAGNITUDE || (values[i] > 0 && isfinite(1 / values[i])))) continue;
        int64_t curve = 0;
        while (shard->offset[curve + 1] <= (uint64_t)(first + i)) curve++;
        return error_set(error, STATUS_FAILED,
                         "%s: light curve %s: dataset %s holds the value %g; make the survey again without it", shard->path,
                         shard->id[curve], column_name[column], (double)values[i]);
    }
    return STATUS_OK;
}

/* When the file last changed. */
static int64_t modified_ns(int fd)
{
    struct stat status;
    if (fstat(fd, &status)) return -1;
    return (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec;
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    for (const unsigned char *c = data; bytes--; c++) hash = (hash ^ *c) * 0x100000001b3u;
    return hash;
}

static void hash_content(struct shard *shard, const struct h5_dataset dataset[COLUMNS])
{
    uint64_t hash = hash_bytes(0xcbf29ce484222325u, shard->identity.survey_id, strlen(shard->identity.survey_id));
    hash = hash_bytes(hash, shard->offset, ((size_t)shard->count + 1) * sizeof *shard->offset);
    for (int64_t c = 0; c < shard->count; c++) hash = hash_bytes(hash, shard->id[c], strlen(shard->id[c]) + 1);
    for (int c = 0; c < COLUMNS; c++)
        if (dataset[c].has_crc) hash = hash_bytes(hash, &dataset[c].crc, sizeof dataset[c].crc);
    shard->content = hash;
}

static int load_column(struct shard *shard, int column, const struct h5_dataset *dataset, struct error *error)
{
    void *values;
    int64_t curve = 0;
    double last = -INFINITY;
    if (h5_numbers_read(dataset, column == TIME ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, &values, error)) return error->status;
    if (column == TIME) {
        shard->time = values;
        return check_times(shard, values, 0, shard->observations, &curve, &last, error);
    }
    if (column == MAGNITUDE) shard->magnitude = values;
    if (column == ERROR) shard->error = values;
    return check_values(shard, column, values, 0, shard->observations, error);
}

/* All bytes or an error. */
static int read_exactly(const struct shard *shard, void *out, int64_t bytes, int64_t position, struct error *error)
{
    char *next = out;
    while (bytes > 0) {
        ssize_t got = pread(shard->fd, next, (size_t)bytes, position);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, STATUS_FAILED, "%s: cannot be read: %s", shard->path, strerror(errno));
        if (got == 0) return error_set(error, STATUS_FAILED, "%s: became shorter while it was in use", shard->path);
        next += got;
        position += got;
        bytes -= got;
    }
    return STATUS_OK;
}

/* Reads a column that stays on disk once, piece by piece, to check it. */
static int scan_column(const struct shard *shard, int column, const struct h5_dataset *dataset, struct error *error)
{
    int64_t curve = 0, piece = SCAN_BYTES / (int64_t)column_bytes[column];
    double last = -INFINITY;
    uint32_t crc = 0;
    void *values = memory_new(SCAN_BYTES, 1, "a piece of a shard");
    for (int64_t first = 0; !error->status && first < shard->observations; first += piece) {
        int64_t count = shard->observations - first < piece ? shard->observations - first : piece;
        int64_t bytes = count * (int64_t)column_bytes[column];
        if (read_exactly(shard, values, bytes, dataset->position + first * (int64_t)column_bytes[column], error)) break;
        crc = h5_crc(crc, values, (size_t)bytes);
        if (column == TIME)
            check_times(shard, values, first, count, &curve, &last, error);
        else
            check_values(shard, column, values, first, count, error);
    }
    memory_free(values);
    return error->status ? error->status : h5_crc_check(dataset, crc, error);
}

static int read_observations(struct shard *shard, hid_t file, int64_t file_bytes, bool scan, struct error *error)
{
    struct h5_dataset dataset[COLUMNS] = {{0}};
    int64_t *position[COLUMNS] = {&shard->time_position, &shard->magnitude_position, &shard->error_position};
    for (int c = 0; c < COLUMNS && !error->status; c++) {
        if (h5_dataset_open(&dataset[c], file, shard->path, column_name[c], H5T_FLOAT, file_bytes, error)) break;
        if (dataset[c].count != shard->observations)
            wrong_count(shard, column_name[c], dataset[c].count, shard->observations, error);
        else if (dataset[c].element_bytes < column_bytes[c])
            error_set(error, STATUS_FAILED, "%s: dataset %s has %zu-byte numbers, it needs %zu bytes for its precision",
                      shard->path, column_name[c], dataset[c].element_bytes, column_bytes[c]);
        /* What another tool chunked, compressed or stored as other numbers cannot be read in place. */
        if (dataset[c].position < 0 || H5Tequal(dataset[c].type, c == TIME ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT) <= 0)
            shard->resident = true;
        *position[c] = dataset[c].position;
        shard->checked_crc[c] = dataset[c].has_crc;
        shard->crc[c] = dataset[c].crc;
    }
    for (int c = 0; c < COLUMNS && !error->status; c++) {
        if (shard->resident)
            load_column(shard, c, &dataset[c], error);
        else if (scan)
            scan_column(shard, c, &dataset[c], error);
    }
    if (!error->status) hash_content(shard, dataset);
    for (int c = 0; c < COLUMNS; c++) h5_dataset_close(&dataset[c]);
    return error->status;
}

static int open_parts(struct shard *shard, const char *path, bool resident, bool scan, struct error *error)
{
    struct h5_quiet quiet;
    hid_t file;
    int64_t bytes = 0;
    *shard = (struct shard){.path = memory_string(path), .resident = resident, .fd = -1};
    h5_quiet_begin(&quiet);
    if (h5_file_open(path, &shard->fd, &file, &bytes, error)) goto cleanup;
    shard->modified_ns = memory_new(1, sizeof *shard->modified_ns, "a shard");
    *shard->modified_ns = modified_ns(shard->fd);
    if (read_attributes(shard, file, error)) goto cleanup;
    if (read_offsets(shard, file, bytes, error)) goto cleanup;
    if (read_ids(shard, file, bytes, error)) goto cleanup;
    if (read_labels(shard, file, bytes, error)) goto cleanup;
    read_observations(shard, file, bytes, scan, error);
cleanup:
    h5_file_close(error->status || shard->resident ? shard->fd : -1, file);
    if (error->status || shard->resident) shard->fd = -1;
    h5_quiet_end(&quiet);
    if (error->status) shard_close(shard);
    return error->status;
}

int shard_open(struct shard *shard, const char *path, bool resident, struct error *error)
{
    return open_parts(shard, path, resident, true, error);
}

int shard_probe(const char *path, struct error *error)
{
    struct shard shard;
    if (!open_parts(&shard, path, false, false, error)) shard_close(&shard);
    return error->status;
}

void shard_close(struct shard *shard)
{
    if (shard->path && shard->fd >= 0) close(shard->fd);
    survey_identity_release(&shard->identity);
    memory_free(shard->path);
    memory_free(shard->offset);
    memory_free(shard->id);
    memory_free(shard->id_text);
    memory_free(shard->label);
    memory_free(shard->time);
    memory_free(shard->magnitude);
    memory_free(shard->error);
    memory_free(shard->modified_ns);
    *shard = (struct shard){.fd = -1};
}

int shard_bytes(const char *path, int64_t *bytes, struct error *error)
{
    struct h5_quiet quiet;
    struct h5_dataset dataset = {0};
    hid_t file;
    int fd;
    int64_t file_bytes = 0;
    *bytes = 0;
    h5_quiet_begin(&quiet);
    if (!h5_file_open(path, &fd, &file, &file_bytes, error) &&
        !h5_dataset_open(&dataset, file, path, "time", H5T_FLOAT, file_bytes, error))
        *bytes = dataset.count * (int64_t)(column_bytes[TIME] + column_bytes[MAGNITUDE] + column_bytes[ERROR]);
    h5_dataset_close(&dataset);
    h5_file_close(fd, file);
    h5_quiet_end(&quiet);
    return error->status;
}

static int column_crc(const struct shard *shard, int column, uint32_t *crc, struct error *error)
{
    const int64_t positions[COLUMNS] = {shard->time_position, shard->magnitude_position, shard->error_position};
    int64_t bytes = shard->observations * (int64_t)column_bytes[column];
    void *values = memory_new(SCAN_BYTES, 1, "a piece of a shard");
    *crc = 0;
    for (int64_t done = 0; done < bytes; done += SCAN_BYTES) {
        int64_t piece = bytes - done < SCAN_BYTES ? bytes - done : SCAN_BYTES;
        if (read_exactly(shard, values, piece, positions[column] + done, error)) break;
        *crc = h5_crc(*crc, values, (size_t)piece);
    }
    memory_free(values);
    return error->status;
}

/* What was just read is what was checked when the shard was opened. A file that was only touched is read through once more. */
static int check_unchanged(const struct shard *shard, struct error *error)
{
    int64_t now = modified_ns(shard->fd);
    if (now == __atomic_load_n(shard->modified_ns, __ATOMIC_RELAXED)) return STATUS_OK;
    for (int c = 0; c < COLUMNS; c++) {
        uint32_t crc = 0;
        if (shard->checked_crc[c] && column_crc(shard, c, &crc, error)) return error->status;
        if (!shard->checked_crc[c] || crc != shard->crc[c])
            return error_set(error, STATUS_FAILED, "%s: was changed while it was in use; put it back as it was and start again",
                             shard->path);
    }
    __atomic_store_n(shard->modified_ns, now, __ATOMIC_RELAXED);
    return STATUS_OK;
}

int shard_read(const struct shard *shard, int64_t curve, int64_t first, int64_t count, double *time, float *magnitude,
               float *error_mag, struct error *error)
{
    CHECK(curve >= 0 && curve < shard->count && first >= 0 && count >= 0 &&
              first + count <= (int64_t)(shard->offset[curve + 1] - shard->offset[curve]),
          "%s: observations %lld + %lld of light curve %lld do not exist", shard->path, (long long)first, (long long)count,
          (long long)curve);
    int64_t start = (int64_t)shard->offset[curve] + first;
    if (shard->resident) {
        memcpy(time, shard->time + start, (size_t)count * sizeof *time);
        memcpy(magnitude, shard->magnitude + start, (size_t)count * sizeof *magnitude);
        memcpy(error_mag, shard->error + start, (size_t)count * sizeof *error_mag);
        return STATUS_OK;
    }
    if (read_exactly(shard, time, count * 8, shard->time_position + start * 8, error)) return error->status;
    if (read_exactly(shard, magnitude, count * 4, shard->magnitude_position + start * 4, error)) return error->status;
    if (read_exactly(shard, error_mag, count * 4, shard->error_position + start * 4, error)) return error->status;
    return check_unchanged(shard, error);
}
