/* SPDX-License-Identifier: MIT
 * Shows that a command's words are read as its table says, and that every wrong word is one line that says what is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "commands/options.h"

static const char *const pools[] = {"mean", "max", NULL};

struct values {
    const char *out;
    int64_t shards;
    double share;
    int pool;
    bool blocks;
};

/* Reads the words (ending with NULL) into values. */
static int read_words(struct values *values, struct operands *operands, struct error *error, char **argv)
{
    const struct option option[] = {
        {.name = "--out", .kind = OPTION_TEXT, .value = &values->out, .argument = "SURVEY", .help = "where", .required = true},
        {.name = "--shards",
         .kind = OPTION_INTEGER,
         .value = &values->shards,
         .argument = "S",
         .help = "how many",
         .minimum = 1,
         .maximum = 99},
        {.name = "--share",
         .kind = OPTION_NUMBER,
         .value = &values->share,
         .argument = "X",
         .help = "part",
         .minimum = 0,
         .maximum = 1},
        {.name = "--pool", .kind = OPTION_CHOICE, .value = &values->pool, .argument = "POOL", .help = "how", .choices = pools},
        {.name = "--blocks", .kind = OPTION_FLAG, .value = &values->blocks, .help = "each block"},
        {.name = NULL},
    };
    const struct usage usage = {.command = "work",
                                .synopsis = "--out SURVEY FILE ...",
                                .about = "Works.",
                                .option = option,
                                .operand = "FILE",
                                .operands_least = 1,
                                .operands_most = 2};
    int argc = 0;
    while (argv[argc]) argc++;
    *error = (struct error){0};
    return options_read(&usage, argc, argv, operands, error);
}

#define WORDS(...) ((char *[]){(char[]){"work"}, __VA_ARGS__, NULL})

static void every_kind_is_read(void **state)
{
    (void)state;
    struct values values = {.pool = -1};
    struct operands operands;
    struct error error;
    char **argv = WORDS("a.csv", "--out", "S", "--shards=7", "--share", "-0", "--pool", "max", "--blocks", "--", "--b.csv");
    assert_int_equal(read_words(&values, &operands, &error, argv), STATUS_OK);
    assert_string_equal(values.out, "S");
    assert_int_equal(values.shards, 7);
    assert_true(values.share == 0);
    assert_int_equal(values.pool, 1);
    assert_true(values.blocks);
    assert_false(operands.help);
    assert_int_equal(operands.count, 2);
    assert_string_equal(operands.word[0], "a.csv");
    assert_string_equal(operands.word[1], "--b.csv");
}

static void what_is_not_given_stays(void **state)
{
    (void)state;
    struct values values = {.shards = 64, .share = 0.5, .pool = 1};
    struct operands operands;
    struct error error;
    assert_int_equal(read_words(&values, &operands, &error, WORDS("--out=S", "-")), STATUS_OK);
    assert_int_equal(values.shards, 64);
    assert_true(values.share == 0.5);
    assert_int_equal(values.pool, 1);
    assert_false(values.blocks);
    assert_string_equal(operands.word[0], "-");
}

static void wrong_words_are_refused(void **state)
{
    (void)state;
    const struct {
        char **argv;
        const char *said;
    } wrong[] = {
        {WORDS("--uot", "S", "f"), "did you mean --out?"},
        {WORDS("--out"), "--out needs a value"},
        {WORDS("--out="), "--out needs a value"},
        {WORDS("--out", "--shards", "3", "f"), "--out needs a value"},
        {WORDS("--out", "S", "--out", "T", "f"), "given twice"},
        {WORDS("f"), "--out is missing"},
        {WORDS("--out", "S"), "FILE is missing"},
        {WORDS("--out", "S", "a", "b", "c"), "'c' is one FILE too many"},
        {WORDS("--out", "S", "f", "--blocks=yes"), "takes no value"},
        {WORDS("--out", "S", "f", "--shards", "0"), "between 1 and 99"},
        {WORDS("--out", "S", "f", "--shards", "7x"), "a whole number"},
        {WORDS("--out", "S", "f", "--shards", "1.5"), "a whole number"},
        {WORDS("--out", "S", "f", "--shards", "99999999999999999999"), "a whole number"},
        {WORDS("--out", "S", "f", "--share", "nan"), "a number"},
        {WORDS("--out", "S", "f", "--share", "1.01"), "between 0 and 1"},
        {WORDS("--out", "S", "f", "--pool", "mix"), "mean or max"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct values values = {0};
        struct operands operands;
        struct error error;
        assert_int_equal(read_words(&values, &operands, &error, wrong[i].argv), STATUS_USAGE);
        if (!strstr(error.message, wrong[i].said)) fail_msg("'%s' does not say '%s'", error.message, wrong[i].said);
        assert_int_equal(strncmp(error.message, "work: ", 6), 0);
    }
}

static void help_wins(void **state)
{
    (void)state;
    struct values values = {0};
    struct operands operands;
    struct error error;
    assert_int_equal(read_words(&values, &operands, &error, WORDS("--nonsense", "--help")), STATUS_OK);
    assert_true(operands.help);
    assert_int_equal(read_words(&values, &operands, &error, WORDS("--out", "S", "--", "--help")), STATUS_OK);
    assert_false(operands.help);
    assert_string_equal(operands.word[0], "--help");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_read),
        cmocka_unit_test(what_is_not_given_stays),
        cmocka_unit_test(wrong_words_are_refused),
        cmocka_unit_test(help_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
