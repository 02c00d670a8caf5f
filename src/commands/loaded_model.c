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

static int check_settings(int settings, char **setting, struct error *error)
{
    static const char *const allowed[] = {"device=", "precision=", "threads=", "data.memory_gb="};
    for (int i = 0; i < settings; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof allowed / sizeof *allowed; k++)
            known |= !strncmp(setting[i], allowed[k], strlen(allowed[k]));
        if (!known)
            return error_set(error, STATUS_USAGE,
                             "'%s': here only device, precision, threads and data.memory_gb can be given; the rest "
                             "is the checkpoint's",
                             setting[i]);
    }
    return STATUS_OK;
}

int loaded_model_settings(struct config *run, int settings, char **setting, struct error *error)
{
    if (!check_settings(settings, setting, error)) config_read(run, NULL, settings, setting, error);
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
