/* SPDX-License-Identifier: MIT
 *
 * Cutting lines into fields. Lines without quotes, nearly all of them, take the short way. */
#include "survey/fields.h"

#include <string.h>
#include <strings.h>

static inline bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct text text_trim(struct text text)
{
    while (text.length && is_blank(text.start[text.length - 1])) text.length--;
    while (text.length && is_blank(*text.start)) {
        text.start++;
        text.length--;
    }
    return text;
}

bool text_is(struct text text, const char *word)
{
    return strlen(word) == text.length && strncasecmp(text.start, word, text.length) == 0;
}

bool text_blank(struct text text)
{
    return text_trim(text).length == 0;
}

static int split_blanks(struct text line, struct text *fields, int most)
{
    char *p = line.start, *end = line.start + line.length;
    int count = 0;
    for (;;) {
        while (p < end && is_blank(*p)) p++;
        if (p == end) return count;
        char *start = p;
        while (p < end && !is_blank(*p)) p++;
        if (count < most) fields[count] = (struct text){start, (size_t)(p - start)};
        count++;
    }
}

static int split_plain(struct text line, char delimiter, struct text *fields, int most)
{
    char *p = line.start, *end = line.start + line.length;
    for (int count = 0;; count++) {
        char *start = p;
        while (p < end && *p != delimiter) p++;
        if (count < most) fields[count] = text_trim((struct text){start, (size_t)(p - start)});
        if (p == end) return count + 1;
        p++;
    }
}

/* Unpacks the quoted field whose first character behind the quote is `p`; returns where it ends. */
static char *unquote(char *p, char *end, struct text *field)
{
    char *out = p;
    field->start = p;
    while (p < end) {
        if (*p == '"') {
            if (p + 1 == end || p[1] != '"') {
                p++;
                break;
            }
            p++;
        }
        *out++ = *p++;
    }
    field->length = (size_t)(out - field->start);
    *field = text_trim(*field);
    return p;
}

static int split_quoted(struct text line, char delimiter, struct text *fields, int most)
{
    char *p = line.start, *end = line.start + line.length;
    for (int count = 0;; count++) {
        while (p < end && is_blank(*p) && *p != delimiter) p++;
        struct text field = {p, 0};
        if (p < end && *p == '"') {
            p = unquote(p + 1, end, &field);
            while (p < end && *p != delimiter) p++;
        } else {
            while (p < end && *p != delimiter) p++;
            field = text_trim((struct text){field.start, (size_t)(p - field.start)});
        }
        if (count < most) fields[count] = field;
        if (p == end) return count + 1;
        p++;
    }
}

int fields_split(struct text line, char delimiter, struct text *fields, int most)
{
    if (delimiter == BLANKS) return split_blanks(line, fields, most);
    if (memchr(line.start, '"', line.length)) return split_quoted(line, delimiter, fields, most);
    return split_plain(line, delimiter, fields, most);
}
