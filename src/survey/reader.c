/* SPDX-License-Identifier: MIT
 *
 * Reading lines. zlib's gzread hides damage behind the first member of a gzip file, so the members are walked here. */
#include "survey/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <zlib.h>

#include "base/memory.h"

enum {
    BUFFER_BYTES = 1 << 18,
    LINE_BYTES_MOST = 1 << 28, /* nothing that long is a table */
    ZIPPED_BYTES = 1 << 16,
    GZIP_WINDOW = 15 + 16 /* zlib's largest window, gzip header and trailer expected */
};

struct unzip {
    z_stream stream;
    bool in_member; /* between a member's header and its checksum */
    bool input_ended;
    unsigned char input[ZIPPED_BYTES];
};

/* read(2) that is not disturbed by signals: bytes read, 0 at the end. */
static int read_some(struct reader *reader, void *out, size_t bytes, size_t *got, struct error *error)
{
    for (;;) {
        ssize_t n = read(reader->fd, out, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_set(error, STATUS_FAILED, "%s: cannot be read: %s", reader->path, strerror(errno));
        *got = (size_t)n;
        return STATUS_OK;
    }
}

static int refill_input(struct reader *reader, struct error *error)
{
    struct unzip *unzip = reader->unzip;
    size_t got = 0;
    if (unzip->stream.avail_in || unzip->input_ended) return STATUS_OK;
    if (read_some(reader, unzip->input, ZIPPED_BYTES, &got, error)) return error->status;
    unzip->stream.next_in = unzip->input;
    unzip->stream.avail_in = (uInt)got;
    unzip->input_ended = got == 0;
    return STATUS_OK;
}

static int damaged(const struct reader *reader, const char *why, struct error *error)
{
    return error_set(error, STATUS_FAILED, "%s: the gzip file is damaged after line %lld (%s); fetch it again", reader->path,
                     (long long)reader->line, why ? why : "wrong content");
}

/* Between members: tar and tape leave zeros behind the last one, anything else but another member is damage. */
static int next_member(struct reader *reader, bool *ended, struct error *error)
{
    struct unzip *unzip = reader->unzip;
    *ended = false;
    for (;;) {
        if (refill_input(reader, error)) return error->status;
        while (unzip->stream.avail_in && *unzip->stream.next_in == 0) {
            unzip->stream.next_in++;
            unzip->stream.avail_in--;
        }
        if (unzip->stream.avail_in) break;
        if (unzip->input_ended) {
            *ended = true;
            return STATUS_OK;
        }
    }
    CHECK(inflateReset(&unzip->stream) == Z_OK, "inflateReset failed");
    unzip->in_member = true;
    return STATUS_OK;
}

/* Unzips some bytes; 0 only at the end of the file. */
static int unzip_some(struct reader *reader, void *out, size_t bytes, size_t *got, struct error *error)
{
    struct unzip *unzip = reader->unzip;
    unzip->stream.next_out = out;
    unzip->stream.avail_out = (uInt)bytes;
    *got = 0;
    while (*got == 0) {
        bool ended = false;
        if (!unzip->in_member && next_member(reader, &ended, error)) return error->status;
        if (ended) return STATUS_OK;
        if (refill_input(reader, error)) return error->status;
        if (unzip->input_ended)
            return error_set(error, STATUS_FAILED, "%s: the gzip file is cut short after line %lld; fetch it again", reader->path,
                             (long long)reader->line);
        int status = inflate(&unzip->stream, Z_NO_FLUSH);
        if (status == Z_STREAM_END)
            unzip->in_member = false;
        else if (status != Z_OK && status != Z_BUF_ERROR)
            return damaged(reader, unzip->stream.msg, error);
        *got = bytes - unzip->stream.avail_out;
    }
    return STATUS_OK;
}

/* Makes room and reads more into the buffer, or notes that the file has ended. */
static int fill(struct reader *reader, struct error *error)
{
    memmove(reader->buffer, reader->buffer + reader->start, reader->end - reader->start);
    reader->end -= reader->start;
    reader->start = 0;
    if (reader->end == reader->capacity) {
        if (reader->capacity >= LINE_BYTES_MOST)
            return error_set(error, STATUS_FAILED, "%s: line %lld is longer than %d MB, this is no table of observations",
                             reader->path, (long long)reader->line + 1, LINE_BYTES_MOST >> 20);
        memory_grow((void **)&reader->buffer, &reader->capacity, reader->capacity + 1, 1, "a long line");
    }
    size_t room = reader->capacity - reader->end, got = 0;
    int status = reader->unzip ? unzip_some(reader, reader->buffer + reader->end, room, &got, error)
                               : read_some(reader, reader->buffer + reader->end, room, &got, error);
    if (status) return status;
    reader->ended = got == 0;
    reader->end += got;
    return STATUS_OK;
}

/* The file starts like gzip: what has been read of it becomes the input of zlib. */
static int begin_unzip(struct reader *reader, struct error *error)
{
    struct unzip *unzip = reader->unzip = memory_zeroed(1, sizeof *unzip, "unpacking gzip");
    CHECK(reader->end <= ZIPPED_BYTES, "the first bytes of a gzip file do not fit");
    memcpy(unzip->input, reader->buffer, reader->end);
    unzip->stream.next_in = unzip->input;
    unzip->stream.avail_in = (uInt)reader->end;
    unzip->in_member = true;
    reader->end = 0;
    reader->ended = false;
    CHECK(inflateInit2(&unzip->stream, GZIP_WINDOW) == Z_OK, "inflateInit2 failed");
    return fill(reader, error);
}

int reader_open(struct reader *reader, const char *path, struct error *error)
{
    static const unsigned char gzip_magic[2] = {0x1f, 0x8b};
    *reader = (struct reader){.path = memory_string(path), .capacity = BUFFER_BYTES};
    reader->buffer = memory_new(reader->capacity, 1, "reading lines");
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0) {
        error_set(error, STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
        goto failed;
    }
    /* Two bytes tell gzip; a pipe may give them one by one. */
    while (reader->end < 2 && !reader->ended) {
        size_t got = 0;
        if (read_some(reader, reader->buffer + reader->end, ZIPPED_BYTES - reader->end, &got, error)) goto failed;
        reader->ended = got == 0;
        reader->end += got;
    }
    if (reader->end >= 2 && !memcmp(reader->buffer, gzip_magic, 2) && begin_unzip(reader, error)) goto failed;
    while (reader->end < reader->capacity && !reader->ended)
        if (fill(reader, error)) goto failed;
    if (reader->end == 0) {
        error_set(error, STATUS_FAILED, "%s: is empty", path);
        goto failed;
    }
    if (reader->end >= 3 && !memcmp(reader->buffer, "\xef\xbb\xbf", 3)) reader->start = 3;
    return STATUS_OK;
failed:
    reader_close(reader);
    return error->status;
}

void reader_close(struct reader *reader)
{
    if (reader->path && reader->fd >= 0) close(reader->fd);
    if (reader->unzip) inflateEnd(&reader->unzip->stream);
    memory_free(reader->unzip);
    memory_free(reader->buffer);
    memory_free(reader->path);
    *reader = (struct reader){0};
}

static struct text without_return(char *start, size_t length)
{
    if (length > 0 && start[length - 1] == '\r') length--;
    return (struct text){start, length};
}

int reader_line(struct reader *reader, struct text *line, struct error *error)
{
    size_t searched = 0;
    *line = (struct text){NULL, 0};
    for (;;) {
        char *start = reader->buffer + reader->start;
        size_t there = reader->end - reader->start;
        char *newline = memchr(start + searched, '\n', there - searched);
        if (newline || (reader->ended && there > 0)) {
            size_t length = newline ? (size_t)(newline - start) : there;
            reader->start += newline ? length + 1 : length;
            reader->line++;
            *line = without_return(start, length);
            return STATUS_OK;
        }
        if (reader->ended) return STATUS_OK;
        searched = there;
        if (fill(reader, error)) return error->status;
    }
}

int reader_peek(const struct reader *reader, struct text *lines, int most)
{
    int count = 0;
    size_t start = reader->start;
    while (count < most && start < reader->end) {
        char *newline = memchr(reader->buffer + start, '\n', reader->end - start);
        size_t end = newline ? (size_t)(newline - reader->buffer) : reader->end;
        lines[count++] = without_return(reader->buffer + start, end - start);
        start = end + 1;
    }
    return count;
}
