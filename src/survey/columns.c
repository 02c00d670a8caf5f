/* SPDX-License-Identifier: MIT
 *
 * The usual names, the most telling first: a table with both `mjd` and `hjd` gives its `mjd`. */
#include "survey/columns.h"

#include <ctype.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "survey/fields.h"

static const char *const id_names[] = {
    "id",        "star_id",     "object_id",   "objid",      "oid",         "source_id",  "gaia_source_id",
    "gaia_id",   "lc_id",       "src_id",      "asas_id",    "asassn_id",   "asas_sn_id", "macho_id",
    "ogle_id",   "atlas_id",    "catalina_id", "master_id",  "kic_id",      "epic_id",    "tic_id",
    "target_id", "star",        "object",      "source",     "name",        "star_name",  "object_name",
    "obj_name",  "source_name", "target_name", "identifier", "designation", "curve",      "target",
    "kic",       "epic",        "tic",         NULL};
static const char *const time_names[] = {"mjd", "time", "mjd_obs", "obs_mjd",  "obsmjd",  "time_mjd", "hmjd", "bmjd", "date_mjd",
                                         "hjd", "bjd",  "jd",      "obs_time", "obstime", "epoch",    "date", "t",    NULL};
static const char *const magnitude_names[] = {"mag",     "magnitude", "mags", "magnitudes", "psfmag",
                                              "mag_psf", "obs_mag",   "vmag", "m",          NULL};
static const char *const error_names[] = {
    "err",       "error",   "mag_err", "magerr",  "mag_error",   "magerror",    "err_mag", "errmag",    "magnitude_error",
    "e_mag",     "emag",    "dmag",    "mag_unc", "magunc",      "merr",        "sigma",   "sigma_mag", "sigmapsf",
    "mag_sigma", "mag_std", "errors",  "unc",     "uncertainty", "e_magnitude", "dm",      NULL};
static const char *const band_names[] = {"band",       "filter",     "filt",        "passband", "bandpass", "filter_name",
                                         "filtername", "filtercode", "phot_filter", "fid",      NULL};
static const char *const class_names[] = {"class",    "label",    "type",  "classname", "class_name", "variability_type",
                                          "var_type", "category", "alias", "target",    NULL};
static const char *const *const usual[] = {id_names, time_names, magnitude_names, error_names, band_names, class_names};
static const char *const column_words[COLUMNS_NAMED + 1] = {"id", "time", "magnitude", "error", "band", NULL};

/* "Star ID", "star_id" and "starid" are one name. */
static const char *skip_joints(const char *text, const char *end)
{
    while (text < end && strchr(" _-", *text)) text++;
    return text;
}

/* Whether the field is called `word`, or ends in it: as a word of its own, or anywhere. */
enum place { WHOLE, AT_A_JOINT, ANYWHERE };
static bool is_called(struct text field, const char *word, enum place place)
{
    const char *end = field.start + field.length, *word_end = word + strlen(word);
    for (const char *from = field.start; from < end; from++) {
        const char *f = skip_joints(from, end), *w = skip_joints(word, word_end);
        bool may_begin = place == ANYWHERE || from == field.start || (place == AT_A_JOINT && f > from);
        while (may_begin && f < end && w < word_end && tolower((unsigned char)*f) == *w)
            f = skip_joints(f + 1, end), w = skip_joints(w + 1, word_end);
        if (may_begin && f == end && w == word_end) return true;
    }
    return false;
}

int column_usual(const struct text *fields, int count, enum column column)
{
    for (const char *const *name = usual[column]; *name; name++)
        for (int i = 0; i < count; i++)
            if (is_called(fields[i], *name, WHOLE)) return i;
    return -1;
}

int column_find(const struct columns *columns, const struct text *fields, int count, enum column column)
{
    const char *name = columns->name[column];
    if (!name) return column_usual(fields, count, column);
    for (int i = 0; i < count; i++)
        if (text_is(fields[i], name)) return i;
    return -1;
}

bool columns_say_one_star(const struct columns *columns)
{
    return columns->name[COLUMN_ID] && !strcmp(columns->name[COLUMN_ID], "none");
}

bool column_looks_like_id(struct text field)
{
    static const char *const words[] = {"grid", "valid", "void", "centroid", "resid", NULL};
    static const char *const others[] = {
        "mid",      "fid",     "pid",       "exp_id",     "exposure_id", "ccd_id",         "rc_id",
        "field_id", "obs_id",  "row_id",    "visit_id",   "frame_id",    "observation_id", "image_id",
        "chip_id",  "det_id",  "quad_id",   "program_id", "detector_id", "night_id",       "cam_id",
        "cand_id",  "band_id", "camera_id", "filter_id",  NULL};
    for (const char *const *word = words; *word; word++)
        if (is_called(field, *word, ANYWHERE)) return false;
    for (const char *const *other = others; *other; other++)
        if (is_called(field, *other, AT_A_JOINT)) return false;
    return is_called(field, "id", ANYWHERE) || is_called(field, "star_number", AT_A_JOINT) ||
           is_called(field, "object_number", AT_A_JOINT);
}

/* One `word=name` of the option. */
static int read_name(struct columns *columns, char *pair, struct error *error)
{
    char quoted[SHOWN_TEXT];
    char *equals = strchr(pair, '=');
    if (!equals || equals == pair || !equals[1])
        return error_set(error, STATUS_USAGE,
                         "--columns has '%s', but wants id=NAME,time=NAME,magnitude=NAME,error=NAME,band=NAME, any of them",
                         shown(pair, quoted));
    *equals = 0;
    for (int c = 0; c < COLUMNS_NAMED; c++) {
        if (strcmp(pair, column_words[c])) continue;
        if (columns->name[c]) return error_set(error, STATUS_USAGE, "--columns names the column %s twice", pair);
        columns->name[c] = memory_string(equals + 1);
        return STATUS_OK;
    }
    return error_set(error, STATUS_USAGE, "--columns knows id, time, magnitude, error and band, not '%s'", shown(pair, quoted));
}

int columns_read(struct columns *columns, const char *option, struct error *error)
{
    *columns = (struct columns){{NULL}};
    if (!option) return STATUS_OK;
    char *copy = memory_string(option), *rest = copy, *pair;
    while ((pair = strsep(&rest, ",")))
        if (read_name(columns, pair, error)) break;
    memory_free(copy);
    if (error->status) columns_release(columns);
    return error->status;
}

void columns_release(struct columns *columns)
{
    for (int c = 0; c < COLUMNS_NAMED; c++) memory_free(columns->name[c]);
    *columns = (struct columns){{NULL}};
}
