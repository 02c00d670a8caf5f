/* SPDX-License-Identifier: MIT */
#include "commands/experiment_grid.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"
#include "commands/files.h"

/* Lists ------------------------------------------------------------------------------------------------------------------ */

/* The next word of a list with commas, copied without the space around it; false at the end. */
static bool next_word(const char **list, char word[CONFIG_TEXT])
{
    const char *p = *list + strspn(*list, " \t,");
    size_t length = strcspn(p, ",");
    if (length == 0) return false;
    *list = p + length;
    while (length > 0 && strchr(" \t", p[length - 1])) length--;
    snprintf(word, CONFIG_TEXT, "%.*s", (int)length, p);
    return true;
}

static int count_words(const char *list)
{
    char word[CONFIG_TEXT];
    int count = 0;
    while (next_word(&list, word)) count++;
    return count;
}

static int read_heads(struct grid *grid, struct error *error)
{
    const char *list = grid->config->experiment.heads;
    char word[CONFIG_TEXT];
    while (next_word(&list, word)) {
        int kind = 0;
        while (kind < HEAD_KINDS && strcmp(word, head_names[kind])) kind++;
        if (kind == HEAD_KINDS) {
            const char *nearest = nearest_word(word, head_names, HEAD_KINDS);
            return error_set(error, STATUS_USAGE, "experiment.heads: there is no head '%s'%s%s%s", word,
                             nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
        }
        grid->heads |= 1u << kind;
    }
    if (!grid->heads) return error_set(error, STATUS_USAGE, "experiment.heads names none");
    return STATUS_OK;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int read_sample_counts(struct grid *grid, struct error *error)
{
    const char *list = grid->config->experiment.samples;
    char word[CONFIG_TEXT];
    while (next_word(&list, word)) {
        int64_t value;
        if (!text_integer(word, &value) || value < 1 || value > 1000000000)
            return error_set(error, STATUS_USAGE, "experiment.samples: '%s' is not a number of light curves", word);
        if (grid->sample_counts == SAMPLE_COUNTS_MOST)
            return error_set(error, STATUS_USAGE, "experiment.samples: more than %d numbers", SAMPLE_COUNTS_MOST);
        grid->samples[grid->sample_counts++] = value;
    }
    if (!grid->sample_counts) return error_set(error, STATUS_USAGE, "experiment.samples names none");
    qsort(grid->samples, (size_t)grid->sample_counts, sizeof *grid->samples, ascending);
    for (int i = 1; i < grid->sample_counts; i++)
        if (grid->samples[i] == grid->samples[i - 1])
            return error_set(error, STATUS_USAGE, "experiment.samples has %lld twice", (long long)grid->samples[i]);
    return STATUS_OK;
}

static int read_surveys(struct grid *grid, struct error *error)
{
    const struct config *config = grid->config;
    const char *list = config->experiment.surveys;
    int count = count_words(list);
    if (!count) return error_set(error, STATUS_USAGE, "experiment.surveys names none");
    grid->survey = memory_zeroed((size_t)count, sizeof *grid->survey, "an experiment's surveys");
    while (grid->survey_count < count) {
        struct grid_survey *s = &grid->survey[grid->survey_count];
        next_word(&list, s->path);
        size_t length = strlen(s->path);
        while (length > 1 && s->path[length - 1] == '/') s->path[--length] = 0;
        const char *slash = strrchr(s->path, '/');
        snprintf(s->folder, sizeof s->folder, "%s/%s", config->experiment.dir, slash ? slash + 1 : s->path);
        for (int other = 0; other < grid->survey_count; other++)
            if (!strcmp(grid->survey[other].folder, s->folder))
                return error_set(error, STATUS_USAGE, "experiment.surveys: %s and %s would share the folder %s",
                                 grid->survey[other].path, s->path, s->folder);
        grid->survey_count++;
    }
    return STATUS_OK;
}

int grid_read(struct grid *grid, const struct config *config, struct error *error)
{
    *grid = (struct grid){.config = config};
    if (!config->experiment.dir[0]) return error_set(error, STATUS_USAGE, "experiment.dir is not set: the folder of the results");
    if (read_heads(grid, error) || read_sample_counts(grid, error) || read_surveys(grid, error)) return error->status;
    bool encoder = false;
    for (int kind = 0; kind < HEAD_KINDS; kind++) encoder |= head_uses_encoder(kind) && grid->heads >> kind & 1;
    if ((encoder || config->experiment.unseen) && !config->experiment.checkpoint[0])
        return error_set(error, STATUS_USAGE, "experiment.checkpoint is not set: %s",
                         encoder ? "heads such as skip read an encoder" : "experiment.unseen asks what it has not seen");
    return STATUS_OK;
}

void grid_release(struct grid *grid)
{
    for (int i = 0; i < grid->survey_count; i++) {
        folds_release(&grid->survey[i].folds);
        survey_close(&grid->survey[i].survey);
    }
    memory_free(grid->survey);
    *grid = (struct grid){0};
}

/* Cells ------------------------------------------------------------------------------------------------------------------ */

void grid_cell_folder(const struct grid *grid, int survey, int samples, int fold, char path[GRID_PATH])
{
    const struct grid_survey *s = &grid->survey[survey];
    snprintf(path, GRID_PATH, "%s/fold%d-n%lld", s->folder, fold, (long long)s->folds.samples[samples]);
}

void grid_cell_path(const struct grid *grid, int survey, int samples, int fold, int head, char path[GRID_PATH])
{
    const struct grid_survey *s = &grid->survey[survey];
    snprintf(path, GRID_PATH, "%s/fold%d-n%lld/%s.h5", s->folder, fold, (long long)s->folds.samples[samples], head_names[head]);
}

struct prediction_origin grid_origin(const struct grid *grid, int survey, int samples, int fold, int head)
{
    const struct config *config = grid->config;
    return (struct prediction_origin){.folds = &grid->survey[survey].folds,
                                      .fold = fold,
                                      .samples = samples,
                                      .head = head,
                                      .encoder_trained = config->experiment.train_encoder,
                                      .checkpoint = head_uses_encoder(head) ? config->experiment.checkpoint : NULL};
}

static bool finished(const struct grid *grid, int survey, int samples, int fold, int head, struct prediction_summary *summary)
{
    char path[GRID_PATH];
    struct error ignored = {0};
    struct prediction_origin origin = grid_origin(grid, survey, samples, fold, head);
    grid_cell_path(grid, survey, samples, fold, head, path);
    return access(path, F_OK) == 0 && prediction_file_summary(path, &origin, summary, &ignored) == STATUS_OK;
}

/* Units ------------------------------------------------------------------------------------------------------------------ */

/* How long a head takes a window, roughly, as measured against each other on a CPU; finetuning and the encoder's passes count as
 * a head of their own. */
static const double head_cost[HEAD_KINDS] = {
    [HEAD_SKIP] = 1,    [HEAD_AVG] = 1,          [HEAD_MAX] = 1,       [HEAD_ATT_AVG] = 1,
    [HEAD_ATT_CLS] = 3, [HEAD_BASE_AVGPOOL] = 2, [HEAD_BASE_GRU] = 20, [HEAD_RAW_GRU] = 12};
static const double encoder_cost = 20;

static double unit_cost(const struct grid *grid, const struct unit *unit)
{
    const struct folds *folds = &grid->survey[unit->survey].folds;
    const struct fold *fold = &folds->fold[unit->fold];
    double heads = 0, training = (double)fold->training[unit->samples].count, test = (double)fold->test.count;
    bool encoder = false;
    for (int kind = 0; kind < HEAD_KINDS; kind++)
        if (unit->heads >> kind & 1) heads += head_cost[kind], encoder |= head_uses_encoder(kind);
    return heads * (training + 0.1 * test) + (encoder ? encoder_cost * (training + test) : 0);
}

static void add_unit(const struct grid *grid, struct unit *units, int *count, struct unit unit)
{
    if (!unit.heads) return;
    unit.cost = unit_cost(grid, &unit);
    units[(*count)++] = unit;
}

static int costliest_first(const void *a, const void *b)
{
    const struct unit *x = a, *y = b;
    if (x->cost != y->cost) return x->cost < y->cost ? 1 : -1;
    return memcmp(x, y, offsetof(struct unit, cost));
}

/* Each unit to the rank that has least to do so far. */
static void deal(struct unit *units, int count, int ranks)
{
    double *load = memory_zeroed((size_t)ranks, sizeof *load, "the ranks' shares");
    qsort(units, (size_t)count, sizeof *units, costliest_first);
    for (int i = 0; i < count; i++) {
        int least = 0;
        for (int r = 1; r < ranks; r++)
            if (load[r] < load[least]) least = r;
        units[i].rank = least;
        load[least] += units[i].cost;
    }
    memory_free(load);
}

static void add_units(const struct grid *grid, int survey, int samples, int fold, struct unit *units, int *count)
{
    struct unit encoder = {.survey = survey, .samples = samples, .fold = fold}, baseline = encoder;
    struct prediction_summary ignored;
    for (int kind = 0; kind < HEAD_KINDS; kind++) {
        if (!(grid->heads >> kind & 1) || finished(grid, survey, samples, fold, kind, &ignored)) continue;
        if (head_uses_encoder(kind)) {
            encoder.heads |= 1u << kind;
        } else {
            baseline.heads = 1u << kind;
            add_unit(grid, units, count, baseline);
        }
    }
    add_unit(grid, units, count, encoder);
}

struct unit *grid_units(const struct grid *grid, int ranks, int *count)
{
    size_t most = 0;
    *count = 0;
    for (int s = 0; s < grid->survey_count; s++)
        most += (size_t)grid->survey[s].folds.fold_count * (size_t)grid->survey[s].folds.sample_counts * HEAD_KINDS;
    struct unit *units = memory_zeroed(most, sizeof *units, "an experiment's units");
    for (int s = 0; s < grid->survey_count; s++)
        for (int n = 0; n < grid->survey[s].folds.sample_counts; n++)
            for (int fold = 0; fold < grid->survey[s].folds.fold_count; fold++) add_units(grid, s, n, fold, units, count);
    deal(units, *count, ranks);
    return units;
}

/* What came out ---------------------------------------------------------------------------------------------------------- */

int grid_write_results(const struct grid *grid, const char *path, struct error *error)
{
    struct text_file out;
    if (text_file_begin(&out, path, error)) return error->status;
    for (int s = 0; s < grid->survey_count; s++)
        for (int n = 0; n < grid->survey[s].folds.sample_counts; n++)
            for (int fold = 0; fold < grid->survey[s].folds.fold_count; fold++)
                for (int kind = 0; kind < HEAD_KINDS; kind++) {
                    struct prediction_summary summary;
                    struct json json;
                    if (!finished(grid, s, n, fold, kind, &summary)) continue;
                    struct prediction_origin origin = grid_origin(grid, s, n, fold, kind);
                    json_begin(&json);
                    prediction_json(&json, &summary, &origin);
                    if (json_end(&json, out.file))
                        error_set(error, STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
                }
    return text_file_end(&out, error);
}

/* "0.653 +- 0.012" of the folds that are finished. */
static void print_mean(const struct grid *grid, int survey, int samples, int head, bool stars, FILE *out)
{
    int folds = grid->survey[survey].folds.fold_count, count = 0;
    double sum = 0, squares = 0;
    for (int fold = 0; fold < folds; fold++) {
        struct prediction_summary s;
        if (!finished(grid, survey, samples, fold, head, &s)) continue;
        double f1 = stars ? s.star_macro_f1 : s.macro_f1;
        count++, sum += f1, squares += f1 * f1;
    }
    if (count == 0) {
        fprintf(out, "  %14s", "-");
        return;
    }
    double mean = sum / count, variance = count > 1 ? (squares - sum * mean) / (count - 1) : 0;
    fprintf(out, "  %.3f +- %.3f", mean, sqrt(variance > 0 ? variance : 0));
}

/* Wanted now, or there from an earlier start. */
static bool has_row(const struct grid *grid, int survey, int head)
{
    const struct folds *folds = &grid->survey[survey].folds;
    struct prediction_summary ignored;
    if (grid->heads >> head & 1) return true;
    for (int n = 0; n < folds->sample_counts; n++)
        for (int fold = 0; fold < folds->fold_count; fold++)
            if (finished(grid, survey, n, fold, head, &ignored)) return true;
    return false;
}

static void print_survey(const struct grid *grid, int survey, bool stars, FILE *out)
{
    const struct folds *folds = &grid->survey[survey].folds;
    fprintf(out, "%s: macro F1 over %s, mean and standard deviation of %d folds\n", folds->survey_name,
            stars ? "stars" : "windows", folds->fold_count);
    fprintf(out, "%-14s", "head");
    for (int n = 0; n < folds->sample_counts; n++) fprintf(out, "  %8lld/class", (long long)folds->samples[n]);
    fprintf(out, "\n");
    for (int kind = 0; kind < HEAD_KINDS; kind++) {
        if (!has_row(grid, survey, kind)) continue;
        fprintf(out, "%-14s", head_names[kind]);
        for (int n = 0; n < folds->sample_counts; n++) print_mean(grid, survey, n, kind, stars, out);
        fprintf(out, "\n");
    }
}

int grid_print_table(const struct grid *grid, FILE *out, struct error *error)
{
    for (int s = 0; s < grid->survey_count; s++) {
        if (s) fprintf(out, "\n");
        print_survey(grid, s, false, out);
        fprintf(out, "\n");
        print_survey(grid, s, true, out);
    }
    return ferror(out) ? error_set(error, STATUS_FAILED, "the table cannot be written: %s", strerror(errno)) : STATUS_OK;
}
