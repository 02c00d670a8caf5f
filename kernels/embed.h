/* SPDX-License-Identifier: MIT
 *
 * The windows' preparation and the input embedding (device.h: struct embed), and what stands in its place without an encoder. */
#ifndef ASTROMER_KERNELS_EMBED_H
#define ASTROMER_KERNELS_EMBED_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether windows of L steps fit, which is up to 1024; if not, *why says so. */
bool kernel_embed_fits(int L, const char **why);
void kernel_embed_forward(const struct embed *embed, const struct launch *launch);
size_t kernel_embed_work_count(const struct embed *embed);
void kernel_embed_backward(const struct embed *embed, const struct embed_gradient *gradient, const struct launch *launch);
/* The windows without an encoder (device.h: struct raw_input). */
void kernel_raw_input(const struct raw_input *raw, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
