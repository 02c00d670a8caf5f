/* SPDX-License-Identifier: MIT
 *
 * Decimal numbers out of text files, fast and correctly rounded, as strtod and strtof round them: up to 2^53 as the digits and up
 * to 22 places are exact as doubles, so that one division rounds once; anything longer goes to strtod. */
#ifndef ASTROMER_SURVEY_NUMBER_H
#define ASTROMER_SURVEY_NUMBER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { NUMBER_EXACT_PLACES = 22 };

/* The powers 10^0 .. 10^22, all exact. */
extern const double number_power[NUMBER_EXACT_PLACES + 1];

/* Any finite decimal number (see text_number), without the haste. */
bool number_slow(const char *text, const char *end, double *value);

/* The float nearest to a decimal number that number_read has read as `value`. Rounding that double again is right but where it
 * lies in the middle between two floats: the text may lie to one side of it. */
float number_float_slow(const char *text, const char *end, double value);
static inline float number_float(const char *text, const char *end, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bool middle = (bits & 0x1fffffff) == 0x10000000;
    bool subnormal = value != 0 && value < 0x1p-126 && value > -0x1p-126; /* floats lie farther apart there */
    return middle || subnormal ? number_float_slow(text, end, value) : (float)value;
}

/* The number that is all of text .. end - 1, without blanks around it. False for anything else: nothing, NaN, infinity, words. */
static inline bool number_read(const char *text, const char *end, double *value)
{
    const char *p = text;
    bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    const char *digits = p, *point = end;
    uint64_t mantissa = 0;
    for (; p < end; p++) {
        unsigned digit = (unsigned)(unsigned char)*p - '0';
        if (digit < 10)
            mantissa = mantissa * 10 + digit;
        else if (*p == '.' && point == end)
            point = p;
        else
            return number_slow(text, end, value);
    }
    long places = point == end ? 0 : end - point - 1;
    long count = end - digits - (point != end);
    if (count < 1 || count > 19 || mantissa > (uint64_t)1 << 53 || places > NUMBER_EXACT_PLACES)
        return number_slow(text, end, value);
    double number = (double)mantissa / number_power[places];
    *value = negative ? -number : number;
    return true;
}

#endif
