/* SPDX-License-Identifier: MIT
 *
 * The rare numbers that need strtod. */
#include "survey/number.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { LONGEST_NUMBER = 400 };

const double number_power[NUMBER_EXACT_PLACES + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

float number_float_slow(const char *text, const char *end, double value)
{
    char copy[LONGEST_NUMBER + 1];
    size_t length = (size_t)(end - text);
    if (length > LONGEST_NUMBER) return (float)value;
    memcpy(copy, text, length);
    copy[length] = 0;
    return strtof(copy, NULL);
}

bool number_slow(const char *text, const char *end, double *value)
{
    char copy[LONGEST_NUMBER + 1];
    size_t length = (size_t)(end - text);
    if (length > LONGEST_NUMBER || memchr(text, 0, length)) return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    return text_number(copy, value);
}
