/* SPDX-License-Identifier: MIT
 *
 * Writing JSON lines. The line grows in a buffer inside struct json; a text that is too long is cut, so that every line is valid
 * JSON whatever it is told. */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text.h"

/* What a text leaves free for the members behind it and the end of the line. */
enum { KEPT_FREE_BYTES = 2048 };

static void put(struct json *json, const char *text, size_t bytes)
{
    CHECK((size_t)json->used + bytes + sizeof "}\n" <= sizeof json->text, "a JSON line has too many members");
    memcpy(json->text + json->used, text, bytes);
    json->used += (int)bytes;
}

/* The bytes of one character of a JSON string, escaped where needed, into out; returns how many. */
static int escaped(int code, const char *text, int bytes, char out[8])
{
    if (code < 0) return snprintf(out, 8, "\xef\xbf\xbd"); /* U+FFFD, the replacement character */
    if (code == '"' || code == '\\') return snprintf(out, 8, "\\%c", code);
    if (code == '\n') return snprintf(out, 8, "\\n");
    if (code == '\t') return snprintf(out, 8, "\\t");
    if (code < 0x20 || code == 0x7f) return snprintf(out, 8, "\\u%04x", (unsigned)code);
    memcpy(out, text, (size_t)bytes);
    return bytes;
}

static void put_string(struct json *json, const char *text, int limit)
{
    put(json, "\"", 1);
    for (int bytes; *text; text += bytes) {
        char out[8];
        int code = utf8_next(text, &bytes);
        int length = escaped(code, text, bytes, out);
        if (json->used + length + 4 > limit) {
            put(json, "...", 3);
            break;
        }
        put(json, out, (size_t)length);
    }
    put(json, "\"", 1);
}

static void put_name(struct json *json, const char *name)
{
    if (!json->first) put(json, ", ", 2);
    json->first = false;
    put_string(json, name, sizeof json->text);
    put(json, ": ", 2);
}

void json_begin(struct json *json)
{
    json->used = 0;
    json->first = true;
    put(json, "{", 1);
}

void json_text(struct json *json, const char *name, const char *value)
{
    put_name(json, name);
    int limit = (int)sizeof json->text - KEPT_FREE_BYTES;
    put_string(json, value, limit > json->used ? limit : json->used + 8);
}

void json_integer(struct json *json, const char *name, int64_t value)
{
    char text[NUMBER_TEXT];
    put_name(json, name);
    put(json, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

void json_number(struct json *json, const char *name, double value)
{
    char text[NUMBER_TEXT];
    put_name(json, name);
    if (isfinite(value))
        number_text(value, text);
    else
        snprintf(text, sizeof text, "null");
    put(json, text, strlen(text));
}

void json_boolean(struct json *json, const char *name, bool value)
{
    put_name(json, name);
    put(json, value ? "true" : "false", value ? 4 : 5);
}

void json_time(struct json *json, const char *name)
{
    struct timespec now;
    struct tm utc;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + used, sizeof text - used, ".%03ldZ", now.tv_nsec / 1000000);
    json_text(json, name, text);
}

/* Takes the first part of a line off the end of a regular file again after the rest would not fit (a full disk), so that what is
 * appended later starts on a line of its own. */
static void take_back(int file, size_t written)
{
    struct stat status;
    if (written == 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < (off_t)written) return;
    off_t before = status.st_size - (off_t)written;
    if (ftruncate(file, before) == 0) lseek(file, before, SEEK_SET);
}

int json_end(struct json *json, FILE *out)
{
    put(json, "}\n", 2);
    if (fflush(out) != 0) return -1;
    size_t written = 0, bytes = (size_t)json->used;
    while (written < bytes) {
        ssize_t n = write(fileno(out), json->text + written, bytes - written);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            int reason = n < 0 ? errno : EIO;
            take_back(fileno(out), written);
            errno = reason;
            return -1;
        }
        written += (size_t)n;
    }
    return 0;
}
