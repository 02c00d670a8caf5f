/* SPDX-License-Identifier: MIT
 *
 * A trained encoder, from a checkpoint onto the rank's device: what evaluate and embed begin with. */
#ifndef ASTROMER_COMMANDS_LOADED_MODEL_H
#define ASTROMER_COMMANDS_LOADED_MODEL_H

#include "base/config.h"
#include "comm/comm.h"
#include "model/encoder.h"

struct loaded_model {
    struct config config; /* the run's, with device, precision, threads and data.memory_gb of this command */
    int64_t step;         /* of the run, when the checkpoint was written */
    struct parameter_table *table;
    struct device *device;
    struct encoder *encoder; /* for inference */
    float *parameters;       /* device memory, N */
};

/* Reads and verifies the checkpoint. `setting`: the command's key=value words, of which only device, precision, threads and
 * data.memory_gb may be given. Collective; all ranks return the same status. loaded_model_close is fine after a failure and on a
 * zeroed struct. */
int loaded_model_open(struct loaded_model *model, const char *path, int settings, char **setting, struct comm *comm,
                      struct error *error);
/* The settings alone, for a command without a model: a config of defaults with what was given. Not collective. */
int loaded_model_settings(struct config *run, int settings, char **setting, struct error *error);
void loaded_model_close(struct loaded_model *model);

/* Whether a command's key=value words are those that it may be given: device, precision, threads, data.memory_gb, the keys of a
 * `group` ("classify."; NULL for none), and, where no checkpoint says what they are, model.width, model.pe_base and data.window. Not
 * collective. */
int model_settings_check(int settings, char **setting, bool with_checkpoint, const char *group, struct error *error);

#endif
