/* SPDX-License-Identifier: MIT
 *
 * Shows that a config means what it says: defaults, presets and the order of the sources, that whatever config_text writes reads
 * back, that every wrong file or argument is refused with its place and what was meant, and that every file in configs/ is valid.
 */
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/config.h"
#include "base/memory.h"

static struct config parsed(const char *text)
{
    struct config config;
    struct error error = {0};
    if (config_parse(&config, text, "run.yaml", &error) != STATUS_OK) fail_msg("\"%s\" gave: %s", text, error.message);
    return config;
}

/* Checks that `text` is refused with a message that starts with `start` and holds `part`. */
static void refused(const char *text, const char *start, const char *part)
{
    struct config config;
    struct error error = {0};
    assert_int_equal(config_parse(&config, text, "run.yaml", &error), STATUS_USAGE);
    assert_int_equal(error.status, STATUS_USAGE);
    if (strncmp(error.message, start, strlen(start)) != 0 || !strstr(error.message, part))
        fail_msg("\"%s\" gave \"%s\" without \"%s\" and \"%s\"", text, error.message, start, part);
    assert_int_equal(config.model.blocks, 6);
}

static void argument_refused(const char *argument, const char *part)
{
    struct config config;
    struct error error = {0};
    char *arguments[] = {(char *)argument};
    assert_int_equal(config_read(&config, NULL, 1, arguments, &error), STATUS_USAGE);
    if (strncmp(error.message, "command line: ", 14) != 0 || !strstr(error.message, part))
        fail_msg("%s gave \"%s\" without \"%s\"", argument, error.message, part);
}

static void defaults(void **state)
{
    (void)state;
    const char *empty[] = {"", "\n", "# nothing\n", "---\n", "~", "train:\nmodel:\n  # blocks: 3\n", "{}", "train: {}\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        struct config config = parsed(empty[i]);
        assert_int_equal(config.model.preset, PRESET_ASTROMER2);
        assert_int_equal(config.model.blocks, 6);
        assert_int_equal(config.model.ffn, 512);
        assert_true(config.model.leak && config.model.token && config.loss.weighted);
        assert_int_equal(config.model.mask, MASK_K);
        assert_true(config.model.alpha == -1e9);
        assert_int_equal(config.data.window, 200);
        assert_string_equal(config.data.validation, "0.1");
        assert_int_equal(config.train.batch, 512);
        assert_int_equal(config.train.epochs, 200);
        assert_true(config.train.learning_rate == 1e-5);
        assert_int_equal(config.train.patience, 20);
        assert_int_equal(config.checkpoint.keep, 3);
        assert_int_equal(config.device, DEVICE_AUTO);
        assert_int_equal(config.precision, PRECISION_FP32);
    }
}

static void values(void **state)
{
    (void)state;
    struct config config = parsed("run.dir: runs/one\n"
                                  "data: {survey: 'a survey', window: 100, validation: \"\"}\n"
                                  "model:\n  dropout: .25\n  alpha: -1e9\n  leak: no\n  token: Off\n"
                                  "train:\r\n  batch: 32\r\n  learning_rate: 1e-4\r\n  schedule: cosine\r\n"
                                  "precision: bf16\n");
    assert_string_equal(config.run_dir, "runs/one");
    assert_string_equal(config.data.survey, "a survey");
    assert_string_equal(config.data.validation, "");
    assert_int_equal(config.data.window, 100);
    assert_true(config.model.dropout == 0.25 && config.model.alpha == -1e9);
    assert_false(config.model.leak);
    assert_false(config.model.token);
    assert_int_equal(config.train.batch, 32);
    assert_true(config.train.learning_rate == 1e-4);
    assert_int_equal(config.train.schedule, SCHEDULE_COSINE);
    assert_int_equal(config.precision, PRECISION_BF16);
}

static void presets(void **state)
{
    (void)state;
    struct config config = parsed("model.blocks: 3\nmodel.preset: astromer1\nloss.weighted: true\n");
    assert_int_equal(config.model.preset, PRESET_ASTROMER1);
    assert_int_equal(config.model.blocks, 3); /* named before the preset, and still counts */
    assert_int_equal(config.model.ffn, 128);
    assert_int_equal(config.model.mask, MASK_QK);
    assert_true(config.model.alpha == 1);
    assert_false(config.model.leak);
    assert_false(config.model.token);
    assert_true(config.loss.weighted);
    config_preset(&config, PRESET_ASTROMER2);
    assert_int_equal(config.model.blocks, 6);
    config_preset(&config, PRESET_ASTROMER1);
    assert_int_equal(config.model.blocks, 2);
    assert_int_equal(config.model.preset, PRESET_ASTROMER1);
    assert_false(config.loss.weighted);
}

static void write_file(const char *path, const char *text, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void sources(void **state)
{
    (void)state;
    const char *path = "test_config.yaml", *text = "model: {preset: astromer2, heads: 2}\ntrain: {batch: 7, seed: 3}\n";
    write_file(path, text, strlen(text));
    char *arguments[] = {"train.batch=9", "model.preset=astromer1", "run.dir=a=b", "data.validation="};
    struct config config;
    struct error error = {0};
    assert_int_equal(config_read(&config, path, 4, arguments, &error), STATUS_OK);
    assert_int_equal(config.model.preset, PRESET_ASTROMER1); /* the argument's preset wins */
    assert_int_equal(config.model.blocks, 2);
    assert_int_equal(config.model.heads, 2); /* the file's explicit key stays */
    assert_int_equal(config.train.batch, 9);
    assert_int_equal(config.train.seed, 3);
    assert_string_equal(config.run_dir, "a=b");
    assert_string_equal(config.data.validation, "");

    /* A fault of two keys is shown where the later one was given. */
    char *heads[] = {"model.heads=3"};
    assert_int_equal(config_read(&config, path, 1, heads, &error), STATUS_USAGE);
    assert_non_null(strstr(error.message, "command line: model.heads must divide model.width"));
    unlink(path);
    error = (struct error){0};
    assert_int_equal(config_read(&config, path, 0, NULL, &error), STATUS_USAGE);
    assert_non_null(strstr(error.message, "test_config.yaml: cannot read"));
    error = (struct error){0};
    assert_int_equal(config_read(&config, "/", 0, NULL, &error), STATUS_USAGE);
    assert_non_null(strstr(error.message, "/: cannot read"));
}

static void odd_files(void **state)
{
    (void)state;
    const char *path = "test_config_odd.yaml";
    struct config config;
    struct error error = {0};
    write_file(path, "\xef\xbb\xbftrain.batch: 5\n", 18); /* a byte order mark, as Windows editors write it */
    assert_int_equal(config_read(&config, path, 0, NULL, &error), STATUS_OK);
    assert_int_equal(config.train.batch, 5);
    write_file(path, "train.batch: 5\n\0\n", 17);
    assert_int_equal(config_read(&config, path, 0, NULL, &error), STATUS_USAGE);
    assert_non_null(strstr(error.message, "odd.yaml:2: this is not a text file"));
    char *large = memory_new(2 << 20, 1, "a large file");
    memset(large, '#', 2 << 20);
    write_file(path, large, 2 << 20);
    memory_free(large);
    error = (struct error){0};
    assert_int_equal(config_read(&config, path, 0, NULL, &error), STATUS_USAGE);
    assert_non_null(strstr(error.message, "over 1 MB"));
    unlink(path);
}

static void wrong_keys(void **state)
{
    (void)state;
    refused("train:\n  bath: 3\n", "run.yaml:2: ", "unknown key \"train.bath\"; did you mean \"train.batch\"?");
    refused("\n\ntrian: {batch: 3}\n", "run.yaml:3: ", "unknown key \"trian\"; did you mean \"train\"?");
    refused("batch: 3\n", "run.yaml:1: ", "did you mean \"train.batch\"?");
    refused("Device: cpu\n", "run.yaml:1: ", "did you mean \"device\"?");
    refused("zzzzzzzzz: 3\n", "run.yaml:1: ", "help config");
    refused("train: {batch: 3}\ntrain.batch: 4\n", "run.yaml:2: ", "train.batch is given twice, first on line 1");
    refused("train: {batch: 3}\ntrain: {seed: 4}\n", "run.yaml:2: ", "train is given twice");
    refused("train: 3\n", "run.yaml:1: ", "train is a group");
    refused("device: {kind: cpu}\n", "run.yaml:1: ", "device is no map");
    refused("train:\n  batch:\n", "run.yaml:2: ", "train.batch has no value");
    refused("run.dir:\n", "run.yaml:1: ", "\"\" for none");
    refused("train.batch.size: 3\n", "run.yaml:1: ", "unknown key");
    refused("\"a\\nb\": 3\n", "run.yaml:1: ", "unknown key \"a?b\"");
    argument_refused("train.bath=3", "did you mean \"train.batch\"?");
    argument_refused("train.batch", "\"train.batch\" is not of the form key=value");
    argument_refused("=3", "not of the form");
    argument_refused("train=3", "train is a group");
    struct config config;
    struct error error = {0};
    char *twice[] = {"train.batch=1", "train.batch=2"};
    assert_int_equal(config_read(&config, NULL, 2, twice, &error), STATUS_USAGE);
    assert_string_equal(error.message, "command line: train.batch is given twice");
}

static void wrong_values(void **state)
{
    (void)state;
    const char *not_whole[] = {"many", "1.5", "1e3", "3x",   "0x10", "1_000", "' 3'", "99999999999999999999",
                               "true", "''",  "+",   "1,000"};
    for (size_t i = 0; i < sizeof not_whole / sizeof *not_whole; i++) {
        char text[64];
        snprintf(text, sizeof text, "train:\n  batch: %s\n", not_whole[i]);
        refused(text, "run.yaml:2: ", "train.batch must be a whole number");
    }
    const char *no_number[] = {"fast", "nan", ".inf", "inf", "1e", "1e999", "0x1p3", "1.0f", ".", "1..2", "' 1'"};
    for (size_t i = 0; i < sizeof no_number / sizeof *no_number; i++) {
        char text[64];
        snprintf(text, sizeof text, "train:\n  clip_norm: %s\n", no_number[i]);
        refused(text, "run.yaml:2: ", "train.clip_norm must be a number");
    }
    refused("train.batch: 0\n", "run.yaml:1: ", "train.batch must be 1 to 16777216 windows, not 0");
    refused("train.batch: -3\n", "run.yaml:1: ", "not -3");
    refused("data.window: 4097\n", "run.yaml:1: ", "1 to 4096 steps");
    refused("train.learning_rate: 0\n", "run.yaml:1: ", "over 0");
    refused("model.dropout: 1\n", "run.yaml:1: ", "to under 1");
    refused("masking.same: 1.01\n", "run.yaml:1: ", "masking.same must be 0 to 1");
    refused("model.leak: maybe\n", "run.yaml:1: ", "true or false");
    refused("train.schedule: cosin\n", "run.yaml:1: ", "constant, warmup or cosine, not \"cosin\"; did you mean \"cosine\"?");
    refused("precision: FP32\n", "run.yaml:1: ", "did you mean \"fp32\"?");
    refused("device: tpu\n", "run.yaml:1: ", "auto, cpu or cuda");
    argument_refused("device=cud", "did you mean \"cuda\"?");
    argument_refused("run.dir=\xff", "UTF-8");
    char *long_text = memory_zeroed(3000, 1, "a long argument");
    memcpy(long_text, "run.dir=", 8);
    memset(long_text + 8, 'x', 2000);
    argument_refused(long_text, "at most 1023");
    memcpy(long_text, "run.dri=", 8);
    argument_refused(long_text, "did you mean \"run.dir\"?");
    memory_free(long_text);
}

static void wrong_yaml(void **state)
{
    (void)state;
    refused("train:\n  batch: [1, 2]\n", "run.yaml:2: ", "train.batch: a list");
    refused("- train.batch: 1\n", "run.yaml:1: ", "a list");
    refused("train: &t {batch: 3}\n", "run.yaml:1: ", "anchor");
    refused("train: {batch: &b 3}\n", "run.yaml:1: ", "anchor");
    refused("train: *t\n", "run.yaml:1: ", "alias");
    refused("train.batch: !!int 3\n", "run.yaml:1: ", "tag");
    refused("just words\n", "run.yaml:1: ", "a config is a map");
    refused("train.batch 3\n", "run.yaml:1: ", "a config is a map");
    refused("train.batch:3\n", "run.yaml:1: ", "a blank after the colon");
    refused("train.batch: 3\n---\ntrain.batch: 3\n", "run.yaml:2: ", "second document");
    refused("train:\n\tbatch: 3\n", "run.yaml:2: ", "spaces, not tabs");
    refused("train: {batch: 3\n", "run.yaml:2: ", "not valid YAML");
    refused("run.dir: \"open\n", "run.yaml:2: ", "not valid YAML");
    refused("run.dir: \"a\\0b\"\n", "run.yaml:1: ", "zero byte");
    refused("a: {b: {c: {d: {e: {f: {g: {h: {i: {j: 1}}}}}}}}}\n", "run.yaml:1: ", "too deep");
    refused("{a: 1}: 3\n", "run.yaml:1: ", "a key must be a word");
    refused("train.batch: 3\nrun.dir: \x01\n", "run.yaml:2: ", "not a text file");
}

static void faults_of_several_keys(void **state)
{
    (void)state;
    refused("model:\n  blocks: 6\n  width: 90\n", "run.yaml:3: ", "model.heads must divide model.width");
    refused("masking: {random_of: probed, same: 0.6,\n random: 0.6}\n", "run.yaml:2: ", "at most 1");
    refused("train.epochs: 0\n", "run.yaml:1: ", "never end");
    refused("train: {epochs: 0, time_limit_seconds: 60, schedule: cosine}\n", "run.yaml:1: ", "cosine needs its last step");
    refused("train: {steps: 10, warmup_steps: 10, schedule: cosine}\n", "run.yaml:1: ", "must be under train.steps");
    refused("data.validation: 1\n", "run.yaml:1: ", "0 to under 1");
    refused("data.validation: -0.1\n", "run.yaml:1: ", "0 to under 1");
    parsed("train: {epochs: 0, steps: 5}\n");
    parsed("train: {epochs: 0, time_limit_seconds: 60}\n");
    double share = -1;
    struct config config = parsed("data.validation: 0.25\n");
    assert_true(config_validation_share(&config, &share) && share == 0.25);
    config = parsed("data.validation: ''\n");
    assert_true(config_validation_share(&config, &share) && share == 0);
    config = parsed("data.validation: surveys/test\n");
    assert_false(config_validation_share(&config, &share));
}

static void check_round_trip(const struct config *config)
{
    char *text = config_text(config);
    struct config again = parsed(text);
    char *same = config_text(&again);
    assert_string_equal(text, same);
    assert_memory_equal(&again.model.alpha, &config->model.alpha, sizeof config->model.alpha);
    assert_true(again.train.learning_rate == config->train.learning_rate);
    assert_true(again.masking.random == config->masking.random);
    assert_true(again.train.seed == config->train.seed);
    assert_string_equal(again.run_dir, config->run_dir);
    memory_free(text);
    memory_free(same);
}

static void round_trip(void **state)
{
    (void)state;
    struct config config;
    config_default(&config);
    check_round_trip(&config);
    config_preset(&config, PRESET_ASTROMER1);
    config.model.preset = PRESET_ASTROMER1;
    config.model.alpha = -1.0 / 3;
    config.train.learning_rate = 0.1 + 0.2;
    config.masking.random = nextafter(0.2, 1);
    config.train.seed = 9007199254740991;
    strcpy(config.run_dir, "  #a: \"b\" \\ 'c'\n\t{d}\x7f \xc3\xa9\xe2\x80\xa8\xf0\x9f\x8c\x9f * ");
    check_round_trip(&config);
    strcpy(config.run_dir, "null");
    check_round_trip(&config);
}

static const char *const some_keys[] = {"train", "data.window", "device", NULL};

/* The message of a change that is refused. */
static void assert_refused(const char *argument, const char *message)
{
    struct config config;
    struct error error = {0};
    char *word = (char *)(uintptr_t)argument;
    config_default(&config);
    assert_int_equal(config_change(&config, some_keys, "it is fixed", NULL, 1, &word, &error), STATUS_USAGE);
    assert_string_equal(error.message, message);
}

static void changes(void **state)
{
    (void)state;
    char *const arguments[] = {"train.batch=7", "device=cpu", "data.window=30"};
    struct config config;
    struct error error = {0};
    config_default(&config);
    config.model.blocks = 3;
    config.train.patience = 4;
    assert_int_equal(config_change(&config, some_keys, "", NULL, 3, arguments, &error), STATUS_OK);
    assert_int_equal(config.model.blocks, 3); /* neither a default nor a preset comes over it */
    assert_int_equal(config.train.patience, 4);
    assert_int_equal(config.train.batch, 7);
    assert_int_equal(config.data.window, 30);
    assert_int_equal(config.device, DEVICE_CPU);
    assert_refused("model.blocks=3", "command line: model.blocks cannot be given here: it is fixed");
    assert_refused("data.windows=3", "command line: unknown key \"data.windows\"; did you mean \"data.window\"?");
    assert_refused("data.survey=train", "command line: data.survey cannot be given here: it is fixed");
    assert_refused("train.batch=0", "command line: train.batch must be 1 to 16777216 windows, not 0");
    assert_refused("train.epochs=0", "command line: the run would never end: set train.epochs, train.steps or "
                                     "train.time_limit_seconds");
}

static void differences(void **state)
{
    (void)state;
    char text[CONFIG_TEXT];
    struct config one, other;
    config_default(&one);
    config_default(&other);
    other.train.batch = 7, other.data.window = 3;
    strcpy(other.run_dir, "elsewhere");
    assert_string_equal(config_difference(&one, &other, (const char *const[]){NULL}), "run.dir");
    assert_string_equal(config_difference(&one, &other, (const char *const[]){"run", "data.window", NULL}), "train.batch");
    assert_null(config_difference(&one, &other, (const char *const[]){"run.dir", "data", "train", NULL}));
    assert_string_equal(config_difference(&one, &other, (const char *const[]){"run", "dat", "train.b", NULL}), "data.window");
    assert_string_equal(config_value(&other, "train.batch", text), "7");
}

static void names_and_help(void **state)
{
    (void)state;
    assert_string_equal(config_name("device", DEVICE_CPU), "cpu");
    assert_string_equal(config_name("train.schedule", SCHEDULE_WARMUP), "warmup");
    assert_string_equal(config_name("model.mask", MASK_QK), "QK");
    assert_string_equal(config_name("model.preset", PRESET_ASTROMER1), "astromer1");
    char *help = NULL;
    size_t bytes;
    FILE *out = open_memstream(&help, &bytes);
    config_help(out);
    fclose(out);
    assert_non_null(strstr(help, "train.learning_rate"));
    assert_non_null(strstr(help, "constant, warmup or cosine"));
    for (const char *line = help; *line; line = strchr(line, '\n') + 1) assert_true(strchr(line, '\n') - line <= 130);
    free(help);
}

static void nearest(void **state)
{
    (void)state;
    const char *const words[] = {"--shards", "--labels", "--out", "K"};
    assert_string_equal(nearest_word("--shrads", words, 4), "--shards");
    assert_string_equal(nearest_word("--Label", words, 4), "--labels");
    assert_string_equal(nearest_word("k", words, 4), "K");
    assert_null(nearest_word("x", words, 4));
    assert_null(nearest_word("", words, 4));
    assert_null(nearest_word("--columns", words, 4));
}

static void shipped(void **state)
{
    (void)state;
    DIR *folder = opendir(CONFIGS);
    assert_non_null(folder);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".yaml") != 0) continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", CONFIGS, entry->d_name);
        struct config config;
        struct error error = {0};
        if (config_read(&config, path, 0, NULL, &error) != STATUS_OK) fail_msg("%s", error.message);
        check_round_trip(&config);
        count++;
    }
    closedir(folder);
    assert_true(count >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),     cmocka_unit_test(values),         cmocka_unit_test(presets),
        cmocka_unit_test(sources),      cmocka_unit_test(odd_files),      cmocka_unit_test(wrong_keys),
        cmocka_unit_test(wrong_values), cmocka_unit_test(wrong_yaml),     cmocka_unit_test(faults_of_several_keys),
        cmocka_unit_test(round_trip),   cmocka_unit_test(names_and_help), cmocka_unit_test(nearest),
        cmocka_unit_test(shipped),      cmocka_unit_test(changes),        cmocka_unit_test(differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
