/* SPDX-License-Identifier: MIT */
#include "train/metrics.h"

#include <math.h>
#include <string.h>

int32_t most_probable(const float *probability, int classes)
{
    int32_t best = 0;
    for (int32_t c = 1; c < classes; c++)
        if (probability[c] > probability[best]) best = c;
    return best;
}

void confusion_count(int64_t *confusion, int classes, const int32_t *label, const int32_t *prediction, int64_t count)
{
    memset(confusion, 0, (size_t)classes * (size_t)classes * sizeof *confusion);
    for (int64_t i = 0; i < count; i++) confusion[(int64_t)label[i] * classes + prediction[i]]++;
}

double confusion_accuracy(const int64_t *confusion, int classes)
{
    double right = 0, all = 0;
    for (int t = 0; t < classes; t++)
        for (int p = 0; p < classes; p++) {
            all += (double)confusion[t * classes + p];
            if (t == p) right += (double)confusion[t * classes + p];
        }
    return all > 0 ? right / all : NAN;
}

double confusion_macro_f1(const int64_t *confusion, int classes)
{
    double sum = 0, occurring = 0;
    for (int c = 0; c < classes; c++) {
        double of_class = 0, as_class = 0, right = (double)confusion[c * classes + c];
        for (int other = 0; other < classes; other++) {
            of_class += (double)confusion[c * classes + other];
            as_class += (double)confusion[other * classes + c];
        }
        if (of_class + as_class == 0) continue;
        occurring++;
        sum += 2 * right / (of_class + as_class);
    }
    return occurring > 0 ? sum / occurring : NAN;
}
