/* SPDX-License-Identifier: MIT
 *
 * astromer neighbours: the light curves that a model finds most like given ones. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/text.h"
#include "commands/commands.h"
#include "commands/files.h"
#include "commands/id_list.h"
#include "commands/loaded_model.h"
#include "commands/nearest.h"
#include "commands/options.h"
#include "commands/vet.h"
#include "train/trainer.h"

/* Numbers of the results: so many queries times so many neighbours are enough for any table. */
enum { K_MOST = 10000, NEIGHBOURS_MOST = 1 << 26, ID_BLOCK_BYTES = 1 << 22 };

static const char *const by_names[] = {[BY_CURVE] = "curve", [BY_WINDOW] = "window", NULL};

struct neighbours {
    const char *embedding, *ids, *out;
    int64_t k;
    int by;
    bool json;
    struct comm *comm;
    struct config config;
    struct embedding_reader reader;
    struct id_list list;
    struct nearest nearest;
    struct text_file csv; /* rank 0 with --out */
};

/* The ids asked for ------------------------------------------------------------------------------------------------------------
 */

/* Shows ids of the file to `use`, block by block: this rank's part. */
static int each_id_block(struct neighbours *n, void (*use)(struct neighbours *, const char *const *, int64_t, int64_t, void *),
                         void *context, struct error *error)
{
    struct embedding_reader *r = &n->reader;
    int64_t rank = comm_rank(n->comm), ranks = comm_size(n->comm), most = ID_BLOCK_BYTES / (int64_t)r->id_bytes;
    int64_t begin = r->curves / ranks * rank, end = rank == ranks - 1 ? r->curves : begin + r->curves / ranks;
    if (most < 1) most = 1;
    char *text = memory_new((size_t)most, r->id_bytes, "ids");
    const char **ids = memory_new((size_t)most, sizeof *ids, "ids");
    for (int64_t i = 0; i < most; i++) ids[i] = text + (size_t)i * r->id_bytes;
    for (int64_t first = begin, count; first < end; first += count) {
        count = end - first < most ? end - first : most;
        if (embedding_reader_ids(r, first, count, text, error)) break;
        use(n, ids, count, first, context);
    }
    memory_free(ids);
    memory_free(text);
    return error->status;
}

static void note(struct neighbours *n, const char *const *ids, int64_t count, int64_t first, void *unused)
{
    (void)unused;
    id_list_note(&n->list, ids, count, first);
}

/* What can be said for an id that is not there; both owned. */
struct hint {
    char *nearest, *example;
};

static void look_for_hint(struct neighbours *n, const char *const *ids, int64_t count, int64_t first, void *context)
{
    struct hint *hint = context;
    const char *nearest = id_nearest(id_list_missing(&n->list), hint->nearest, ids, count);
    if (nearest && nearest != hint->nearest) {
        memory_free(hint->nearest);
        hint->nearest = memory_string(nearest);
    }
    if (first == 0) hint->example = memory_string(ids[0]);
}

/* Collective. */
static int find_ids(struct neighbours *n, struct error *error)
{
    struct hint hint = {0};
    each_id_block(n, note, NULL, error);
    if (comm_agree(n->comm, error)) return error->status;
    id_list_share(&n->list, n->comm);
    if (!id_list_missing(&n->list)) return id_list_check_once(&n->list, n->embedding, error);
    each_id_block(n, look_for_hint, &hint, error);
    if (!comm_agree(n->comm, error)) id_missing(&n->list, "--ids", n->embedding, hint.nearest, hint.example, n->comm, error);
    memory_free(hint.nearest);
    memory_free(hint.example);
    return error->status;
}

/* What is shown ----------------------------------------------------------------------------------------------------------------
 */

/* A light curve for people. */
struct named {
    char *id;          /* owned */
    const char *class; /* "" without a label */
};

static int name(struct neighbours *n, int64_t curve, struct named *named, struct error *error)
{
    int32_t label;
    *named = (struct named){memory_new(n->reader.id_bytes, 1, "an id"), ""};
    if (embedding_reader_ids(&n->reader, curve, 1, named->id, error) ||
        embedding_reader_labels(&n->reader, curve, 1, &label, error))
        return error->status;
    if (label >= 0) named->class = n->reader.classes[label];
    return STATUS_OK;
}

/* One neighbour of one query. */
struct row {
    struct named query, neighbour;
    int rank; /* 1: the nearest */
    double cosine;
};

/* Columns that a text takes on a terminal, as shown. */
static int columns_of(const char *text)
{
    char safe[SHOWN_TEXT];
    int columns = 0, bytes;
    for (const char *p = shown(text, safe); *p; p += bytes, columns++) utf8_next(p, &bytes);
    return columns;
}

static void print_text(const char *text, int width)
{
    char safe[SHOWN_TEXT];
    printf("%s%*s  ", shown(text, safe), width - columns_of(text), "");
}

static void print_json(const struct row *row, struct error *error)
{
    struct json json;
    json_begin(&json);
    json_text(&json, "id", row->query.id);
    json_text(&json, "class", row->query.class);
    json_integer(&json, "rank", row->rank);
    json_text(&json, "neighbour", row->neighbour.id);
    json_text(&json, "neighbour_class", row->neighbour.class);
    json_number(&json, "cosine", row->cosine);
    json_print(&json, error);
}

static void put_csv(FILE *file, const struct row *row)
{
    csv_put(file, row->query.id);
    putc(',', file);
    csv_put(file, row->query.class);
    fprintf(file, ",%d,", row->rank);
    csv_put(file, row->neighbour.id);
    putc(',', file);
    csv_put(file, row->neighbour.class);
    fprintf(file, ",%.9f\n", row->cosine);
}

/* The widths of the table's texts, and how often a neighbour has the query's class. */
struct summary {
    int id, class, neighbour;
    int64_t labelled, same;
};

typedef void row_use(struct neighbours *n, const struct row *row, struct summary *summary, struct error *error);

static void measure(struct neighbours *n, const struct row *row, struct summary *summary, struct error *error)
{
    const char *texts[] = {row->query.id, row->query.class, row->neighbour.id};
    int *widths[] = {&summary->id, &summary->class, &summary->neighbour};
    (void)n, (void)error;
    for (int i = 0; i < 3; i++)
        if (columns_of(texts[i]) > *widths[i]) *widths[i] = columns_of(texts[i]);
    if (!row->query.class[0] || !row->neighbour.class[0]) return;
    summary->labelled++;
    summary->same += strcmp(row->query.class, row->neighbour.class) == 0;
}

static void show(struct neighbours *n, const struct row *row, struct summary *summary, struct error *error)
{
    char safe[SHOWN_TEXT];
    if (n->csv.file) put_csv(n->csv.file, row);
    if (n->json) {
        print_json(row, error);
        return;
    }
    print_text(row->query.id, summary->id);
    print_text(row->query.class[0] ? row->query.class : "-", summary->class);
    printf("%4d  ", row->rank);
    print_text(row->neighbour.id, summary->neighbour);
    printf("%12.9f  %s\n", row->cosine, row->neighbour.class[0] ? shown(row->neighbour.class, safe) : "-");
}

/* Rank 0. */
static int each_row(struct neighbours *n, row_use *use, struct summary *summary, struct error *error)
{
    for (int q = 0; q < n->list.count && !error->status; q++) {
        struct row row = {0};
        name(n, n->list.place[q], &row.query, error);
        for (int i = 0; i < n->nearest.found[q] && !error->status; i++) {
            const struct neighbour *neighbour = &n->nearest.neighbour[(int64_t)q * n->nearest.k + i];
            row.rank = i + 1, row.cosine = neighbour->cosine;
            if (!name(n, neighbour->curve, &row.neighbour, error)) use(n, &row, summary, error);
            memory_free(row.neighbour.id);
        }
        memory_free(row.query.id);
    }
    return error->status;
}

static void print_head(const struct neighbours *n, const struct summary *summary)
{
    char safe[SHOWN_TEXT];
    printf("%s (survey %s): %lld light curves compared by the %s\n", n->embedding, shown(n->reader.survey, safe),
           (long long)n->nearest.compared, n->by == BY_CURVE ? "means of their windows" : "nearest two of their windows");
    if (n->nearest.without_direction)
        printf("%lld %s left out, all zeros\n", (long long)n->nearest.without_direction,
               n->by == BY_CURVE ? "light curves were" : "windows were");
    printf("%-*s  %-*s  rank  %-*s  %12s  class\n", summary->id, "id", summary->class, "class", summary->neighbour, "neighbour",
           "cosine");
}

/* Rank 0. */
static int show_all(struct neighbours *n, struct error *error)
{
    struct summary summary = {.id = 2, .class = 5, .neighbour = 9};
    if (n->csv.file) fputs("id,class,rank,neighbour,neighbour_class,cosine\n", n->csv.file);
    if (each_row(n, measure, &summary, error)) return error->status;
    if (!n->json) print_head(n, &summary);
    if (each_row(n, show, &summary, error)) return error->status;
    if (!n->json && summary.labelled)
        printf("%lld of %lld neighbours with a class have the class of whom they are neighbours of (%.0f %%)\n",
               (long long)summary.same, (long long)summary.labelled, 100.0 * (double)summary.same / (double)summary.labelled);
    return STATUS_OK;
}

/* The table on disk ------------------------------------------------------------------------------------------------------------
 */

/* Rank 0: before the work, so that a folder that is not there is told of at once. */
static int csv_open(struct neighbours *n, struct error *error)
{
    if (files_same(n->out, n->embedding))
        return error_set(error, STATUS_USAGE, "neighbours: --out %s would overwrite the embeddings; name another file", n->out);
    return text_file_begin(&n->csv, n->out, error);
}

/* The command ------------------------------------------------------------------------------------------------------------------
 */

static void show_progress(void *context, int64_t done, int64_t total)
{
    struct progress *progress = context;
    if (progress_due(progress) && done < total)
        progress_show(progress, "%lld of %lld light curves on rank 0", (long long)done, (long long)total);
}

/* Collective. */
static int search(struct neighbours *n, struct error *error)
{
    struct device *device = NULL;
    struct progress progress;
    if (rank_device_open(&device, &n->config, n->comm, error)) return error->status;
    n->nearest = (struct nearest){.queries = n->list.count, .k = (int)n->k, .by = n->by, .query = n->list.place};
    progress_begin(&progress, comm_rank(n->comm) == 0 && !n->json);
    nearest_find(&n->nearest, &n->reader, device, n->config.precision, n->comm, show_progress, &progress, error);
    progress_end(&progress);
    device_close(device);
    return error->status;
}

/* Collective. */
static int prepare(struct neighbours *n, const struct operands *operands, struct error *error)
{
    if (!loaded_model_settings(&n->config, operands->count, operands->word, error))
        id_list_read(&n->list, "--ids", n->ids, error);
    if (!error->status && (int64_t)n->list.count * n->k > NEIGHBOURS_MOST)
        error_set(error, STATUS_USAGE, "neighbours: %d light curves times --k %lld are more than %d neighbours; ask in parts",
                  n->list.count, (long long)n->k, NEIGHBOURS_MOST);
    if (comm_agree(n->comm, error) || vet(VET_FILE, n->embedding, n->comm, error)) return error->status;
    embedding_reader_open(&n->reader, n->embedding, error);
    if (comm_agree(n->comm, error) || find_ids(n, error)) return error->status;
    if (n->out && comm_rank(n->comm) == 0) csv_open(n, error);
    return comm_agree(n->comm, error);
}

static int neighbours(struct neighbours *n, const struct operands *operands, struct error *error)
{
    if (!prepare(n, operands, error) && !search(n, error) && comm_rank(n->comm) == 0) show_all(n, error);
    text_file_end(&n->csv, error);
    nearest_release(&n->nearest);
    id_list_release(&n->list);
    embedding_reader_close(&n->reader);
    return error->status;
}

static const char about[] =
    "Finds the k light curves nearest to given ones by the cosine of the angle between their embeddings, in a file that\n"
    "astromer embed has written. A light curve is the mean of its windows' embeddings, weighted by their observations; with\n"
    "--by window two light curves are as near as the nearest two of their windows. The result is exact (the device's products\n"
    "only choose what is computed in float64) and the same on any device and number of ranks.";

static const char more[] =
    "device, precision and threads can be set as key=value.\n"
    "Examples:\n"
    "  astromer neighbours --embedding alcock.h5 --ids 1.3319.11,6.6810.25\n"
    "  mpirun -n 4 astromer neighbours --embedding macho.h5 --ids @interesting.txt --k 50 --out near.csv device=cuda";

int command_neighbours(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct neighbours n = {.comm = comm, .k = 10};
    struct operands operands;
    const struct option table[] = {
        {"--embedding", OPTION_TEXT, &n.embedding, "FILE.h5", "the embeddings of a survey, from astromer embed", true, 0, 0,
         NULL},
        {"--ids", OPTION_TEXT, &n.ids, "ID,ID|@FILE", "the light curves whose neighbours are wanted; @FILE: an id a line", true,
         0, 0, NULL},
        {"--k", OPTION_INTEGER, &n.k, "K", "neighbours of each (10)", false, 1, K_MOST, NULL},
        {"--by", OPTION_CHOICE, &n.by, "curve|window", "what is compared: a light curve's mean, or its windows (curve)", false, 0,
         0, by_names},
        {"--out", OPTION_TEXT, &n.out, "FILE.csv", "write the table as CSV too", false, 0, 0, NULL},
        {"--json", OPTION_FLAG, &n.json, NULL, "a JSON line for each neighbour instead of text", false, 0, 0, NULL},
        {0},
    };
    const struct usage usage = {
        "neighbours", "--embedding FILE.h5 --ids ID,ID [OPTION ...] [KEY=VALUE ...]", about, table, "KEY=VALUE", 0, -1, more};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    return neighbours(&n, &operands, error);
}
