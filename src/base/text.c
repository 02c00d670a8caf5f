/* SPDX-License-Identifier: MIT
 *
 * Text from people and for people. */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { LONGEST_WORD = 64, FARTHEST = 3 };

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Optimal string alignment: insertions, deletions, replacements and swaps of neighbours. Both words have at most LONGEST_WORD
 * characters. */
static int distance(const char *a, int a_length, const char *b, int b_length)
{
    int rows[3][LONGEST_WORD + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (int j = 0; j <= b_length; j++) above[j] = j;
    for (int i = 1; i <= a_length; i++) {
        row[0] = i;
        for (int j = 1; j <= b_length; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            row[j] = smaller(smaller(above[j] + 1, row[j - 1] + 1), above[j - 1] + (ca != cb));
            bool swapped = i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) && cb == tolower((unsigned char)a[i - 2]);
            if (swapped) row[j] = smaller(row[j], before[j - 2] + 1);
        }
        int *free_row = before;
        before = above;
        above = row;
        row = free_row;
    }
    return above[b_length];
}

const char *nearest_word(const char *word, const char *const *words, int count)
{
    size_t length = strlen(word);
    if (length > LONGEST_WORD) return NULL;
    /* One slip in a short word, up to three in a long one; more than that is another word. */
    int allowed = smaller(FARTHEST, length / 3 > 1 ? (int)length / 3 : 1);
    const char *nearest = NULL;
    for (int i = 0; i < count; i++) {
        size_t other = strlen(words[i]);
        if (other > LONGEST_WORD) continue;
        int d = distance(word, (int)length, words[i], (int)other);
        size_t longer = length > other ? length : other;
        if (d > allowed || (size_t)d >= longer) continue;
        nearest = words[i];
        allowed = d - 1;
    }
    return nearest;
}

bool text_integer(const char *text, int64_t *value)
{
    const char *digits = text + (*text == '+' || *text == '-');
    if (!*digits || digits[strspn(digits, "0123456789")]) return false;
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno) return false;
    *value = number;
    return true;
}

bool text_number(const char *text, double *value)
{
    const char *p = text + (*text == '+' || *text == '-');
    size_t whole = strspn(p, "0123456789"), part = 0;
    p += whole;
    if (*p == '.') {
        part = strspn(++p, "0123456789");
        p += part;
    }
    if (whole + part == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '+' || *p == '-';
        size_t digits = strspn(p, "0123456789");
        if (digits == 0) return false;
        p += digits;
    }
    if (*p) return false;
    double number = strtod(text, NULL);
    if (!isfinite(number)) return false;
    *value = number;
    return true;
}

bool text_boolean(const char *text, bool *value)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (strcasecmp(text, words[i]) == 0) {
            *value = i % 2;
            return true;
        }
    return false;
}

const char *number_text(double value, char text[NUMBER_TEXT])
{
    char shortest[NUMBER_TEXT];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(shortest, sizeof shortest, "%.*g", digits, value);
        if (strtod(shortest, NULL) == value) break;
    }
    return memcpy(text, shortest, NUMBER_TEXT);
}

int utf8_next(const char *text, int *bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    *bytes = 1;
    if (p[0] < 0x80) return p[0];
    int length = p[0] >= 0xf0 && p[0] < 0xf8 ? 4 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xc0 && p[0] < 0xe0 ? 2 : 0;
    if (!length) return -1;
    static const int least[5] = {0, 0, 0x80, 0x800, 0x10000};
    int code = p[0] & (0x7f >> length);
    for (int i = 1; i < length; i++) { /* the ending NUL is no continuation byte, so this never reads past it */
        if ((p[i] & 0xc0) != 0x80) return -1;
        code = code << 6 | (p[i] & 0x3f);
    }
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return -1;
    *bytes = length;
    return code;
}

const char *shown(const char *text, char out[SHOWN_TEXT])
{
    int used = 0, bytes;
    for (; *text; text += bytes) {
        int code = utf8_next(text, &bytes);
        if (used + bytes + 4 > SHOWN_TEXT) {
            memcpy(out + used, "...", 3);
            used += 3;
            break;
        }
        if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            out[used++] = '?';
        } else {
            memcpy(out + used, text, (size_t)bytes);
            used += bytes;
        }
    }
    out[used] = 0;
    return out;
}
