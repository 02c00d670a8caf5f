/* SPDX-License-Identifier: MIT
 *
 * A config without libyaml: key=value words only. */
#include "base/config_yaml.h"

int entries_read(struct entries *entries, const char *text, size_t bytes, const char *name, struct error *error)
{
    (void)entries, (void)text, (void)bytes;
    return error_set(error, STATUS_USAGE, "%s: this program reads no YAML; give key=value words", name);
}
