/* SPDX-License-Identifier: MIT
 *
 * NVTX ranges of a program that watches itself: they name the operation to which the launches belong (../../watch.h). */
#ifndef WATCHED_NV_TOOLS_EXT_H
#define WATCHED_NV_TOOLS_EXT_H

#include "watch.h"

static inline int nvtxRangePushA(const char *name)
{
    watch_range_push(name);
    return 0;
}
static inline int nvtxRangePop(void)
{
    watch_range_pop();
    return 0;
}

#endif
