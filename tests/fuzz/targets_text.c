/* SPDX-License-Identifier: MIT
 *
 * Text that a stranger may have made: each raw format of ingest through both passes up to the cuts, labels, configs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/memory.h"
#include "survey/columns.h"
#include "survey/curves.h"
#include "survey/formats/formats.h"
#include "survey/labels.h"
#include "targets.h"

enum { SHARDS = 2 };

/* The second pass over what the first has left: every row ends somewhere, as ingest itself checks. */
static void take_rows(const char *folder, char *const *paths, int64_t *tally, struct error *error)
{
    struct labels no_labels = {0};
    int64_t ends = tally[TALLY_BAD_FIELDS] + tally[TALLY_BAD_ID] + tally[TALLY_BAD_NUMBER] + tally[TALLY_BAD_ERROR];
    for (int s = 0; s < SHARDS && !error->status; s++) {
        struct stars stars;
        struct cuts cuts = {.filter = FILTER_OFF};
        if (stars_open(&stars, folder, 1, s, error)) break;
        curves_check_sources(&stars, paths, error);
        while (!error->status && !stars_next(&stars, error)) {
            struct curves curves = {0};
            CHECK(stars.observation, "a portion without memory for its rows");
            curves_make(&curves, &stars, &cuts, &no_labels, tally, NULL);
            curves_release(&curves);
            if (stars.end == stars.count) break;
        }
        stars_close(&stars);
    }
    ends += tally[TALLY_DUPLICATES] + tally[TALLY_PERCENTILE] + tally[TALLY_ROWS_SHORT] + tally[TALLY_ROWS_CALM];
    ends += tally[TALLY_ROWS_KEPT];
    CHECK(error->status || ends == tally[TALLY_ROWS], "%lld rows in, %lld out", (long long)tally[TALLY_ROWS], (long long)ends);
}

/* A file of ingest as ingest reads it. */
static void ingest_file(const char *folder, const char *name, char band, const uint8_t *bytes, size_t count)
{
    char path[4096], *paths[1] = {path};
    struct error error = {0};
    struct reader reader;
    struct spill spill;
    struct head head = {0};
    struct columns columns = {{NULL}};
    int64_t tally[TALLY_COUNT] = {0};
    bool band_seen[2] = {false};
    struct progress progress = {0};
    struct sink sink = {.tally = tally, .columns = &columns, .band = band, .band_seen = band_seen, .file_number = 1, .files = 1};
    fuzz_file(path, folder, name, bytes, count);
    spill_begin(&spill, folder, 0, SHARDS);
    sink.spill = &spill;
    sink.progress = &progress;
    if (!reader_open(&reader, path, &error)) {
        const struct format *format = format_find(&reader, &head, &sink, &error);
        if (format && !format->parse(&reader, &head, &sink, &error)) spill_finish(&spill, &error);
        head_release(&head);
        reader_close(&reader);
        if (!error.status) take_rows(folder, paths, tally, &error);
    }
    for (int s = 0; s < SHARDS; s++) spill_remove(folder, 1, s);
    spill_release(&spill);
    unlink(path);
}

static void macho_dump(const char *folder, const uint8_t *bytes, size_t count)
{
    ingest_file(folder, "F_1.3444", 'B', bytes, count);
}
static void macho_star(const char *folder, const uint8_t *bytes, size_t count)
{
    ingest_file(folder, "lc_1.3444.614.B.mjd", 0, bytes, count);
}
static void long_csv(const char *folder, const uint8_t *bytes, size_t count)
{
    ingest_file(folder, "table.csv", 0, bytes, count);
}
static void star_csv(const char *folder, const uint8_t *bytes, size_t count)
{
    ingest_file(folder, "star-1.dat", 0, bytes, count);
}

/* The first line is the file's name. */
static void file_name(const char *folder, const uint8_t *bytes, size_t count)
{
    char name[256];
    const uint8_t *newline = memchr(bytes, '\n', count);
    size_t length = newline ? (size_t)(newline - bytes) : 0;
    if (length < 1 || length > 255 || memchr(bytes, 0, length) || memchr(bytes, '/', length)) return;
    memcpy(name, bytes, length);
    name[length] = 0;
    if (!strcmp(name, ".") || !strcmp(name, "..") || !strncmp(name, "spill-", 6)) return;
    ingest_file(folder, name, 0, newline + 1, count - length - 1);
}

static void labels(const char *folder, const uint8_t *bytes, size_t count)
{
    char path[4096];
    struct error error = {0};
    struct labels labels;
    fuzz_file(path, folder, "labels.csv", bytes, count);
    if (!labels_read(&labels, path, &error)) {
        for (int64_t i = 0; i < labels.count; i++) {
            CHECK(labels.label[i].class >= 0 && labels.label[i].class < labels.class_count, "a class that is not there");
            CHECK(labels_find(&labels, labels.label[i].id) == i, "a label that is not found");
        }
        labels_release(&labels);
    }
    unlink(path);
}

/* A config that is taken must come back the same from its own text: checkpoints and restarts live on that. */
static void same_again(const struct config *config)
{
    struct error error = {0};
    struct config again;
    char *text = config_text(config);
    CHECK(!config_parse(&again, text, "again", &error), "the config's own text is refused: %s", error.message);
    char *twice = config_text(&again);
    CHECK(!strcmp(text, twice), "the config's own text means something else");
    memory_free(text);
    memory_free(twice);
}

static void config(const char *folder, const uint8_t *bytes, size_t count)
{
    char path[4096];
    struct error error = {0};
    struct config config;
    fuzz_file(path, folder, "config.yaml", bytes, count);
    if (!config_read(&config, path, 0, NULL, &error)) same_again(&config);
    unlink(path);
}

/* Lines as the words of a command line. */
static void config_words(const char *folder, const uint8_t *bytes, size_t count)
{
    enum { WORDS_MOST = 64 };
    struct error error = {0};
    struct config config;
    char *text = memory_new(count + 1, 1, "words"), *rest = text, *word[WORDS_MOST], *next;
    int words = 0;
    (void)folder;
    memcpy(text, bytes, count);
    text[count] = 0;
    while (words < WORDS_MOST && (next = strsep(&rest, "\n"))) word[words++] = next;
    if (!config_read(&config, NULL, words, word, &error)) same_again(&config);
    memory_free(text);
}

/* --columns */
static void column_option(const char *folder, const uint8_t *bytes, size_t count)
{
    struct error error = {0};
    struct columns columns;
    char *text = memory_new(count + 1, 1, "an option");
    (void)folder;
    memcpy(text, bytes, count);
    text[count] = 0;
    columns_read(&columns, text, &error);
    columns_release(&columns);
    memory_free(text);
}

const struct fuzz_target fuzz_text_targets[] = {
    {"macho-dump", macho_dump}, {"macho-star", macho_star},
    {"long-csv", long_csv},     {"star-csv", star_csv},
    {"file-name", file_name},   {"labels", labels},
    {"config", config},         {"config-words", config_words},
    {"columns", column_option}, {NULL, NULL},
};
