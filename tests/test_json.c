/* SPDX-License-Identifier: MIT
 *
 * Shows that every line of the log is one valid JSON object that says what it was told, whatever the text and the number, and
 * that a line which the disk cannot hold leaves no half behind; and that durations read well. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/progress.h"
#include "base/text.h"

/* What json_end writes, in static memory. */
static const char *finished(struct json *json)
{
    static char text[sizeof json->text + 1];
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(json_end(json, file), 0);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void members(void **state)
{
    (void)state;
    struct json json;
    json_begin(&json);
    assert_string_equal(finished(&json), "{}\n");
    json_begin(&json);
    json_text(&json, "event", "step");
    json_integer(&json, "step", -9223372036854775807 - 1);
    json_number(&json, "loss", 0.1);
    json_number(&json, "lr", 1e-5);
    json_number(&json, "nan", NAN);
    json_number(&json, "inf", -INFINITY);
    json_boolean(&json, "yes", true);
    json_boolean(&json, "no", false);
    assert_string_equal(finished(&json), "{\"event\": \"step\", \"step\": -9223372036854775808, \"loss\": 0.1, \"lr\": 1e-05, "
                                         "\"nan\": null, \"inf\": null, \"yes\": true, \"no\": false}\n");
}

static void check_text(const char *text, const char *expected)
{
    struct json json;
    char line[512];
    json_begin(&json);
    json_text(&json, "t", text);
    snprintf(line, sizeof line, "{\"t\": \"%s\"}\n", expected);
    assert_string_equal(finished(&json), line);
}

static void texts(void **state)
{
    (void)state;
    check_text("", "");
    check_text("a\"b\\c\nd\te\rf\x01g/", "a\\\"b\\\\c\\nd\\te\\u000df\\u0001g/");
    check_text("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\x9f", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\x9f");
    /* Latin-1, a stray continuation byte, a cut character, an overlong slash, a surrogate, one past the last code point. */
    check_text("\xe9t\xe9", "\xef\xbf\xbdt\xef\xbf\xbd");
    check_text("\x80", "\xef\xbf\xbd");
    check_text("\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd");
    check_text("\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd");
    check_text("\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    check_text("\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void long_texts(void **state)
{
    (void)state;
    static char text[20000];
    memset(text, '\n', sizeof text - 1);
    struct json json;
    json_begin(&json);
    json_text(&json, "one", text);
    json_text(&json, "two", text);
    json_text(&json, "three", "short");
    json_integer(&json, "four", 4);
    const char *line = finished(&json);
    assert_non_null(strstr(line, "\\n...\", \"two\": \""));
    const char *end = "\"four\": 4}\n";
    assert_string_equal(line + strlen(line) - strlen(end), end);
}

static void numbers(void **state)
{
    (void)state;
    const double values[] = {0,    -0.0,    1,       0.1,    1.0 / 3,   2.0 / 3,     1e22,
                             1e23, DBL_MAX, DBL_MIN, 5e-324, 0.1 + 0.2, -123456.789, 9007199254740993.0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char text[NUMBER_TEXT];
        double again = strtod(number_text(values[i], text), NULL);
        assert_memory_equal(&again, &values[i], sizeof again);
    }
    char text[NUMBER_TEXT];
    assert_string_equal(number_text(0.1, text), "0.1");
    assert_string_equal(number_text(512, text), "512");
}

static void times(void **state)
{
    (void)state;
    struct json json;
    json_begin(&json);
    json_time(&json, "time");
    int year, month, day, hour, minute, second, milli, used = 0;
    sscanf(finished(&json), "{\"time\": \"%4d-%2d-%2dT%2d:%2d:%2d.%3dZ\"}\n%n", &year, &month, &day, &hour, &minute, &second,
           &milli, &used);
    assert_true(used > 0 && year >= 2024);
}

static void full_disk(void **state)
{
    (void)state;
    char path[] = "/tmp/test_json_XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    FILE *file = fdopen(descriptor, "w");
    struct json json;
    json_begin(&json);
    json_text(&json, "event", "start");
    assert_int_equal(json_end(&json, file), 0);
    long whole = lseek(descriptor, 0, SEEK_END);

    signal(SIGXFSZ, SIG_IGN); /* a limit on the file's size stands in for a full disk: a short write, then a failure */
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = (rlim_t)whole + 7;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    json_begin(&json);
    json_text(&json, "event", "a line that does not fit");
    int result = json_end(&json, file);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(result, -1);
    assert_int_equal(lseek(descriptor, 0, SEEK_END), whole);

    json_begin(&json);
    json_text(&json, "event", "end");
    assert_int_equal(json_end(&json, file), 0);
    char text[256] = {0};
    assert_true(pread(descriptor, text, sizeof text - 1, 0) > 0);
    assert_string_equal(text, "{\"event\": \"start\"}\n{\"event\": \"end\"}\n");
    fclose(file);
    unlink(path);
    FILE *full = fopen("/dev/full", "w");
    if (!full) return;
    json_begin(&json);
    assert_int_equal(json_end(&json, full), -1);
    fclose(full);
}

static void durations(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(duration_text(0, text), "0 s");
    assert_string_equal(duration_text(3.2, text), "3 s");
    assert_string_equal(duration_text(59.7, text), "1 min 00 s");
    assert_string_equal(duration_text(250, text), "4 min 10 s");
    assert_string_equal(duration_text(7500, text), "2 h 05 min");
    assert_string_equal(duration_text(3 * 86400 + 4 * 3600, text), "3 d 04 h");
    assert_string_equal(duration_text(NAN, text), "?");
    assert_string_equal(duration_text(INFINITY, text), "?");
    assert_string_equal(duration_text(-1, text), "?");
    double a = clock_seconds(), b = clock_seconds();
    assert_true(b >= a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members), cmocka_unit_test(texts),     cmocka_unit_test(long_texts), cmocka_unit_test(numbers),
        cmocka_unit_test(times),   cmocka_unit_test(full_disk), cmocka_unit_test(durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
