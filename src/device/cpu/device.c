/* SPDX-License-Identifier: MIT
 *
 * The CPU device: host memory, work done at once, and the table of its operations. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

static void cpu_close(struct device *device)
{
    struct cpu_device *cpu = cpu_of(device);
    cpu_products_free(cpu);
    memory_free(cpu->rounded);
    memory_free(cpu->scratch);
    memory_free(cpu);
}

static int cpu_allocate(struct device *device, void **memory, size_t bytes, const char *what, struct error *error)
{
    (void)device;
    *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!*memory) return error_set(error, STATUS_FAILED, "not enough memory: %.2f GB for %s", (double)bytes / 1e9, what);
    return STATUS_OK;
}

static void cpu_release(struct device *device, void *memory)
{
    (void)device;
    free(memory);
}

static void cpu_zero(struct device *device, void *memory, size_t bytes)
{
    (void)device;
    memset(memory, 0, bytes);
}

static void cpu_upload(struct device *device, void *memory, const void *host, size_t bytes)
{
    (void)device;
    if (bytes) memcpy(memory, host, bytes); /* an empty part may have no address */
}

static void cpu_download(struct device *device, void *host, const void *memory, size_t bytes)
{
    (void)device;
    if (bytes) memcpy(host, memory, bytes);
}

static void cpu_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes) memcpy(to, from, bytes);
}

static void cpu_wait(struct device *device)
{
    (void)device;
}

static int cpu_check_shape(struct device *device, int L, int D, int H, struct error *error)
{
    (void)device, (void)L, (void)D, (void)H, (void)error;
    return STATUS_OK;
}

static size_t cpu_free_bytes(struct device *device)
{
    (void)device;
    return SIZE_MAX;
}

/* There are none: results do not depend on the time that something took. */
static int cpu_save_choices(struct device *device, const char *path, struct error *error)
{
    (void)device, (void)path, (void)error;
    return STATUS_OK;
}

static bool cpu_load_choices(struct device *device, const char *path)
{
    (void)device, (void)path;
    return true;
}

/* Nothing is recorded: the work is done when it is enqueued. */
static bool cpu_record_begin(struct device *device, struct recording **recording)
{
    (void)device, (void)recording;
    return true;
}

static bool cpu_record_end(struct device *device, struct recording **recording)
{
    (void)device, (void)recording;
    return false;
}

static void cpu_record_free(struct device *device, struct recording *recording)
{
    (void)device, (void)recording;
}

static const struct device_operations operations = {
    .close = cpu_close,
    .allocate = cpu_allocate,
    .release = cpu_release,
    .zero = cpu_zero,
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .wait = cpu_wait,
    .free_bytes = cpu_free_bytes,
    .save_choices = cpu_save_choices,
    .load_choices = cpu_load_choices,
    .record_begin = cpu_record_begin,
    .record_end = cpu_record_end,
    .record_free = cpu_record_free,
    .use_parameters = cpu_use_parameters,
    .embed_forward = cpu_embed_forward,
    .embed_backward = cpu_embed_backward,
    .linear_forward = cpu_linear_forward,
    .linear_backward = cpu_linear_backward,
    .check_shape = cpu_check_shape,
    .attention_saved_count = cpu_attention_saved_count,
    .attention_forward = cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .attention_weights = cpu_attention_weights,
    .add_norm_forward = cpu_add_norm_forward,
    .add_norm_backward = cpu_add_norm_backward,
    .readout_forward = cpu_readout_forward,
    .readout_backward = cpu_readout_backward,
    .pool_forward = cpu_pool_forward,
    .pool_backward = cpu_pool_backward,
    .mix_forward = cpu_mix_forward,
    .mix_backward = cpu_mix_backward,
    .attend_forward = cpu_attend_forward,
    .attend_backward = cpu_attend_backward,
    .relu_forward = cpu_relu_forward,
    .relu_backward = cpu_relu_backward,
    .cross_entropy_forward = cpu_cross_entropy_forward,
    .cross_entropy_backward = cpu_cross_entropy_backward,
    .raw_input = cpu_raw_input,
    .gru_forward = cpu_gru_forward,
    .gru_backward = cpu_gru_backward,
    .step_finish = cpu_step_finish,
    .adam = cpu_adam,
};

float *cpu_scratch(struct cpu_device *cpu, size_t count, size_t *stride)
{
    int threads = omp_get_max_threads(); /* the calling thread's, should it not be who opened the device */
    *stride = (count + 31) / 16 * 16;
    size_t needed = *stride * (size_t)threads;
    cpu_products_reserve(cpu, threads);
    if (needed > cpu->scratch_count) {
        memory_free(cpu->scratch);
        cpu->scratch = memory_new(needed, sizeof *cpu->scratch, "the CPU device's scratch");
        cpu->scratch_count = needed;
    }
    return cpu->scratch;
}

static void processor_name(char *name, size_t bytes)
{
    snprintf(name, bytes, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(name, bytes, "%.100s", colon + 2);
        break;
    }
    fclose(file);
}

struct device *cpu_open(int precision, int threads)
{
    struct cpu_device *cpu = memory_zeroed(1, sizeof *cpu, "the CPU device");
    cpu->base.operations = &operations;
    cpu->base.threads = threads;
    cpu->base.activation_bytes = precision == PRECISION_BF16 ? sizeof(uint16_t) : sizeof(float);
    processor_name(cpu->base.name, sizeof cpu->base.name);
    omp_set_num_threads(threads);
    omp_set_dynamic(0);
    return &cpu->base;
}
