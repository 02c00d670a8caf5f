/* SPDX-License-Identifier: MIT
 *
 * cpu/product_bf16.c where there is no oneDNN 2: the CPU device is refused at bf16. */
#include "device/cpu/cpu.h"

bool cpu_has_bf16(void)
{
    return false;
}

void cpu_multiply_bf16(struct cpu_device *cpu, const struct cpu_product *product)
{
    (void)cpu, (void)product;
    fatal(__FILE__, __LINE__, "a product in bfloat16 without oneDNN");
}

void cpu_products_reserve(struct cpu_device *cpu, int threads)
{
    (void)cpu, (void)threads;
}

void cpu_products_free(struct cpu_device *cpu)
{
    (void)cpu;
}
