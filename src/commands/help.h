/* SPDX-License-Identifier: MIT
 *
 * The overview of the commands, for `astromer help` and for who gives no command. */
#ifndef ASTROMER_COMMANDS_HELP_H
#define ASTROMER_COMMANDS_HELP_H

#include <stdio.h>

void help_overview(FILE *out);

#endif
