/* SPDX-License-Identifier: MIT
 *
 * The configuration of a run: where its values come from and in which order. What a key is stands in config_schema.c. */
#include "base/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_schema.h"
#include "base/config_yaml.h"
#include "base/memory.h"

enum { LARGEST_FILE_BYTES = 1 << 20 };

/* Where values come from: a file, or the command line. */
struct source {
    const char *name;
    struct entries entries;
};

static void set_or_die(const struct key *key, struct config *config, const char *text)
{
    struct error error = {0};
    key_set(key, config, text, &error);
    CHECK(error.status == STATUS_OK, "config schema: %s", error.message);
}

void config_default(struct config *config)
{
    memset(config, 0, sizeof *config);
    for (int i = 0; i < config_key_count; i++) set_or_die(&config_keys[i], config, config_keys[i].initial);
}

void config_preset(struct config *config, int preset)
{
    for (int i = 0; i < config_key_count; i++) {
        const struct key *key = &config_keys[i];
        if (key->astromer1) set_or_die(key, config, preset == PRESET_ASTROMER1 ? key->astromer1 : key->initial);
    }
}

/* "FILE:LINE: " or "command line: " in front of an error. */
static int place(struct error *error, const struct source *source, int line)
{
    return line ? error_prefix(error, "%s:%d", source->name, line) : error_prefix(error, "%s", source->name);
}

static int unknown_key(const char *path, struct error *error)
{
    char quoted[SHOWN_TEXT], nearest[KEY_NAME];
    if (key_nearest(path, nearest))
        return error_set(error, STATUS_USAGE, "unknown key \"%s\"; did you mean \"%s\"?", shown(path, quoted), nearest);
    return error_set(error, STATUS_USAGE, "unknown key \"%s\" (\"astromer help config\" lists the keys)", shown(path, quoted));
}

/* Sets one entry; a map or an empty group sets nothing but must be a group. */
static int apply_entry(struct config *config, const struct entry *entry, struct error *error)
{
    const struct key *key = key_find(entry->path);
    char allowed[CONFIG_TEXT];
    if (key && entry->value) return key_set(key, config, entry->value, error);
    if (key)
        return error_set(error, STATUS_USAGE, "%s %s; give it a value (%s)%s", key->name,
                         entry->map ? "is no map" : "has no value", key_allowed(key, allowed),
                         key->type == KEY_TEXT ? ", or \"\" for none" : "");
    if (!key_is_group(entry->path)) return unknown_key(entry->path, error);
    if (entry->value)
        return error_set(error, STATUS_USAGE, "%s is a group of keys, not a key: write %s.KEY", entry->path, entry->path);
    return STATUS_OK;
}

/* All known entries before `last` have been found to be different, so there are few of them. */
static int refuse_duplicate(const struct entries *entries, size_t last, struct error *error)
{
    const struct entry *entry = &entries->entry[last];
    for (size_t i = 0; i < last; i++) {
        if (strcmp(entries->entry[i].path, entry->path) != 0) continue;
        if (!entry->line) return error_set(error, STATUS_USAGE, "%s is given twice", entry->path);
        return error_set(error, STATUS_USAGE, "%s is given twice, first on line %d", entry->path, entries->entry[i].line);
    }
    return STATUS_OK;
}

static int apply_source(struct config *config, const struct source *source, struct error *error)
{
    for (size_t i = 0; i < source->entries.count && error->status == STATUS_OK; i++) {
        const struct entry *entry = &source->entries.entry[i];
        if (apply_entry(config, entry, error) == STATUS_OK) refuse_duplicate(&source->entries, i, error);
        if (error->status != STATUS_OK) return place(error, source, entry->line);
    }
    return error->status;
}

static int read_arguments(struct source *source, int count, char *const *arguments, struct error *error)
{
    for (int i = 0; i < count; i++) {
        const char *equals = strchr(arguments[i], '=');
        char quoted[SHOWN_TEXT];
        if (!equals || equals == arguments[i])
            return error_set(error, STATUS_USAGE, "%s: \"%s\" is not of the form key=value", source->name,
                             shown(arguments[i], quoted));
        char *path = memory_string(arguments[i]);
        path[equals - arguments[i]] = 0;
        entries_add(&source->entries, path, equals + 1, false, 0);
        memory_free(path);
    }
    return STATUS_OK;
}

/* The whole file with a NUL behind it, owned by the caller. A pipe will do as a file. */
static char *read_file(const char *path, size_t *bytes, struct error *error)
{
    char *text = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) {
        error_set(error, STATUS_USAGE, "%s: cannot read this config: %s", path, strerror(errno));
        return NULL;
    }
    text = memory_new(LARGEST_FILE_BYTES + 1, 1, "the text of a config");
    *bytes = fread(text, 1, LARGEST_FILE_BYTES + 1, file);
    if (ferror(file))
        error_set(error, STATUS_USAGE, "%s: cannot read this config: %s", path, strerror(errno));
    else if (*bytes > LARGEST_FILE_BYTES)
        error_set(error, STATUS_USAGE, "%s: over 1 MB; this cannot be a config", path);
    fclose(file);
    return text;
}

/* What is wrong with the values taken together: at most two keys that are to blame, and a message. */
struct fault {
    const char *keys[2];
    char text[256];
};

static bool blame(struct fault *fault, const char *key, const char *other, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static bool blame(struct fault *fault, const char *key, const char *other, const char *format, ...)
{
    fault->keys[0] = key;
    fault->keys[1] = other;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->text, sizeof fault->text, format, arguments);
    va_end(arguments);
    return true;
}

bool config_validation_share(const struct config *config, double *share)
{
    *share = 0;
    return !*config->data.validation || text_number(config->data.validation, share);
}

static bool find_fault(const struct config *config, struct fault *fault)
{
    double share;
    if (config_validation_share(config, &share) && !(share >= 0 && share < 1))
        return blame(fault, "data.validation", NULL,
                     "data.validation must be a share of 0 to under 1 or a survey's folder, not %s", config->data.validation);
    if (config_validation_share(config, &share) && share + config->data.test >= 1)
        return blame(fault, "data.test", "data.validation",
                     "data.validation and data.test leave nothing to train on: %g + %g must be under 1", share,
                     config->data.test);
    if (config->data.folds[0] && !config->data.samples)
        return blame(fault, "data.folds", "data.samples", "data.folds needs data.samples, the light curves a class to train on");
    if (!config->data.folds[0] && (config->data.samples || config->data.fold))
        return blame(fault, "data.samples", "data.fold", "data.samples and data.fold are of data.folds, which is not set");
    const struct model_config *model = &config->model;
    if (model->heads < 1 || model->width % model->heads)
        return blame(fault, "model.width", "model.heads", "model.heads must divide model.width, and %d does not divide %d",
                     model->heads, model->width);
    const struct masking_config *masking = &config->masking;
    if (masking->random_of == RANDOM_OF_PROBED && masking->same + masking->random > 1)
        return blame(fault, "masking.random", "masking.same",
                     "masking.same + masking.random must be at most 1 when both are shares of the probed, not %g + %g",
                     masking->same, masking->random);
    if (!config->train.epochs && !config->train.steps && !(config->train.time_limit_seconds > 0))
        return blame(fault, "train.epochs", "train.steps",
                     "the run would never end: set train.epochs, train.steps or train.time_limit_seconds");
    if (config->train.schedule != SCHEDULE_COSINE) return false;
    if (!config->train.epochs && !config->train.steps)
        return blame(fault, "train.schedule", NULL, "train.schedule cosine needs its last step: set train.steps or train.epochs");
    if (config->train.steps && config->train.warmup_steps >= config->train.steps)
        return blame(fault, "train.warmup_steps", "train.steps",
                     "train.warmup_steps must be under train.steps with schedule cosine, and %lld is not under %lld",
                     (long long)config->train.warmup_steps, (long long)config->train.steps);
    return false;
}

int config_check(const struct config *config, struct error *error)
{
    struct fault fault;
    return find_fault(config, &fault) ? error_set(error, STATUS_USAGE, "%s", fault.text) : STATUS_OK;
}

/* config_check that says where the guilty value stands: the last place that set one of the two keys. */
static int check_sources(const struct config *config, const struct source *sources, int count, struct error *error)
{
    struct fault fault;
    if (!find_fault(config, &fault)) return STATUS_OK;
    error_set(error, STATUS_USAGE, "%s", fault.text);
    for (int s = count - 1; s >= 0; s--)
        for (size_t i = sources[s].entries.count; i-- > 0;) {
            const struct entry *entry = &sources[s].entries.entry[i];
            for (int k = 0; k < 2; k++)
                if (fault.keys[k] && strcmp(entry->path, fault.keys[k]) == 0) return place(error, &sources[s], entry->line);
        }
    return place(error, &sources[0], 0);
}

/* Defaults, then the sources in order. Two passes: the first finds every error and the preset that holds in the end, the second
 * lays the keys over that preset, wherever it was named. */
static int apply_sources(struct config *config, const struct source *sources, int count, struct error *error)
{
    config_default(config);
    for (int i = 0; i < count; i++)
        if (apply_source(config, &sources[i], error) != STATUS_OK) return error->status;
    int preset = config->model.preset;
    config_default(config);
    config_preset(config, preset);
    for (int i = 0; i < count; i++) apply_source(config, &sources[i], error);
    config->model.preset = preset;
    return check_sources(config, sources, count, error);
}

/* A file's keys (path NULL: none) and those of arguments. release_sources belongs to it, whatever it returned. */
static int read_sources(struct source sources[2], const char *path, int count, char *const *arguments, struct error *error)
{
    char *text = NULL;
    size_t bytes = 0;
    sources[0] = (struct source){.name = path ? path : "command line"};
    sources[1] = (struct source){.name = "command line"};
    if (error->status != STATUS_OK) goto cleanup;
    if (path) text = read_file(path, &bytes, error);
    if (error->status != STATUS_OK) goto cleanup;
    if (path && entries_read(&sources[0].entries, text, bytes, path, error) != STATUS_OK) goto cleanup;
    read_arguments(&sources[1], count, arguments, error);
cleanup:
    memory_free(text);
    return error->status;
}

static void release_sources(struct source sources[2])
{
    entries_release(&sources[0].entries);
    entries_release(&sources[1].entries);
}

int config_read(struct config *config, const char *path, int count, char *const *arguments, struct error *error)
{
    struct source sources[2];
    if (!read_sources(sources, path, count, arguments, error)) apply_sources(config, sources, 2, error);
    if (error->status != STATUS_OK) config_default(config);
    release_sources(sources);
    return error->status;
}

int config_parse(struct config *config, const char *text, const char *name, struct error *error)
{
    struct source source = {.name = name};
    if (error->status == STATUS_OK && entries_read(&source.entries, text, strlen(text), name, error) == STATUS_OK)
        apply_sources(config, &source, 1, error);
    if (error->status != STATUS_OK) config_default(config);
    entries_release(&source.entries);
    return error->status;
}

/* Whether a list that ends with NULL names the key or its group. */
static bool is_named(const char *key, const char *const *names)
{
    for (; *names; names++) {
        size_t length = strlen(*names);
        if (!strncmp(key, *names, length) && (!key[length] || key[length] == '.')) return true;
    }
    return false;
}

static int refuse_others(const struct source *source, const char *const *allowed, const char *else_text, struct error *error)
{
    for (size_t i = 0; i < source->entries.count; i++) {
        const struct entry *entry = &source->entries.entry[i];
        if (!key_find(entry->path) || is_named(entry->path, allowed)) continue;
        error_set(error, STATUS_USAGE, "%s cannot be given here: %s", entry->path, else_text);
        return place(error, source, entry->line);
    }
    return STATUS_OK;
}

int config_change(struct config *config, const char *const *allowed, const char *else_text, const char *path, int count,
                  char *const *arguments, struct error *error)
{
    struct source sources[2];
    if (!read_sources(sources, path, count, arguments, error)) {
        for (int i = 0; i < 2; i++)
            if (refuse_others(&sources[i], allowed, else_text, error) || apply_source(config, &sources[i], error)) break;
        if (!error->status) check_sources(config, sources, 2, error);
    }
    release_sources(sources);
    return error->status;
}

const char *config_value(const struct config *config, const char *name, char text[CONFIG_TEXT])
{
    const struct key *key = key_find(name);
    CHECK(key, "no config key %s", name);
    return key_text(key, config, text);
}

const char *config_difference(const struct config *one, const struct config *other, const char *const *but)
{
    char a[CONFIG_TEXT], b[CONFIG_TEXT];
    for (int i = 0; i < config_key_count; i++) {
        const struct key *key = &config_keys[i];
        if (!is_named(key->name, but) && strcmp(key_text(key, one, a), key_text(key, other, b))) return key->name;
    }
    return NULL;
}

bool config_same(const struct config *one, const struct config *other, const char *const *names)
{
    char a[CONFIG_TEXT], b[CONFIG_TEXT];
    for (int i = 0; i < config_key_count; i++) {
        const struct key *key = &config_keys[i];
        if (is_named(key->name, names) && strcmp(key_text(key, one, a), key_text(key, other, b))) return false;
    }
    return true;
}

/* Code points that cannot stand as they are between double quotes in YAML: controls, line separators, the byte order mark and
 * those that are no characters. */
static bool must_escape(int code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0x2028 || code == 0x2029 || code == 0xfeff ||
           code == 0xfffe || code == 0xffff;
}

static void write_quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (int bytes; *text; text += bytes) {
        int code = utf8_next(text, &bytes);
        if (code == '"' || code == '\\')
            fprintf(out, "\\%c", code);
        else if (must_escape(code))
            fprintf(out, "\\u%04x", (unsigned)(code < 0 ? 0xfffd : code));
        else
            fwrite(text, 1, (size_t)bytes, out);
    }
    fputc('"', out);
}

/* The part of a key's name before the dot: its length in *length, 0 for a key of no group. Returns the part behind it. */
static const char *split_name(const char *name, int *length)
{
    const char *dot = strchr(name, '.');
    *length = dot ? (int)(dot - name) : 0;
    return dot ? dot + 1 : name;
}

/* True when key i is the first of its group. */
static bool starts_group(int i, int length)
{
    int before = 0;
    if (i > 0) split_name(config_keys[i - 1].name, &before);
    return i == 0 || before != length || strncmp(config_keys[i - 1].name, config_keys[i].name, (size_t)length) != 0;
}

char *config_text(const struct config *config)
{
    char *buffer = NULL, value[CONFIG_TEXT];
    size_t bytes = 0;
    FILE *out = open_memstream(&buffer, &bytes);
    CHECK(out, "out of memory for the text of a config");
    for (int i = 0; i < config_key_count; i++) {
        const struct key *key = &config_keys[i];
        int group;
        const char *word = split_name(key->name, &group);
        if (group && starts_group(i, group)) fprintf(out, "%.*s:\n", group, key->name);
        fprintf(out, "%s%s: ", group ? "  " : "", word);
        key_text(key, config, value);
        if (key->type == KEY_TEXT)
            write_quoted(out, value);
        else
            fputs(value, out);
        fputc('\n', out);
    }
    CHECK(fclose(out) == 0, "out of memory for the text of a config");
    char *text = memory_string(buffer);
    free(buffer);
    return text;
}

void config_help(FILE *out)
{
    struct config config;
    char value[CONFIG_TEXT], allowed[CONFIG_TEXT];
    config_default(&config);
    fputs("The keys of a config: nested maps or dotted keys in a YAML file, key=value on the command line.\n"
          "Order: defaults, the model preset, the file, the command line.\n",
          out);
    for (int i = 0; i < config_key_count; i++) {
        const struct key *key = &config_keys[i];
        int group;
        split_name(key->name, &group);
        if (starts_group(i, group)) fputc('\n', out);
        key_text(key, &config, value);
        fprintf(out, "%s: %s", key->name, *value ? value : "\"\"");
        bool differs = key->astromer1 && strcmp(key->astromer1, key->initial) != 0 && strcmp(key->astromer1, "astromer1") != 0;
        if (differs) fprintf(out, " (astromer1: %s)", key->astromer1);
        fprintf(out, "    [%s]\n    %s\n", key_allowed(key, allowed), key->help);
    }
}

const char *config_name(const char *key, int value)
{
    const struct key *found = key_find(key);
    CHECK(found && found->words, "no config key %s with words", key);
    for (int i = 0; found->words[i]; i++)
        if (i == value) return found->words[i];
    fatal(__FILE__, __LINE__, "config key %s has no value %d", key, value);
}
