/* SPDX-License-Identifier: MIT
 *
 * A table of the classes. A set is as large in every fold but where stars have several light curves; shown is the smallest. */
#include "commands/folds_text.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

enum { NUMBER = 12, NAME_LEAST = 12 }; /* widths of columns */

/* How many different light curves of each class a set has; count: class_count numbers. */
static void count_different(const struct folds *folds, const struct fold_set *set, int64_t *count)
{
    char *seen = memory_zeroed((size_t)folds->stars, 1, "folds");
    memset(count, 0, (size_t)folds->class_count * sizeof *count);
    for (int64_t i = 0; i < set->count; i++) {
        count[folds->label[set->row[i]]] += !seen[set->row[i]];
        seen[set->row[i]] = 1;
    }
    memory_free(seen);
}

/* The columns: test and validation sets, then the training sets. */
static const struct fold_set *set_of(const struct fold *fold, int column)
{
    return column == 0 ? &fold->validation : column == 1 ? &fold->test : &fold->training[column - 2];
}

/* classes x columns: the least of all folds; owned by the caller. */
static int64_t *least_of_folds(const struct folds *folds, int columns, bool *differ)
{
    int classes = folds->class_count;
    int64_t *least = memory_new((size_t)columns * (size_t)classes, sizeof *least, "folds");
    int64_t *count = memory_new((size_t)classes, sizeof *count, "folds");
    *differ = false;
    for (int k = 0; k < folds->fold_count; k++)
        for (int column = 0; column < columns; column++) {
            count_different(folds, set_of(&folds->fold[k], column), count);
            for (int c = 0; c < classes; c++) {
                int64_t *own = &least[c * columns + column];
                *differ = *differ || (k > 0 && column < 2 && *own != count[c]);
                if (k == 0 || count[c] < *own) *own = count[c];
            }
        }
    memory_free(count);
    return least;
}

/* What only those know who drew the folds: the class in all, and the pool. */
static void print_division(const struct folds *folds, int class)
{
    const struct fold_division *first = &folds->division[class];
    int64_t pool = first->pool;
    for (int k = 1; k < folds->fold_count; k++) {
        int64_t other = folds->division[k * folds->class_count + class].pool;
        pool = other < pool ? other : pool;
    }
    printf("%*lld%*lld", NUMBER + 2, (long long)(first->test + first->validation + first->pool + first->unused), NUMBER + 3,
           (long long)pool);
}

static int name_width(const struct folds *folds)
{
    int width = NAME_LEAST;
    char name[SHOWN_TEXT];
    for (int c = 0; c < folds->class_count; c++) {
        int length = (int)strlen(shown(folds->classes[c], name));
        width = length > width ? length : width;
    }
    return width;
}

static void print_header(const struct folds *folds, int width)
{
    char title[32];
    printf("%-*s", width, "class");
    if (folds->division) printf("%*s%*s", NUMBER + 2, "light curves", NUMBER + 3, "training pool");
    printf("%*s%*s", NUMBER, "validation", NUMBER - 4, "test");
    for (int n = 0; n < folds->sample_counts; n++) {
        snprintf(title, sizeof title, "train %lld", (long long)folds->samples[n]);
        printf("%*s", NUMBER, title);
    }
    putchar('\n');
}

/* Returns whether any set of the class was drawn with replacement. */
static bool print_class(const struct folds *folds, int class, const int64_t *count, int width)
{
    bool replaced = false;
    char name[SHOWN_TEXT], number[32];
    printf("%-*s", width, shown(folds->classes[class], name));
    if (folds->division) print_division(folds, class);
    printf("%*lld%*lld", NUMBER, (long long)count[0], NUMBER - 4, (long long)count[1]);
    for (int n = 0; n < folds->sample_counts; n++) {
        bool own = count[2 + n] < folds->samples[n];
        snprintf(number, sizeof number, "%lld%s", (long long)count[2 + n], own ? "*" : " ");
        printf("%*s", NUMBER + 1 - (n > 0), number);
        replaced = replaced || own;
    }
    putchar('\n');
    return replaced;
}

static void print_left_out(const struct folds *folds)
{
    char name[SHOWN_TEXT];
    for (int c = 0; c < folds->left_out_count; c++)
        printf("%s%s%s", c ? ", " : "left out, with their light curves: ", shown(folds->left_out[c], name),
               c + 1 < folds->left_out_count ? "" : "\n");
    if (folds->ambiguous_stars)
        printf("left out: %lld stars whose light curves have different labels\n", (long long)folds->ambiguous_stars);
}

void folds_print(const struct folds *folds)
{
    bool differ, replaced = false;
    int columns = 2 + folds->sample_counts, width = name_width(folds);
    int64_t *count = least_of_folds(folds, columns, &differ);
    print_header(folds, width);
    for (int c = 0; c < folds->class_count; c++) replaced |= print_class(folds, c, count + c * columns, width);
    if (replaced)
        printf("* drawn with replacement, the class is too small: so many different light curves, the rest repeat them\n");
    if (differ) printf("folds differ a little; the numbers are the smallest\n");
    print_left_out(folds);
    memory_free(count);
}
