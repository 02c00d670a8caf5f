/* SPDX-License-Identifier: MIT
 *
 * astromer ingest: raw survey files become a survey, and what happened to every row and light curve is told. */
#include "survey/ingest.h"

#include <stdio.h>

#include "commands/commands.h"
#include "commands/options.h"

static const char about[] =
    "Makes a survey, a folder of HDF5 shards, from raw files of light curves. A FILE may be gzipped;\n"
    "a folder stands for all files in it. The formats, told apart by content:\n"
    "  MACHO dump       no header, 39 or more fields split by ';' (2 field, 3 tile, 4 sequence, 5 date,\n"
    "                   10 and 11 red magnitude and error, 25 and 26 blue); id = field.tile.sequence\n"
    "  MACHO star file  lc_FIELD.TILE.SEQ.BAND.mjd: lines of '#', then MJD Mag Err\n"
    "  table            a header that names id, time (mjd), mag and err; cut by comma, semicolon or tab;\n"
    "                   the rows of a star may stand anywhere; without an id the file is one star; a column\n"
    "                   band or filter means that --band chooses among its values\n"
    "  star table       no header, time,mag,err; the file is one star, its name the id";

static const char more[] =
    "A time above 2400000.5 is a Julian date and becomes an MJD; smaller ones are taken as they are.\n"
    "Cuts: 0 < error < 1; magnitudes strictly between the 1st and 99th percentile of the light curve; at least\n"
    "5 observations; then the filter. Under mpirun the files are dealt over the ranks.\n"
    "Examples:\n"
    "  astromer ingest --out surveys/asas --labels labels.csv --band V lightcurves.csv.gz\n"
    "  mpirun -n 8 astromer ingest --out surveys/macho-red --band R macho/F_1/*.gz";

/* One line for a reason why rows or light curves were left out, when there are any. */
static void print_reason(int64_t count, const char *what)
{
    if (count) printf("  %12lld  %s\n", (long long)count, what);
}

static void print_rows(const struct ingest_report *report)
{
    const int64_t *tally = report->tally;
    printf("%14lld  files\n", (long long)tally[TALLY_FILES]);
    print_reason(tally[TALLY_FILES_OTHER_BAND], "of another band, left out");
    printf("%14lld  rows read in %.1f s, %.2f million rows/s\n", (long long)tally[TALLY_ROWS], report->read_seconds,
           (double)tally[TALLY_ROWS] * 1e-6 / (report->read_seconds > 0 ? report->read_seconds : 1));
    print_reason(tally[TALLY_OTHER_BAND], "of another band");
    print_reason(tally[TALLY_BAD_FIELDS], "bad: too few fields");
    print_reason(tally[TALLY_BAD_ID], "bad: no usable id");
    print_reason(tally[TALLY_BAD_NUMBER], "bad: time, magnitude or error is not a number");
    print_reason(tally[TALLY_BAD_ERROR], "bad: error not between 0 and 1");
    print_reason(tally[TALLY_DUPLICATES], "duplicates, dropped");
    print_reason(tally[TALLY_PERCENTILE], "cut: magnitude not between the 1st and 99th percentile");
    print_reason(tally[TALLY_ROWS_SHORT], "in light curves that are too short");
    print_reason(tally[TALLY_ROWS_CALM], "in light curves that are not variable");
    printf("  %12lld  kept\n", (long long)tally[TALLY_ROWS_KEPT]);
    print_reason(tally[TALLY_JULIAN], "had a Julian date as time: 2400000.5 was taken off, MJD is kept");
    print_reason(tally[TALLY_REPEATED], "repeat a row of their star: kept, --drop-duplicates leaves them out");
}

static void print_curves(const struct ingest_report *report)
{
    const int64_t *tally = report->tally;
    printf("%14lld  light curves\n", (long long)tally[TALLY_CURVES]);
    print_reason(tally[TALLY_CURVES_SHORT], "dropped: fewer than 5 observations");
    print_reason(tally[TALLY_CURVES_CALM], "dropped: not variable");
    printf("  %12lld  kept\n", (long long)tally[TALLY_CURVES_KEPT]);
}

static void print_labels(const struct ingest_report *report)
{
    if (report->labels == 0) return;
    printf("%14lld  labels\n", (long long)report->labels);
    print_reason(report->labels_unmatched, "without such a star in the files");
    print_reason(report->labels_dropped, "of light curves that were dropped");
    for (int c = 0; c < report->class_count; c++)
        printf("  %12lld  %s\n", (long long)report->class_curves[c], report->classes[c]);
    print_reason(report->tally[TALLY_CURVES_KEPT] - report->tally[TALLY_CURVES_LABELLED], "without a label");
}

static void print_end(const struct ingest_report *report, const struct ingest_options *options)
{
    printf("made %s%s%s in %.1f s, %d shards\n", options->out, report->band[0] ? ", band " : "", report->band, report->seconds,
           options->shards);
    printf("next: astromer info %s\n      astromer pretrain --config FILE data.survey=%s\n", options->out, options->out);
}

int command_ingest(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct ingest_options options = {0};
    struct ingest_report report = {0};
    struct operands operands;
    int64_t shards = 64;
    int filter = FILTER_ANY, files;
    bool drop_duplicates = false;
    char **paths;
    const struct option table[] = {
        {"--out", OPTION_TEXT, &options.out, "SURVEY", "the folder to make; it must not exist yet", true, 0, 0, NULL},
        {"--shards", OPTION_INTEGER, &shards, "S", "files that the survey is cut into, at most so many ranks can train (64)",
         false, 1, INGEST_SHARDS_MOST, NULL},
        {"--labels", OPTION_TEXT, &options.labels, "FILE", "classes of stars, a CSV file of id,class", false, 0, 0, NULL},
        {"--band", OPTION_TEXT, &options.band, "BAND",
         "MACHO: R or B; a dump gives R when not told, star files both. A table with a column for the band: only rows of this "
         "one. "
         "Else: noted in the survey",
         false, 0, 0, NULL},
        {"--columns", OPTION_TEXT, &options.columns, "NAMES",
         "a table's columns: id=..,time=..,magnitude=..,error=..,band=.., any of them; id=none: it is one star", false, 0, 0, NULL},
        {"--filter", OPTION_CHOICE, &filter, "any|all|off",
         "keep light curves with any (default) or all of |kurtosis| > 10, |skewness| > 1, std > 0.1", false, 0, 0, filter_names},
        {"--drop-duplicates", OPTION_FLAG, &drop_duplicates, NULL,
         "leave out rows whose time, magnitude and error the star already has (the default keeps and counts them)", false, 0, 0,
         NULL},
        {0},
    };
    const struct usage usage = {"ingest", "--out SURVEY [OPTION ...] FILE ...", about, table, "FILE", 1, -1, more};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    options.shards = (int)shards;
    options.cuts = (struct cuts){.filter = (enum filter)filter, .drop_duplicates = drop_duplicates};
    if (!ingest_expand(operands.count, operands.word, &files, &paths, comm, error) &&
        !ingest(&options, files, paths, comm, &report, error) && comm_rank(comm) == 0) {
        print_rows(&report);
        print_curves(&report);
        print_labels(&report);
        print_end(&report, &options);
    }
    ingest_report_release(&report);
    ingest_paths_release(files, paths);
    return error->status;
}
