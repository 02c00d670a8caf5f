/* SPDX-License-Identifier: MIT
 *
 * Looking through a whole checkpoint without knowing its model: every dataset is read and every checksum verified. */
#include "checkpoint/checkpoint.h"

#include <string.h>

#include "base/memory.h"
#include "checkpoint/h5.h"

struct visit {
    const char *path;
    struct checkpoint_summary *summary;
    struct error *error;
};

/* Reads one object of the file. What is no dataset of text or numbers carries nothing of ours. */
static herr_t visit_object(hid_t file, const char *name, const H5O_info_t *info, void *data)
{
    struct visit *visit = data;
    struct hdf5_dataset dataset;
    struct error *error = visit->error;
    if (info->type != H5O_TYPE_DATASET) return 0;
    if (!hdf5_dataset_open(&dataset, file, visit->path, name, error)) {
        H5T_class_t class = H5Tget_class(dataset.type);
        bool is_text = class == H5T_STRING && dataset.elements == 1, is_number = class == H5T_FLOAT || class == H5T_INTEGER;
        char *text = NULL;
        if (is_text) hdf5_read_text(&dataset, &text, error);
        if (is_number) hdf5_read_numbers(&dataset, NULL, error);
        memory_free(text);
        if (is_text || is_number) *(dataset.has_crc ? &visit->summary->checked : &visit->summary->unchecked) += 1;
        if (!strncmp(name, "parameters/", strlen("parameters/"))) {
            visit->summary->tensors++;
            visit->summary->elements += dataset.elements;
        }
    }
    hdf5_dataset_close(&dataset);
    return error->status ? -1 : 0;
}

int checkpoint_inspect(const char *path, struct checkpoint_summary *summary, struct error *error)
{
    struct visit visit = {path, summary, error};
    *summary = (struct checkpoint_summary){0};
    hdf5_silence();
    hid_t file = hdf5_open_checkpoint(path, error);
    if (file < 0) goto cleanup;
    summary->resumable = H5Lexists(file, "adam", H5P_DEFAULT) > 0;
    /* In the native order: sorting a damaged group of many links makes HDF5 1.10 free what it never had. */
    if (H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_NATIVE, visit_object, &visit, H5O_INFO_BASIC) < 0)
        hdf5_failed(error, path, "is damaged");
    if (error->status || checkpoint_config_text(file, path, &summary->config_text, error)) goto cleanup;
    checkpoint_progress(file, path, summary->resumable, &summary->progress, error);
cleanup:
    if (file >= 0) H5Fclose(file);
    H5Eclear2(H5E_DEFAULT);
    if (error->status) checkpoint_summary_release(summary);
    return error->status;
}

void checkpoint_summary_release(struct checkpoint_summary *summary)
{
    memory_free(summary->config_text);
    *summary = (struct checkpoint_summary){0};
}

int checkpoint_verify(const char *path, struct error *error)
{
    struct checkpoint_summary summary;
    if (!checkpoint_inspect(path, &summary, error)) checkpoint_summary_release(&summary);
    return error->status;
}
