/* SPDX-License-Identifier: MIT
 *
 * Loading a checkpoint for inference. */
#include "commands/loaded_model.h"

#include <string.h>

#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "commands/vet.h"
#include "train/trainer.h"

enum { WINDOWS_AT_ONCE = 512 };

static bool begins_with(const char *text, const char *const *beginnings)
{
    for (; *beginnings; beginnings++)
        if (!strncmp(text, *beginnings, strlen(*beginnings))) return true;
    return false;
}

int model_settings_check(int settings, char **setting, bool with_checkpoint, const char *group, struct error *error)
{
    static const char *const always[] = {"device=", "precision=", "threads=", "data.memory_gb=", NULL};
    static const char *const shape[] = {"model.width=", "model.pe_base=", "data.window=", NULL};
    const char *const groups[] = {group, NULL};
    for (int i = 0; i < settings; i++) {
        const char *word = setting[i];
        if (begins_with(word, always) || begins_with(word, groups) || (!with_checkpoint && begins_with(word, shape))) continue;
        return error_set(error, STATUS_USAGE, "'%s': here only device, precision, threads%s%s%s and data.memory_gb can be given%s",
                         word, group ? ", " : "", group ? group : "", group ? "*" : "",
                         with_checkpoint ? "; the rest is the checkpoint's" : ", and model.width, model.pe_base and data.window");
    }
    return STATUS_OK;
}

int loaded_model_settings(struct config *run, int settings, char **setting, struct error *error)
{
    if (!model_settings_check(settings, setting, true, NULL, error)) config_read(run, NULL, settings, setting, error);
    return error->status;
}

int loaded_model_open(struct loaded_model *model, const char *path, int settings, char **setting, struct comm *comm,
                      struct error *error)
{
    struct config run;
    if (vet(VET_FILE, path, comm, error) || checkpoint_read_config(path, &model->config, comm, error)) return error->status;
    loaded_model_settings(&run, settings, setting, error);
    if (comm_agree(comm, error)) return error->status;
    model->config.device = run.device, model->config.precision = run.precision, model->config.threads = run.threads;
    model->config.data.memory_gb = run.data.memory_gb;
    model->table = parameter_table_new(&model->config.model);
    float *host = memory_zeroed((size_t)model->table->total, sizeof *host, "the parameters");
    size_t bytes = (size_t)model->table->total * sizeof *host;
    struct checkpoint checkpoint = {.table = model->table, .parameters = host};
    if (checkpoint_read(path, &checkpoint, comm, error)) goto cleanup;
    model->step = checkpoint.progress.step;
    int L = model->config.data.window;
    if (!rank_device_open(&model->device, &run, comm, error) &&
        !model->device->operations->allocate(model->device, (void **)&model->parameters, bytes, "the parameters", error) &&
        !encoder_new(&model->encoder, model->device, model->table,
                     encoder_choose_capacity(model->device, model->table, WINDOWS_AT_ONCE, L, false), L, false, error)) {
        model->device->operations->upload(model->device, model->parameters, host, bytes);
        model->device->operations->wait(model->device);
    }
    comm_agree(comm, error);
cleanup:
    memory_free(host);
    return error->status;
}

void loaded_model_close(struct loaded_model *model)
{
    encoder_free(model->encoder);
    if (model->parameters) model->device->operations->release(model->device, model->parameters);
    device_close(model->device);
    parameter_table_free(model->table);
}
