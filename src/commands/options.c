/* SPDX-License-Identifier: MIT
 *
 * Reading a command's words by its table of options, and the help text made from the same table. */
#include "commands/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

enum { OPTIONS_MAX = 64 };

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

bool options_ask_help(int argc, char *const *argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (is_help(argv[i])) return true;
    return false;
}

static int option_count(const struct usage *usage)
{
    int count = 0;
    while (usage->option && usage->option[count].name) count++;
    CHECK(count <= OPTIONS_MAX, "%s has more than %d options", usage->command, OPTIONS_MAX);
    return count;
}

/* "fp32, tf32 or bf16" */
static void choices_text(const char *const *choices, char *text, size_t text_bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; choices[i] && used < text_bytes; i++) {
        const char *before = i == 0 ? "" : choices[i + 1] ? ", " : " or ";
        used += (size_t)snprintf(text + used, text_bytes - used, "%s%s", before, choices[i]);
    }
}

static void print_help(const struct usage *usage)
{
    printf("usage: astromer %s %s\n\n%s\n", usage->command, usage->synopsis, usage->about);
    int count = option_count(usage), width = 0;
    for (int i = 0; i < count; i++) {
        const struct option *option = &usage->option[i];
        int columns = (int)strlen(option->name) + (option->argument ? 1 + (int)strlen(option->argument) : 0);
        if (columns > width) width = columns;
    }
    if (count) printf("\n");
    for (int i = 0; i < count; i++) {
        const struct option *option = &usage->option[i];
        char left[128];
        snprintf(left, sizeof left, "%s%s%s", option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
        printf("  %-*s  %s%s\n", width, left, option->help, option->required ? " (required)" : "");
    }
    if (usage->more) printf("\n%s\n", usage->more);
}

static int unknown_option(const struct usage *usage, const char *name, struct error *error)
{
    const char *names[OPTIONS_MAX];
    int count = option_count(usage);
    for (int i = 0; i < count; i++) names[i] = usage->option[i].name;
    const char *near = nearest_word(name, names, count);
    return error_set(error, STATUS_USAGE, "%s: there is no option '%s'%s%s%s; see astromer help %s", usage->command, name,
                     near ? ", did you mean " : "", near ? near : "", near ? "?" : "", usage->command);
}

static int out_of_range(const struct usage *usage, const struct option *option, const char *text, struct error *error)
{
    return error_set(error, STATUS_USAGE, "%s: %s is '%s', but it must be between %.15g and %.15g", usage->command, option->name,
                     text, option->minimum, option->maximum);
}

static int read_integer(const struct usage *usage, const struct option *option, const char *text, struct error *error)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno)
        return error_set(error, STATUS_USAGE, "%s: %s is '%s', but it must be a whole number", usage->command, option->name,
                         text);
    if ((option->minimum != 0 || option->maximum != 0) && ((double)value < option->minimum || (double)value > option->maximum))
        return out_of_range(usage, option, text, error);
    *(int64_t *)option->value = value;
    return STATUS_OK;
}

static int read_number(const struct usage *usage, const struct option *option, const char *text, struct error *error)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value))
        return error_set(error, STATUS_USAGE, "%s: %s is '%s', but it must be a number", usage->command, option->name, text);
    if ((option->minimum != 0 || option->maximum != 0) && (value < option->minimum || value > option->maximum))
        return out_of_range(usage, option, text, error);
    *(double *)option->value = value;
    return STATUS_OK;
}

static int read_choice(const struct usage *usage, const struct option *option, const char *text, struct error *error)
{
    for (int i = 0; option->choices[i]; i++)
        if (strcmp(option->choices[i], text) == 0) {
            *(int *)option->value = i;
            return STATUS_OK;
        }
    char choices[256];
    choices_text(option->choices, choices, sizeof choices);
    return error_set(error, STATUS_USAGE, "%s: %s is '%s', but it must be %s", usage->command, option->name, text, choices);
}

static int read_value(const struct usage *usage, const struct option *option, const char *text, struct error *error)
{
    if (!text || !*text)
        return error_set(error, STATUS_USAGE, "%s: %s needs a value: %s %s", usage->command, option->name, option->name,
                         option->argument);
    switch (option->kind) {
    case OPTION_TEXT:
        *(const char **)option->value = text;
        return STATUS_OK;
    case OPTION_INTEGER:
        return read_integer(usage, option, text, error);
    case OPTION_NUMBER:
        return read_number(usage, option, text, error);
    case OPTION_CHOICE:
        return read_choice(usage, option, text, error);
    }
    CHECK(false, "option %s has kind %d", option->name, option->kind);
}

/* Reads the option at argv[*at]; *at ends on the last word used. */
static int read_option(const struct usage *usage, int argc, char **argv, int *at, bool *given, struct error *error)
{
    char name[64];
    const char *word = argv[*at], *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name - 1), word);
    int count = option_count(usage), i = 0;
    while (i < count && strcmp(usage->option[i].name, name) != 0) i++;
    if (i == count) return unknown_option(usage, name, error);
    const struct option *option = &usage->option[i];
    if (given[i]) return error_set(error, STATUS_USAGE, "%s: %s is given twice", usage->command, name);
    given[i] = true;
    if (option->kind == OPTION_FLAG) {
        if (equals) return error_set(error, STATUS_USAGE, "%s: %s takes no value", usage->command, name);
        *(bool *)option->value = true;
        return STATUS_OK;
    }
    if (equals) return read_value(usage, option, equals + 1, error);
    bool follows = *at + 1 < argc && strncmp(argv[*at + 1], "--", 2) != 0;
    return read_value(usage, option, follows ? argv[++*at] : NULL, error);
}

static int check_operands(const struct usage *usage, const struct operands *operands, struct error *error)
{
    const char *operand = usage->operand ? usage->operand : "word";
    if (usage->operands_most >= 0 && operands->count > usage->operands_most)
        return error_set(error, STATUS_USAGE, "%s: '%s' is one %s too many; see astromer help %s", usage->command,
                         operands->word[usage->operands_most], operand, usage->command);
    if (operands->count < usage->operands_least)
        return error_set(error, STATUS_USAGE, "%s: %s is missing; usage: astromer %s %s", usage->command, operand, usage->command,
                         usage->synopsis);
    return STATUS_OK;
}

int options_read(const struct usage *usage, int argc, char **argv, struct operands *operands, struct error *error)
{
    *operands = (struct operands){.word = argv + 1};
    if (options_ask_help(argc, argv)) {
        print_help(usage);
        operands->help = true;
        return STATUS_OK;
    }
    bool given[OPTIONS_MAX] = {false}, options_ended = false;
    for (int i = 1; i < argc; i++) {
        if (!options_ended && strcmp(argv[i], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && argv[i][0] == '-' && argv[i][1]) {
            if (read_option(usage, argc, argv, &i, given, error)) return error->status;
        } else {
            operands->word[operands->count++] = argv[i];
        }
    }
    for (int i = 0, count = option_count(usage); i < count; i++)
        if (usage->option[i].required && !given[i])
            return error_set(error, STATUS_USAGE, "%s: %s is missing; usage: astromer %s %s", usage->command,
                             usage->option[i].name, usage->command, usage->synopsis);
    return check_operands(usage, operands, error);
}
