/* SPDX-License-Identifier: MIT
 *
 * The two passes. Ranks meet between them and at the end only, and agree there on what went wrong. */
#include "survey/ingest.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "base/text.h"
#include "survey/building.h"
#include "survey/curves.h"
#include "survey/formats/formats.h"

enum { SPILL_FILES_MOST = 1 << 22 };

struct job {
    const struct ingest_options *options;
    int files;
    char *const *paths;
    struct comm *comm;
    struct building building;
    struct columns columns;
    struct labels labels; /* count 0 without a labels file */
    struct survey_identity identity;
    struct ingest_report *report; /* this rank's own counts until the end */
    bool band_seen[2];            /* R, B in MACHO files */
    char table_band[BAND_BYTES];  /* of the first row of a table that says it, empty without one */
    uint64_t content;
};

/* --band as the MACHO formats understand it: 'R', 'B' or 0. */
static char macho_band(const char *band)
{
    return band && strlen(band) == 1 && strchr("RB", toupper((unsigned char)band[0])) ? (char)toupper((unsigned char)band[0]) : 0;
}

static int read_file(struct job *job, struct spill *spill, struct progress *progress, int file, struct error *error)
{
    struct reader reader;
    struct head head = {0};
    struct sink sink = {.spill = spill, .tally = job->report->tally, .columns = &job->columns, .band_seen = job->band_seen};
    if (reader_open(&reader, job->paths[file], error)) return error->status;
    sink.band = macho_band(job->options->band);
    sink.wanted = job->options->band;
    sink.table_band = job->table_band;
    sink.file_number = (uint32_t)file + 1;
    sink.progress = progress;
    sink.files = job->files;
    const struct format *format = format_find(&reader, &head, &sink, error);
    if (!format) goto cleanup;
    if ((format == &format_macho_dump || format == &format_macho_star) && job->options->band && !sink.band) {
        error_set(error, STATUS_USAGE, "%s: is a %s, which has the bands R and B, not %s", job->paths[file], format->name,
                  job->options->band);
        goto cleanup;
    }
    job->report->tally[TALLY_FILES]++;
    format->parse(&reader, &head, &sink, error);
cleanup:
    head_release(&head);
    reader_close(&reader);
    return error->status;
}

/* The first pass: this rank's files into its spill. */
static int read_files(struct job *job, struct error *error)
{
    struct spill spill;
    struct progress progress;
    double start = clock_seconds();
    progress_begin(&progress, comm_rank(job->comm) == 0);
    spill_begin(&spill, job->building.partial, comm_rank(job->comm), job->options->shards);
    for (int f = comm_rank(job->comm); f < job->files && !error->status; f += comm_size(job->comm)) {
        read_file(job, &spill, &progress, f, error);
    }
    if (!error->status) spill_finish(&spill, error);
    job->content = spill.content;
    spill_release(&spill);
    progress_end(&progress);
    job->report->read_seconds = clock_seconds() - start;
    return comm_agree(job->comm, error);
}

/* Tables beside MACHO files are of the one band that these have, or --band chooses. The same on all ranks. */
static int check_bands(const struct job *job, struct error *error)
{
    const bool *seen = job->band_seen;
    char quoted[SHOWN_TEXT];
    if (job->options->band || (!seen[0] && !seen[1])) return STATUS_OK;
    if (seen[0] != seen[1] && !strcmp(job->table_band, seen[0] ? "R" : "B")) return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "the MACHO files are of band %s and the tables of band '%s'; a survey has one band, choose it with --band",
                     seen[0] && seen[1] ? "R and B"
                     : seen[0]          ? "R"
                                        : "B",
                     shown(job->table_band, quoted));
}

/* The tables' band is the same on all ranks, or with --band no more than an example: all take that of the lowest rank with one.
 * Collective. */
static int share_bands(struct job *job, struct error *error)
{
    char own[BAND_BYTES], quoted[2][SHOWN_TEXT];
    int64_t seen[2] = {job->band_seen[0], job->band_seen[1]};
    comm_max_int64(job->comm, seen, 2);
    job->band_seen[0] = seen[0], job->band_seen[1] = seen[1];
    int64_t nearness = job->table_band[0] ? comm_size(job->comm) - comm_rank(job->comm) : 0;
    memcpy(own, job->table_band, sizeof own);
    comm_max_int64(job->comm, &nearness, 1);
    if (nearness == 0) return STATUS_OK;
    comm_broadcast(job->comm, job->table_band, sizeof job->table_band, comm_size(job->comm) - (int)nearness);
    if (!job->options->band && own[0] && strcmp(own, job->table_band))
        error_set(error, STATUS_FAILED,
                  "the tables have rows of band '%s' and of band '%s'; a survey has one band, choose it "
                  "with --band",
                  shown(job->table_band, quoted[0]), shown(own, quoted[1]));
    return comm_agree(job->comm, error) ? error->status : check_bands(job, error);
}

/* The band that the survey is said to have. */
static void name_band(struct job *job)
{
    const bool *seen = job->band_seen;
    char *band = job->report->band;
    if (job->options->band)
        snprintf(band, sizeof job->report->band, "%s", job->options->band);
    else
        snprintf(band, sizeof job->report->band, "%s%s%s", seen[1] ? "B" : "", seen[0] && seen[1] ? "," : "", seen[0] ? "R" : "");
    if (!job->options->band && !seen[0] && !seen[1]) memcpy(band, job->table_band, sizeof job->report->band);
    if (macho_band(job->options->band) && (seen[0] || seen[1])) snprintf(band, 2, "%c", macho_band(job->options->band));
    memcpy(job->identity.band, band, sizeof job->identity.band);
}

/* A survey id that is a function of what goes into the survey and of nothing else: rows, options, labels. */
static void name_survey(struct job *job)
{
    /* 64-bit sums modulo 2^64 over the ranks, in two halves that cannot overflow. */
    int64_t halves[2] = {(int64_t)(job->content & 0xffffffffu), (int64_t)(job->content >> 32)};
    comm_sum_int64(job->comm, halves, 2);
    uint64_t content = (uint64_t)halves[0] + ((uint64_t)halves[1] << 32);
    uint64_t other = bytes_hash(job->identity.cuts, strlen(job->identity.cuts));
    other = mix64(other ^ bytes_hash(job->identity.band, strlen(job->identity.band)) ^ mix64((uint64_t)job->options->shards));
    for (int64_t i = 0; i < job->labels.count; i++) {
        const struct label *label = &job->labels.label[i];
        const char *class = job->labels.classes[label->class];
        other = mix64(other + bytes_hash(label->id, strlen(label->id))) ^ bytes_hash(class, strlen(class));
    }
    snprintf(job->identity.survey_id, sizeof job->identity.survey_id, "%016llx%016llx",
             (unsigned long long)mix64(content ^ mix64(other)), (unsigned long long)mix64(other + mix64(content + 1)));
}

/* The light curves of the portion in memory go into the shard. */
static int append_portion(struct job *job, struct stars *stars, struct shard_writer *writer, struct error *error)
{
    struct curves curves = {0};
    curves_make(&curves, stars, &job->options->cuts, &job->labels, job->report->tally, job->report->class_curves);
    shard_append(writer, &curves, error);
    curves_release(&curves);
    return error->status;
}

/* Everything of one shard: from the spill to its file. */
static int make_shard(struct job *job, int shard, struct error *error)
{
    struct stars stars;
    struct shard_writer writer;
    const char *folder = job->building.partial;
    int ranks = comm_size(job->comm);
    if (stars_open(&stars, folder, ranks, shard, error)) return error->status;
    if (!curves_check_sources(&stars, job->paths, error)) {
        shard_begin(&writer, folder, shard, job->options->shards, error);
        while (!error->status && !stars_next(&stars, error)) {
            append_portion(job, &stars, &writer, error);
            if (stars.end == stars.count) break;
        }
        shard_finish(&writer, &job->identity, error);
    }
    if (!error->status) spill_remove(folder, ranks, shard);
    stars_close(&stars);
    return error->status;
}

/* The second pass: this rank's shards. */
static int make_shards(struct job *job, struct error *error)
{
    struct progress progress;
    progress_begin(&progress, comm_rank(job->comm) == 0);
    for (int s = comm_rank(job->comm); s < job->options->shards && !error->status; s += comm_size(job->comm)) {
        if (progress_due(&progress)) progress_show(&progress, "writing shard %d of %d", s + 1, job->options->shards);
        make_shard(job, s, error);
    }
    progress_end(&progress);
    return comm_agree(job->comm, error);
}

static int prepare(struct job *job, struct error *error)
{
    const struct ingest_options *options = job->options;
    char text[SHOWN_TEXT];
    if (options->band && strlen(options->band) >= sizeof job->identity.band)
        return error_set(error, STATUS_USAGE, "--band %s is too long for the name of a band", shown(options->band, text));
    if (columns_read(&job->columns, options->columns, error)) return error->status;
    if (options->labels && labels_read(&job->labels, options->labels, error)) return error->status;
    job->identity.cuts = cuts_text(&options->cuts);
    job->identity.class_count = job->report->class_count = job->labels.class_count;
    job->identity.classes = memory_zeroed((size_t)job->labels.class_count, sizeof(char *), "class names");
    job->report->classes = memory_zeroed((size_t)job->labels.class_count, sizeof(char *), "class names");
    job->report->class_curves = memory_zeroed((size_t)job->labels.class_count, sizeof(int64_t), "class counts");
    for (int c = 0; c < job->labels.class_count; c++) {
        job->identity.classes[c] = memory_string(job->labels.classes[c]);
        job->report->classes[c] = memory_string(job->labels.classes[c]);
    }
    memcpy(job->identity.name, job->building.name, sizeof job->identity.name);
    return STATUS_OK;
}

/* Every row must have ended somewhere: a spill file that another program touched, or that a file system has not shown yet, must
 * not pass for a star with fewer rows. */
static int check_rows(const struct job *job, struct error *error)
{
    static const enum tally ends[] = {TALLY_OTHER_BAND, TALLY_BAD_FIELDS, TALLY_BAD_ID,     TALLY_BAD_NUMBER, TALLY_BAD_ERROR,
                                      TALLY_DUPLICATES, TALLY_PERCENTILE, TALLY_ROWS_SHORT, TALLY_ROWS_CALM,  TALLY_ROWS_KEPT};
    const int64_t *tally = job->report->tally;
    int64_t sum = 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) sum += tally[ends[i]];
    if (sum == tally[TALLY_ROWS]) return STATUS_OK;
    return error_set(
        error, STATUS_FAILED,
        "%s: %lld rows were read but %lld came out of the second pass; does another ingest write the same survey, or is "
        "the folder not shared by all nodes?",
        job->options->out, (long long)tally[TALLY_ROWS], (long long)sum);
}

/* Sums every rank's counts into the report. Collective. */
static void add_up(struct job *job)
{
    struct ingest_report *report = job->report;
    comm_sum_int64(job->comm, report->tally, TALLY_COUNT);
    comm_max_double(job->comm, &report->read_seconds, 1);
    if (!job->labels.count) return;
    comm_sum_int64(job->comm, report->class_curves, report->class_count);
    comm_max_int64(job->comm, job->labels.fate, (int)job->labels.count);
    report->labels = job->labels.count;
    for (int64_t i = 0; i < job->labels.count; i++) {
        report->labels_unmatched += job->labels.fate[i] == LABEL_UNMATCHED;
        report->labels_dropped += job->labels.fate[i] == LABEL_DROPPED;
    }
}

static int check_not_empty(const struct job *job, struct error *error)
{
    const int64_t *tally = job->report->tally;
    char wanted[SHOWN_TEXT], there[SHOWN_TEXT];
    if (tally[TALLY_CURVES_KEPT]) return STATUS_OK;
    if (tally[TALLY_ROWS] == 0 && tally[TALLY_FILES_OTHER_BAND])
        return error_set(
            error, STATUS_FAILED, "no row is of band '%s': %lld of %lld files are MACHO star files of the other band",
            shown(job->options->band, wanted), (long long)tally[TALLY_FILES_OTHER_BAND], (long long)tally[TALLY_FILES]);
    if (tally[TALLY_ROWS] == 0) return error_set(error, STATUS_FAILED, "there is no row of observations in the files given");
    if (tally[TALLY_ROWS] == tally[TALLY_OTHER_BAND])
        return error_set(error, STATUS_FAILED, "no row is of band '%s'; there are rows of band '%s', for example",
                         shown(job->options->band, wanted), shown(job->table_band, there));
    return error_set(
        error, STATUS_FAILED,
        "no light curve is left of %lld: %lld have fewer than %d good observations, %lld are not variable (of %lld rows "
        "%lld are bad); --filter off keeps those that are not variable",
        (long long)tally[TALLY_CURVES], (long long)tally[TALLY_CURVES_SHORT], CUTS_OBSERVATIONS_LEAST,
        (long long)tally[TALLY_CURVES_CALM], (long long)tally[TALLY_ROWS],
        (long long)(tally[TALLY_BAD_FIELDS] + tally[TALLY_BAD_ID] + tally[TALLY_BAD_NUMBER] + tally[TALLY_BAD_ERROR]));
}

/* Everything between the making and the naming of the folder. */
static void make_survey(struct job *job, struct error *error)
{
    prepare(job, error);
    if (comm_agree(job->comm, error)) return;
    if (!read_files(job, error) && !share_bands(job, error)) {
        name_band(job);
        name_survey(job);
        make_shards(job, error);
    }
    add_up(job);
    if (!error->status) check_rows(job, error);
    if (!error->status) check_not_empty(job, error);
}

int ingest(const struct ingest_options *options, int files, char *const *paths, struct comm *comm, struct ingest_report *report,
           struct error *error)
{
    struct job job = {.options = options, .files = files, .paths = paths, .comm = comm, .report = report};
    double start = clock_seconds();
    *report = (struct ingest_report){0};
    CHECK(options->shards >= 1 && options->shards <= INGEST_SHARDS_MOST, "%d shards", options->shards);
    if ((int64_t)options->shards * comm_size(comm) > SPILL_FILES_MOST)
        return error_set(
            error, STATUS_USAGE,
            "%d ranks would make a file for each of %d shards, more than the %d that a file system takes well; use fewer "
            "of either",
            comm_size(comm), options->shards, SPILL_FILES_MOST);
    if (building_begin(&job.building, options->out, comm, error)) return error->status;
    make_survey(&job, error);
    building_end(&job.building, comm, error);
    report->seconds = clock_seconds() - start;
    columns_release(&job.columns);
    labels_release(&job.labels);
    survey_identity_release(&job.identity);
    return error->status;
}

void ingest_report_release(struct ingest_report *report)
{
    for (int c = 0; c < report->class_count; c++) memory_free(report->classes[c]);
    memory_free(report->classes);
    memory_free(report->class_curves);
    *report = (struct ingest_report){0};
}
