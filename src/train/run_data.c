/* SPDX-License-Identifier: MIT
 *
 * The light curves of a run: those of a survey and its held-out share, of two surveys, or of one fold of a labelled survey. */
#include "base/memory.h"
#include "survey/folds.h"
#include "train/run.h"

/* The light curves of a set, and *content continued with them. */
static int select_set(struct selection *selection, const struct survey *survey, const struct folds *folds,
                      const struct fold_set *set, uint64_t *content, struct comm *comm, struct error *error)
{
    int64_t *curve = memory_new((size_t)set->count, sizeof *curve, "a fold's light curves");
    for (int64_t i = -1; i < set->count; i++) {
        *content = (*content ^ (uint64_t)(i < 0 ? set->count : folds->curve[set->row[i]])) * 0x100000001b3u;
        *content ^= *content >> 32;
    }
    for (int64_t i = 0; i < set->count; i++) curve[i] = folds->curve[set->row[i]];
    selection_of(selection, survey, comm, curve, set->count, error); /* one that is given twice counts once */
    memory_free(curve);
    return error->status;
}

/* The fold that the config names, and the place of its training set. */
static int find_fold(const struct config *config, const struct survey *survey, struct folds *folds, int *place,
                     struct error *error)
{
    const char *path = config->data.folds;
    if (folds_read(folds, path, error) || folds_check_survey(folds, path, survey, error)) return error->status;
    if (config->data.fold >= folds->fold_count)
        return error_set(error, STATUS_USAGE, "%s: has the folds 0 to %d, there is no fold %d", path, folds->fold_count - 1,
                         config->data.fold);
    *place = folds_find_samples(folds, path, config->data.samples, error);
    return error->status;
}

static int open_fold(struct run *run, struct error *error)
{
    const struct config *config = run->config;
    struct folds folds = {0};
    uint64_t content = 0xcbf29ce484222325u;
    int place = 0;
    find_fold(config, &run->survey, &folds, &place, error);
    if (comm_agree(run->comm, error)) goto cleanup;
    const struct fold *fold = &folds.fold[config->data.fold];
    if (select_set(&run->training, &run->survey, &folds, &fold->training[place], &content, run->comm, error) ||
        select_set(&run->validation, &run->survey, &folds, &fold->validation, &content, run->comm, error) ||
        select_set(&run->test, &run->survey, &folds, &fold->test, &content, run->comm, error))
        goto cleanup;
    run->fold_content = content ? (int64_t)content : 1;
    run->validates = true;
    if (run->validation.total == 0)
        error_set(error, STATUS_FAILED, "%s: fold %d has no light curves to validate with", config->data.folds,
                  config->data.fold);
cleanup:
    folds_release(&folds);
    return error->status;
}

static int open_validation(struct run *run, int64_t memory_bytes, struct error *error)
{
    const struct config *config = run->config;
    struct split split = split_of(config);
    double share;
    if (split.validation > 0) {
        run->validates = true;
        return selection_new(&run->validation, &run->survey, run->comm, PART_VALIDATION, &split, error);
    }
    if (config_validation_share(config, &share)) return STATUS_OK;
    run->validates = true;
    if (survey_open(&run->validation_survey, config->data.validation, run->comm, memory_bytes, error)) return error->status;
    return selection_new(&run->validation, &run->validation_survey, run->comm, PART_ALL, NULL, error);
}

int run_open_data(struct run *run, struct error *error)
{
    const struct config *config = run->config;
    int64_t memory_bytes = (int64_t)(config->data.memory_gb * 1e9 / comm_local_size(run->comm));
    struct split split = split_of(config);
    if (survey_open(&run->survey, config->data.survey, run->comm, memory_bytes, error)) return error->status;
    if (config->data.folds[0]) {
        if (open_fold(run, error)) return error->status;
    } else if (selection_new(&run->training, &run->survey, run->comm, PART_TRAINING, &split, error) ||
               open_validation(run, memory_bytes, error)) {
        return error->status;
    }
    if (run->training.total == 0) return error_set(error, STATUS_FAILED, "%s: no light curves to train on", config->data.survey);
    if (run->validates && run->validation.total == 0)
        return error_set(error, STATUS_FAILED,
                         "data.validation=%s holds out none of %lld light curves; give a larger share, or 0 for none",
                         config->data.validation, (long long)run->survey.first_curve[run->survey.shards]);
    return STATUS_OK;
}

void run_close_data(struct run *run)
{
    selection_release(&run->training);
    selection_release(&run->validation);
    selection_release(&run->test);
    survey_close(&run->survey);
    survey_close(&run->validation_survey);
}
