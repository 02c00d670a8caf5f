/* SPDX-License-Identifier: MIT
 *
 * The writing end of a spill. A file is opened for each flush and closed again: thousands of shards need no thousands of open
 * files. */
#include "survey/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/spill_file.h"

enum { BUFFERS_BYTES = 16 << 20, BUCKET_BYTES_LEAST = 1 << 12, BUCKET_BYTES_MOST = SPILL_RUN_BYTES_MOST };

struct bucket {
    unsigned char *data; /* taken when the shard gets its first row */
    size_t used;
};

uint64_t mix64(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

uint64_t bytes_hash(const void *bytes, size_t count)
{
    const unsigned char *p = bytes;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return mix64(hash);
}

void spill_file_path(char path[PATH_MAX], const char *folder, int rank, int shard)
{
    snprintf(path, PATH_MAX, "%s/spill-%05d-%05d", folder, rank, shard);
}

void spill_begin(struct spill *spill, const char *folder, int rank, int shards)
{
    size_t bytes = BUFFERS_BYTES / (size_t)shards;
    bytes = bytes < BUCKET_BYTES_LEAST ? BUCKET_BYTES_LEAST : bytes > BUCKET_BYTES_MOST ? BUCKET_BYTES_MOST : bytes;
    *spill = (struct spill){.folder = folder, .rank = rank, .shards = shards, .bucket_bytes = bytes & ~(size_t)15};
    spill->bucket = memory_zeroed((size_t)shards, sizeof *spill->bucket, "the buffers of an ingest");
}

void spill_release(struct spill *spill)
{
    for (int s = 0; spill->bucket && s < spill->shards; s++) memory_free(spill->bucket[s].data);
    memory_free(spill->bucket);
    *spill = (struct spill){0};
}

static int write_all(int fd, const char *path, const unsigned char *data, size_t bytes, struct error *error)
{
    while (bytes) {
        ssize_t written = write(fd, data, bytes);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return error_set(error, STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
        data += written;
        bytes -= (size_t)written;
    }
    return STATUS_OK;
}

static int flush(struct spill *spill, struct bucket *bucket, struct error *error)
{
    char path[PATH_MAX];
    if (bucket->used == 0) return STATUS_OK;
    spill_file_path(path, spill->folder, spill->rank, (int)(bucket - spill->bucket));
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return error_set(error, STATUS_FAILED, "%s: cannot be made: %s", path, strerror(errno));
    write_all(fd, path, bucket->data, bucket->used, error);
    if (close(fd)) error_set(error, STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    bucket->used = 0;
    return error->status;
}

/* Starts a run of the present star in its bucket, with room for at least one row. */
static int run_begin(struct spill *spill, struct error *error)
{
    struct bucket *bucket = spill->current;
    size_t id_room = spill_id_room(spill->id_bytes), bytes = sizeof(struct run_header) + id_room;
    if (!bucket->data) bucket->data = memory_new(spill->bucket_bytes, 1, "the buffer of a shard");
    if (bucket->used + bytes + sizeof(struct observation) > spill->bucket_bytes && flush(spill, bucket, error))
        return error->status;
    struct run_header header = {0, (uint32_t)spill->id_bytes, spill->source, 0};
    spill->run = bucket->used;
    memcpy(bucket->data + bucket->used, &header, sizeof header);
    memset(bucket->data + bucket->used + sizeof header, 0, id_room);
    memcpy(bucket->data + bucket->used + sizeof header, spill->id, spill->id_bytes);
    bucket->used += bytes;
    return STATUS_OK;
}

int spill_star(struct spill *spill, const char *id, size_t id_bytes, uint32_t source, struct error *error)
{
    if (spill->current && id_bytes == spill->id_bytes && source == spill->source && !memcmp(id, spill->id, id_bytes))
        return STATUS_OK;
    CHECK(id_bytes >= 1 && id_bytes <= SPILL_ID_BYTES_MOST, "an id of %zu bytes", id_bytes);
    memcpy(spill->id, id, id_bytes);
    spill->id_bytes = id_bytes;
    spill->id_hash = bytes_hash(id, id_bytes);
    spill->source = source;
    spill->current = &spill->bucket[spill->id_hash % (uint64_t)spill->shards];
    return run_begin(spill, error);
}

int spill_row(struct spill *spill, const struct observation *observation, struct error *error)
{
    struct bucket *bucket = spill->current;
    uint64_t time_bits, other_bits;
    if (bucket->used + sizeof *observation > spill->bucket_bytes) {
        if (flush(spill, bucket, error) || run_begin(spill, error)) return error->status;
    }
    memcpy(bucket->data + bucket->used, observation, sizeof *observation);
    bucket->used += sizeof *observation;
    ((struct run_header *)(void *)(bucket->data + spill->run))->rows++;
    memcpy(&time_bits, &observation->time, sizeof time_bits);
    memcpy(&other_bits, (const char *)observation + offsetof(struct observation, magnitude), sizeof other_bits);
    spill->content += mix64(spill->id_hash ^ mix64(time_bits ^ mix64(other_bits)));
    return STATUS_OK;
}

int spill_finish(struct spill *spill, struct error *error)
{
    spill->current = NULL;
    for (int s = 0; s < spill->shards; s++)
        if (flush(spill, &spill->bucket[s], error)) break;
    return error->status;
}

void spill_remove(const char *folder, int ranks, int shard)
{
    char path[PATH_MAX];
    for (int r = 0; r < ranks; r++) {
        spill_file_path(path, folder, r, shard);
        unlink(path);
    }
}
