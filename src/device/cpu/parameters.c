/* SPDX-License-Identifier: MIT
 *
 * The parameters as products take them: themselves, or at bf16 a rounded copy. */
#include "base/memory.h"
#include "device/cpu/cpu.h"

enum { PIECE = 1 << 16 };

void cpu_use_parameters(struct device *device, const float *parameters, int64_t N)
{
    struct cpu_device *cpu = cpu_of(device);
    cpu->parameters = parameters, cpu->parameter_count = N;
    if (are_floats(device)) return;
    if (N > cpu->rounded_count) {
        memory_free(cpu->rounded);
        cpu->rounded = memory_new((size_t)N, sizeof *cpu->rounded, "the rounded parameters");
        cpu->rounded_count = N;
    }
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < N; first += PIECE)
        round_floats(parameters + first, N - first < PIECE ? N - first : PIECE, cpu->rounded + first);
}

const void *cpu_operand(const struct cpu_device *cpu, const float *parameter)
{
    if (are_floats(&cpu->base)) return parameter;
    CHECK(cpu->parameters && parameter >= cpu->parameters && parameter < cpu->parameters + cpu->parameter_count,
          "a product with a parameter that use_parameters did not get");
    return cpu->rounded + (parameter - cpu->parameters);
}
