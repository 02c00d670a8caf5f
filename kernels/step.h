/* SPDX-License-Identifier: MIT
 *
 * The end of a step: loss, norm and factor from the summed gradient, and Adam (device.h: struct step_finish, struct adam). */
#ifndef ASTROMER_KERNELS_STEP_H
#define ASTROMER_KERNELS_STEP_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t kernel_step_finish_work_count(const struct step_finish *finish);
void kernel_step_finish(const struct step_finish *finish, const struct launch *launch);
void kernel_adam(const struct adam *adam, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
