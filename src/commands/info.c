/* SPDX-License-Identifier: MIT
 *
 * astromer info: what a file or folder is, in words. Whatever is described has been checked first, checksums included, so that
 * info is also the command to run on a file that one is not sure about. Rank 0 does all of it. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <hdf5.h>

#include "base/memory.h"
#include "base/progress.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "commands/commands.h"
#include "commands/embedding_reader.h"
#include "commands/folds_text.h"
#include "commands/options.h"
#include "commands/prediction_file.h"
#include "commands/vet.h"
#include "survey/survey.h"

enum { PATH_BYTES = 4096, LOG_LINES = 4, LOG_TAIL_BYTES = 1 << 14 };

static const char about[] =
    "Says what a file or folder of this program is: a survey or one of its shards, folds of one, a checkpoint, the\n"
    "folder of a run.\n"
    "Everything is read and every checksum verified; a damaged file is named and the exit status is 1.";

static const char examples[] = "Examples:\n  astromer info surveys/asas\n  astromer info runs/asas runs/asas/best.h5";

/* Text of a file, line by line and indented; what a terminal might take for a command is not shown. */
static void print_text(const char *title, const char *text)
{
    printf("  %-14s", title);
    if (!*text) printf("-\n");
    for (bool first = true; *text; first = false) {
        size_t length = strcspn(text, "\n");
        if (!first) printf("  %-14s", "");
        for (size_t i = 0; i < length; i++) putchar((unsigned char)text[i] < ' ' || text[i] == 127 ? '?' : text[i]);
        putchar('\n');
        text += length + (text[length] == '\n');
    }
}

static void print_line(const char *title, const char *text)
{
    char safe[SHOWN_TEXT];
    printf("  %-14s%s\n", title, *text ? shown(text, safe) : "-");
}

/* Surveys and shards -------------------------------------------------------------------------------------------- */

/* What light curves have in common, summed up over shards. */
struct summary {
    int64_t curves, observations, unlabelled;
    int64_t *length; /* of every curve; owned */
    size_t capacity;
    double first_day, last_day;
    bool labelled;
    int64_t *class_count; /* owned */
};

static int compare_lengths(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return a < b ? -1 : a > b;
}

/* Times are in order within a curve, so its first and last are enough. */
static int add_time(struct summary *summary, const struct shard *shard, int64_t curve, int64_t observation, struct error *error)
{
    double time;
    float magnitude, error_mag;
    if (shard_read(shard, curve, observation, 1, &time, &magnitude, &error_mag, error)) return error->status;
    if (summary->first_day > time) summary->first_day = time;
    if (summary->last_day < time) summary->last_day = time;
    return STATUS_OK;
}

static int add_shard(struct summary *summary, const struct shard *shard, struct error *error)
{
    size_t needed = (size_t)(summary->curves + shard->count);
    memory_grow((void **)&summary->length, &summary->capacity, needed, sizeof *summary->length, "lengths");
    for (int64_t c = 0; c < shard->count; c++) {
        int64_t length = (int64_t)(shard->offset[c + 1] - shard->offset[c]);
        summary->length[summary->curves++] = length;
        summary->observations += length;
        if (add_time(summary, shard, c, 0, error) || add_time(summary, shard, c, length - 1, error)) return error->status;
        summary->labelled = summary->labelled || shard->label;
        if (shard->label && shard->label[c] >= 0)
            summary->class_count[shard->label[c]]++;
        else
            summary->unlabelled++;
    }
    return STATUS_OK;
}

static void print_classes(const struct summary *summary, const struct survey_identity *identity)
{
    char name[SHOWN_TEXT];
    for (int c = 0; c < identity->class_count; c++)
        printf("  %-14s%-20s %lld\n", c ? "" : "classes", shown(identity->classes[c], name), (long long)summary->class_count[c]);
    if (identity->class_count && summary->unlabelled) printf("  %-14s%-20s %lld\n", "", "(none)", (long long)summary->unlabelled);
    if (!identity->class_count) printf("  %-14snone: the light curves have no labels\n", "classes");
}

static void print_summary(struct summary *summary, const struct survey_identity *identity)
{
    printf("  %-14s%lld\n", "light curves", (long long)summary->curves);
    printf("  %-14s%lld\n", "observations", (long long)summary->observations);
    if (summary->curves) {
        qsort(summary->length, (size_t)summary->curves, sizeof *summary->length, compare_lengths);
        printf("  %-14sshortest %lld, median %lld, longest %lld observations\n", "lengths", (long long)summary->length[0],
               (long long)summary->length[summary->curves / 2], (long long)summary->length[summary->curves - 1]);
        printf("  %-14sMJD %.3f to %.3f, %.1f days\n", "time span", summary->first_day, summary->last_day,
               summary->last_day - summary->first_day);
    }
    print_classes(summary, identity);
    print_text("cuts", identity->cuts ? identity->cuts : "");
    print_line("survey id", identity->survey_id);
}

static struct summary summary_new(const struct survey_identity *identity)
{
    return (struct summary){.first_day = INFINITY,
                            .last_day = -INFINITY,
                            .class_count = memory_zeroed((size_t)identity->class_count, sizeof(int64_t), "classes")};
}

static void summary_free(struct summary *summary)
{
    memory_free(summary->length);
    memory_free(summary->class_count);
}

static int describe_survey(const char *path, struct comm *self, struct error *error)
{
    struct survey survey;
    if (vet(VET_SURVEY, path, self, error) || survey_open(&survey, path, self, 0, error)) return error->status;
    struct summary summary = summary_new(&survey.identity);
    for (int s = 0; s < survey.shards && !error->status; s++) add_shard(&summary, &survey.shard[s], error);
    if (!error->status) {
        printf("survey %s\n", path);
        print_line("name", survey.identity.name);
        print_line("band", survey.identity.band);
        printf("  %-14s%d, all whole\n", "shards", survey.shards);
        print_summary(&summary, &survey.identity);
    }
    summary_free(&summary);
    survey_close(&survey);
    return error->status;
}

static int describe_shard(const char *path, struct error *error)
{
    struct shard shard;
    if (shard_open(&shard, path, false, error)) return error->status;
    struct summary summary = summary_new(&shard.identity);
    if (!add_shard(&summary, &shard, error)) {
        printf("shard %s\n", path);
        printf("  %-14snumber %d of %d (they count from 0), whole\n", "shard", shard.index, shard.shards);
        print_line("of the survey", shard.identity.name);
        print_line("band", shard.identity.band);
        print_summary(&summary, &shard.identity);
    }
    summary_free(&summary);
    shard_close(&shard);
    return error->status;
}

static int describe_embeddings(const char *path, struct error *error)
{
    struct embedding_reader reader;
    if (!embedding_reader_open(&reader, path, error)) {
        printf("embeddings %s\n", path);
        print_line("of the survey", reader.survey);
        printf("  %-14s%lld of %lld light curves\n", "windows", (long long)reader.windows, (long long)reader.curves);
        printf("  %-14s%d numbers a window, the %s over its observations\n", "embedding", reader.width, reader.pool);
        if (reader.labelled) printf("  %-14s%d\n", "classes", reader.class_count);
    }
    embedding_reader_close(&reader);
    return error->status;
}

static int describe_folds(const char *path, struct error *error)
{
    struct folds folds;
    if (folds_read(&folds, path, error)) return error->status;
    printf("folds %s\n", path);
    print_line("of the survey", folds.survey_name);
    print_line("survey id", folds.survey_id);
    printf("  %-14s%d, drawn with seed %lld\n", "folds", folds.fold_count, (long long)folds.seed);
    printf("  %-14s%lld that any fold uses\n\n", "light curves", (long long)folds.stars);
    folds_print(&folds);
    folds_release(&folds);
    return STATUS_OK;
}

/* Checkpoints and runs ------------------------------------------------------------------------------------------ */

static void print_model(const struct config *config, const struct parameter_table *table,
                        const struct checkpoint_summary *summary)
{
    const struct model_config *m = &config->model;
    printf("  %-14s%d blocks, %d heads, width %d, FFN %d, %sleak, mask %s, alpha %g, %stoken, pe_base %g\n", "model", m->blocks,
           m->heads, m->width, m->ffn, m->leak ? "" : "no ", config_name("model.mask", m->mask), m->alpha, m->token ? "" : "no ",
           m->pe_base);
    printf("  %-14s%lld in %d tensors\n", "parameters", (long long)table->trainable, summary->tensors);
    printf("  %-14s%d observations\n", "window", config->data.window);
}

static void print_progress(const struct checkpoint_summary *summary)
{
    const struct progress_state *p = &summary->progress;
    char duration[32];
    if (p->step == 0)
        printf("  %-14snot by a run of this program, or not yet\n", "trained");
    else
        printf("  %-14s%lld steps, %lld windows, %s\n", "trained", (long long)p->step, (long long)p->windows_seen,
               duration_text(p->seconds, duration));
    if (p->skipped) printf("  %-14s%lld steps were not finite\n", "skipped", (long long)p->skipped);
    if (p->step) printf("  %-14s%lld done, %lld windows into the next\n", "epochs", (long long)p->epoch, (long long)p->position);
    if (p->best_epoch >= 0 && isfinite(p->best_rmse))
        printf("  %-14svalidation RMSE %.6g in epoch %lld, %lld epochs without a better one since\n", "best", p->best_rmse,
               (long long)p->best_epoch + 1, (long long)p->patience_used);
    printf("  %-14s%s\n", "holds", summary->resumable ? "weights and Adam's state: a run can go on from it" : "weights");
    printf("  %-14s%d verified", "checksums", summary->checked);
    if (summary->unchecked) printf(", %d datasets have none", summary->unchecked);
    putchar('\n');
}

/* Reads all of a checkpoint as a run would; memory for one buffer serves all three. */
static int read_checkpoint(const char *path, const struct parameter_table *table, bool resumable, struct comm *self,
                           struct error *error)
{
    float *buffer[3] = {NULL};
    for (int i = 0; i < (resumable ? 3 : 1); i++) buffer[i] = memory_new((size_t)table->total, sizeof(float), "a checkpoint");
    struct checkpoint checkpoint = {.table = table, .parameters = buffer[0], .adam_m = buffer[1], .adam_v = buffer[2]};
    checkpoint_read(path, &checkpoint, self, error);
    for (int i = 0; i < 3; i++) memory_free(buffer[i]);
    return error->status;
}

static int describe_checkpoint(const char *path, bool with_config, struct comm *self, struct error *error)
{
    struct checkpoint_summary summary = {0};
    struct parameter_table *table = NULL;
    struct config config;
    if (checkpoint_inspect(path, &summary, error) || checkpoint_read_config(path, &config, self, error)) goto cleanup;
    table = parameter_table_new(&config.model);
    if (read_checkpoint(path, table, summary.resumable, self, error)) goto cleanup;
    printf("checkpoint %s\n", path);
    print_model(&config, table, &summary);
    print_progress(&summary);
    if (with_config) print_text("config", summary.config_text);
cleanup:
    parameter_table_free(table);
    checkpoint_summary_release(&summary);
    return error->status;
}

static bool is_there(const char *folder, const char *name, char path[PATH_BYTES])
{
    struct stat status;
    snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return stat(path, &status) == 0;
}

/* The last lines of the log; a line cut off by a kill is not shown. */
static int print_log(const char *path, struct error *error)
{
    char tail[LOG_TAIL_BYTES + 1];
    FILE *file = fopen(path, "r");
    if (!file) return error_set(error, STATUS_FAILED, "%s: %s", path, strerror(errno));
    if (fseek(file, -LOG_TAIL_BYTES, SEEK_END)) rewind(file);
    size_t bytes = fread(tail, 1, LOG_TAIL_BYTES, file);
    fclose(file);
    tail[bytes] = 0;
    char *end = strrchr(tail, '\n');
    char *begin = end;
    if (!end) return STATUS_OK;
    *end = 0;
    for (int lines = 0; begin > tail && lines < LOG_LINES; begin--)
        if (begin[-1] == '\n' && ++lines == LOG_LINES) break;
    printf("log %s, its last lines\n", path);
    print_text("", begin);
    return STATUS_OK;
}

static int is_checkpoint_name(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return !strncmp(entry->d_name, "step-", 5) && length > 8 && !strcmp(entry->d_name + length - 3, ".h5");
}

/* Checks all checkpoints of a run: the newest whole one into `newest` ("" for none), a damaged one's error into `damage`. */
static void check_checkpoints(const char *run, char newest[2 * PATH_BYTES], struct error *damage)
{
    char folder[PATH_BYTES], path[2 * PATH_BYTES];
    struct dirent **entry = NULL;
    int whole = 0, damaged = 0;
    newest[0] = 0;
    snprintf(folder, sizeof folder, "%s/checkpoints", run);
    int count = scandir(folder, &entry, is_checkpoint_name, versionsort);
    for (int i = count - 1; i >= 0; i--) {
        struct error error = {0};
        snprintf(path, sizeof path, "%s/%s", folder, entry[i]->d_name);
        free(entry[i]);
        if (checkpoint_verify(path, &error)) {
            error_set(damage, error.status, "%s", error.message);
            damaged++;
        } else if (whole++ == 0) {
            snprintf(newest, 2 * PATH_BYTES, "%s", path);
        }
    }
    free(entry);
    printf("  %-14s%d whole, %d damaged\n", "checkpoints", whole, damaged);
}

static int describe_run(const char *path, struct comm *self, struct error *error)
{
    char newest[2 * PATH_BYTES], part[PATH_BYTES];
    struct error damage = {0};
    if (vet(VET_RUN, path, self, error)) return error->status;
    printf("run %s\n", path);
    check_checkpoints(path, newest, &damage);
    if (newest[0] && describe_checkpoint(newest, false, self, error)) return error->status;
    if (is_there(path, "best.h5", part)) describe_checkpoint(part, false, self, &damage);
    if (is_there(path, "log.jsonl", part) && print_log(part, error)) return error->status;
    return damage.status ? error_set(error, damage.status, "%s", damage.message) : STATUS_OK;
}

/* Which is it --------------------------------------------------------------------------------------------------- */

static bool has(hid_t file, const char *name)
{
    return H5Lexists(file, name, H5P_DEFAULT) > 0;
}

/* A file that cannot be opened goes to the checkpoint's reader, whose complaint fits any HDF5 file. */
static int describe_file(const char *path, struct comm *self, struct error *error)
{
    if (vet(VET_FILE, path, self, error)) return error->status;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    bool opened = file >= 0;
    bool is_shard = opened && has(file, "offset") && has(file, "time");
    bool is_golden = opened && has(file, "weights") && has(file, "expected");
    bool is_folds = opened && has(file, "curve") && has(file, "fold0");
    bool is_embeddings = opened && has(file, "embedding") && has(file, "first_window");
    bool is_predictions = opened && has(file, "star_confusion");
    bool is_checkpoint = !opened || has(file, "parameters") || has(file, "config");
    if (opened) H5Fclose(file);
    if (is_shard) return describe_shard(path, error);
    if (is_folds) return describe_folds(path, error);
    if (is_embeddings) return describe_embeddings(path, error);
    if (is_predictions) return prediction_file_describe(path, error);
    if (is_golden)
        return error_set(error, STATUS_FAILED, "%s: is a golden file; astromer check %s compares this program with it", path,
                         path);
    if (is_checkpoint) return describe_checkpoint(path, true, self, error);
    return error_set(error, STATUS_FAILED,
                     "%s: is an HDF5 file, but neither a shard nor folds nor a checkpoint nor a result of embed or classify",
                     path);
}

static int describe(const char *path, struct comm *self, struct error *error)
{
    struct stat status;
    char part[PATH_BYTES];
    if (stat(path, &status)) return error_set(error, STATUS_FAILED, "%s: %s", path, strerror(errno));
    if (S_ISREG(status.st_mode)) return describe_file(path, self, error);
    if (!S_ISDIR(status.st_mode)) return error_set(error, STATUS_FAILED, "%s: is neither a file nor a folder", path);
    if (is_there(path, "log.jsonl", part) || is_there(path, "checkpoints", part) || is_there(path, "best.h5", part))
        return describe_run(path, self, error);
    return describe_survey(path, self, error);
}

int command_info(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct operands operands;
    const struct usage usage = {"info", "SHARD|SURVEY|FOLDS|CHECKPOINT|RUN ...", about, NULL, "PATH", 1, -1, examples};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    struct comm *self = comm_split(comm, comm_rank(comm) == 0 ? 0 : -1);
    for (int i = 0; self && i < operands.count && !error->status; i++) {
        if (i) putchar('\n');
        describe(operands.word[i], self, error);
    }
    comm_free(self);
    return error->status;
}
