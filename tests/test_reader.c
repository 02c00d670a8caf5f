/* SPDX-License-Identifier: MIT
 * Shows that lines, fields and numbers are read exactly, from plain and gzip files, and that a damaged gzip file is never taken
 * for a shorter one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "survey/fields.h"

static char path[] = "/tmp/test_reader.XXXXXX";

static bool number(const char *text, double *value)
{
    return number_read(text, text + strlen(text), value);
}

static void numbers_as_strtod(void **state)
{
    (void)state;
    static const char *const some[] = {"0",
                                       "-0",
                                       "+7",
                                       "1.",
                                       ".5",
                                       "-.5e2",
                                       "51869.03306",
                                       "12.746",
                                       "1e-4",
                                       "1E+22",
                                       "1e-30",
                                       "0.1",
                                       "9007199254740993",
                                       "123456789.123456789",
                                       "0.000000000000000000000001",
                                       "18446744073709551615",
                                       "00000000000000000000000012.5",
                                       "2450000.123456789012345",
                                       "1e308",
                                       "4.9e-324",
                                       "99999999999999999999.5"};
    double value;
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        assert_true(number(some[i], &value));
        assert_true(value == strtod(some[i], NULL));
    }
    for (uint32_t i = 0; i < 200000; i++) {
        char text[64];
        uint32_t r[4];
        random_block(3, 200, 0, 0, i, r);
        uint64_t digits = ((uint64_t)r[0] << 32 | r[1]) >> r[2] % 60;
        snprintf(text, sizeof text, "%s%llu.%0*u", r[2] & 1u << 30 ? "-" : "", (unsigned long long)digits, (int)(r[3] % 9 + 1),
                 r[3] >> 22);
        assert_true(number(text, &value));
        if (value != strtod(text, NULL)) fail_msg("%s read as %.17g", text, value);
    }
}

/* Decimals in and beside the middle between two neighbouring doubles or floats, where a second rounding goes wrong. */
static void hard_numbers(void **state)
{
    (void)state;
    char text[2000];
    for (uint32_t i = 0; i < 60000; i++) {
        uint32_t r[4];
        random_block(4, 200, 0, 0, i, r);
        bool single = i % 2;
        double value = ldexp((double)(((uint64_t)r[0] << 32 | r[1]) >> (single ? 40 : 11)), (int)(r[2] % 120) - 90);
        /* 24 or 53 bits, and half a unit more: the middle, exact in long double and so in its text. */
        long double middle = (long double)value + ldexpl(1, ilogb(value) - (single ? 24 : 53));
        int places = snprintf(text, sizeof text, "%.*Lf", (int)(r[3] % 4 ? 20 + r[3] % 150 : r[3] % 20), middle);
        if (r[3] >> 30 == 1) text[places - 1] = '1'; /* a little off */
        double read;
        if (strlen(text) > 380) continue;
        assert_true(number(text, &read));
        if (read != strtod(text, NULL)) fail_msg("%s read as %.17g", text, read);
        float nearest = number_float(text, text + strlen(text), read);
        if (nearest != strtof(text, NULL)) fail_msg("%s read as the float %.9g", text, (double)nearest);
    }
    static const char *const some[] = {
        "1.00000005960464477540",        "1.00000005960464477538", "1.4e-45",  "7.1e-46", "1.17549435e-38", "1.1754942e-38",
        "-1.00000017881393432617187499", "16777217.0000000001",    "8388608.5"};
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        double read;
        assert_true(number(some[i], &read) && read == strtod(some[i], NULL));
        assert_true(number_float(some[i], some[i] + strlen(some[i]), read) == strtof(some[i], NULL));
    }
}

static void not_numbers(void **state)
{
    (void)state;
    static const char *const some[] = {"",     "-",     ".",   "+.", "nan", "NaN",   "inf",         "-Infinity",
                                       "0x10", "1,5",   "1 2", "1e", "1e+", "1.2.3", "--1",         "12a",
                                       "e5",   "1e999", " 1",  "1 ", "N/A", "1-2",   "\xef\xbc\x91"};
    double value = 42;
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) assert_false(number(some[i], &value));
    assert_false(number_read("1\0002", (const char *)"1\0002" + 3, &value));
    assert_true(value == 42);
}

static void assert_fields(const char *line, char delimiter, int count, const char *const *expected)
{
    char copy[128];
    struct text field[8];
    strcpy(copy, line);
    assert_int_equal(fields_split((struct text){copy, strlen(copy)}, delimiter, field, 8), count);
    for (int i = 0; i < count && i < 8; i++) {
        assert_int_equal(field[i].length, strlen(expected[i]));
        assert_memory_equal(field[i].start, expected[i], field[i].length);
    }
}

static void fields(void **state)
{
    (void)state;
    assert_fields("a,b,c", ',', 3, (const char *const[]){"a", "b", "c"});
    assert_fields(" a , b\t,", ',', 3, (const char *const[]){"a", "b", ""});
    assert_fields("", ',', 1, (const char *const[]){""});
    assert_fields("a\t\tb", '\t', 3, (const char *const[]){"a", "", "b"});
    assert_fields("  1.5   -3\t0.1 ", BLANKS, 3, (const char *const[]){"1.5", "-3", "0.1"});
    assert_fields("   ", BLANKS, 0, NULL);
    assert_fields("\"a,b\" ,c", ',', 2, (const char *const[]){"a,b", "c"});
    assert_fields("x, \"say \"\"no\"\"\" ,\"\"", ',', 3, (const char *const[]){"x", "say \"no\"", ""});
    assert_fields("\"open,end", ',', 1, (const char *const[]){"open,end"});
    assert_fields("\"a\"b,c", ',', 2, (const char *const[]){"a", "c"});
    assert_fields("a;\"b;\";", ';', 3, (const char *const[]){"a", "b;", ""});
    char most[] = "1,2,3,4";
    struct text two[2];
    assert_int_equal(fields_split((struct text){most, 7}, ',', two, 2), 4);
}

static void put(const void *bytes, size_t count)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

/* Reads all lines, each followed by '|', or fails with the reader's error. */
static int read_all(char **out, size_t *length, struct error *error)
{
    struct reader reader;
    struct text line;
    size_t capacity = 0;
    *out = NULL;
    *length = 0;
    if (reader_open(&reader, path, error)) return error->status;
    while (!reader_line(&reader, &line, error) && line.start) {
        memory_grow((void **)out, &capacity, *length + line.length + 1, 1, "a test");
        memcpy(*out + *length, line.start, line.length);
        (*out)[*length + line.length] = '|';
        *length += line.length + 1;
    }
    reader_close(&reader);
    return error->status;
}

static void assert_lines(const char *bytes, const char *expected)
{
    struct error error = {0};
    char *out;
    size_t length;
    put(bytes, strlen(bytes));
    assert_int_equal(read_all(&out, &length, &error), STATUS_OK);
    assert_int_equal(length, strlen(expected));
    assert_memory_equal(out, expected, length);
    memory_free(out);
}

static void line_ends(void **state)
{
    (void)state;
    assert_lines("a\nb\n", "a|b|");
    assert_lines("a\r\nb\r\n", "a|b|");
    assert_lines("a\nb", "a|b|");
    assert_lines("a\n\n\nb\n\n", "a|||b||");
    assert_lines("\n", "|");
    assert_lines("\xef\xbb\xbfid,mjd\r\n1", "id,mjd|1|");
    assert_lines("\xef\xbb\xbf", "");
    assert_lines("a\rb\n", "a\rb|");
    assert_lines("x", "x|");
}

static void cannot_open(void **state)
{
    (void)state;
    struct error error = {0};
    struct reader reader;
    put("", 0);
    assert_int_equal(reader_open(&reader, path, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "is empty"));
    struct error missing = {0};
    assert_int_equal(reader_open(&reader, "/tmp/no/such/file", &missing), STATUS_FAILED);
    assert_non_null(strstr(missing.message, "/tmp/no/such/file: cannot be opened: No such file"));
    struct error folder = {0};
    assert_int_equal(reader_open(&reader, "/tmp", &folder), STATUS_FAILED);
}

/* Lines around and far beyond the size of the buffer. */
static void long_lines(void **state)
{
    (void)state;
    size_t total = 0, capacity = 3u << 20, length;
    char *bytes = memory_new(capacity, 1, "a test"), *out;
    static const size_t lengths[] = {10, (1 << 18) - 12, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 1 << 20, 0, 5};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memset(bytes + total, (int)('a' + i), lengths[i]);
        total += lengths[i];
        bytes[total++] = '\n';
    }
    struct error error = {0};
    put(bytes, total);
    assert_int_equal(read_all(&out, &length, &error), STATUS_OK);
    assert_int_equal(length, total);
    for (size_t i = 0; i < total; i++) assert_true(bytes[i] == '\n' ? out[i] == '|' : out[i] == bytes[i]);
    memory_free(out);
    memory_free(bytes);
}

/* A gzip member of some text, appended at `out`; returns its bytes. */
static size_t zip(unsigned char *out, size_t room, const char *text, size_t length)
{
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (unsigned char *)text;
    stream.avail_in = (uInt)length;
    stream.next_out = out;
    stream.avail_out = (uInt)room;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return stream.total_out;
}

static void gzip(void **state)
{
    (void)state;
    unsigned char zipped[4096];
    char text[2000], expected[2000], *out;
    size_t length = 0, got;
    for (int i = 0; i < 60; i++) length += (size_t)sprintf(text + length, "star%d,%d.%d,15\n", i % 7, 50000 + i, i * i);
    for (size_t i = 0; i < length; i++) expected[i] = text[i] == '\n' ? '|' : text[i];
    size_t first = zip(zipped, sizeof zipped, text, length / 2);
    size_t bytes = first + zip(zipped + first, sizeof zipped - first, text + length / 2, length - length / 2);
    struct error error = {0};
    put(zipped, bytes);
    assert_int_equal(read_all(&out, &got, &error), STATUS_OK);
    assert_int_equal(got, length);
    assert_memory_equal(out, expected, length);
    memory_free(out);
    for (size_t cut = 2; cut < bytes; cut++) { /* every truncation, but for that between the members */
        struct error cut_error = {0};
        put(zipped, cut);
        if (read_all(&out, &got, &cut_error) == STATUS_OK) assert_int_equal(cut, first);
        if (cut_error.status) assert_non_null(strstr(cut_error.message, path));
        memory_free(out);
    }
    for (size_t i = 0; i < bytes; i++) { /* every flipped byte but for the header's free ones */
        struct error flip_error = {0};
        zipped[i] ^= 0x55;
        put(zipped, bytes);
        zipped[i] ^= 0x55;
        if (i >= 2 && read_all(&out, &got, &flip_error) == STATUS_OK)
            assert_true(got == length && !memcmp(out, expected, length));
        if (i >= 2) memory_free(out);
    }
}

static void behind_gzip(void **state)
{
    (void)state;
    unsigned char zipped[4096] = {0};
    char *out;
    size_t got, bytes = zip(zipped, sizeof zipped, "a\nb\n", 4);
    struct error error = {0}, damaged = {0}, none = {0};
    put(zipped, bytes + 512); /* zeros, as tapes leave them */
    assert_int_equal(read_all(&out, &got, &error), STATUS_OK);
    assert_int_equal(got, 4);
    memory_free(out);
    memcpy(zipped + bytes, "more text", 9);
    put(zipped, bytes + 9);
    assert_int_equal(read_all(&out, &got, &damaged), STATUS_FAILED);
    memory_free(out);
    put(zipped, zip(zipped, sizeof zipped, "", 0));
    assert_int_equal(read_all(&out, &got, &none), STATUS_FAILED);
    assert_non_null(strstr(none.message, "is empty"));
}

static int set_up(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_as_strtod), cmocka_unit_test(hard_numbers),
        cmocka_unit_test(not_numbers),       cmocka_unit_test(fields),
        cmocka_unit_test(line_ends),         cmocka_unit_test(cannot_open),
        cmocka_unit_test(long_lines),        cmocka_unit_test(gzip),
        cmocka_unit_test(behind_gzip),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
