/* SPDX-License-Identifier: MIT
 *
 * The CPU device: its vector functions against libm, its masks against their definition, its products, sums and updates against
 * double, over odd shapes; and that no result depends on the thread count where the contract says so. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "device/cpu/vector_math.h"
#include "device/device.h"

static float noise(uint32_t tensor, uint32_t element)
{
    return 2 * random_uniform(random_u32(7, RANDOM_SYNTHETIC, 0, tensor, element)) - 1;
}

static float *noise_new(uint32_t tensor, int64_t count)
{
    float *values = memory_new((size_t)count, sizeof *values, "noise");
    for (int64_t i = 0; i < count; i++) values[i] = noise(tensor, (uint32_t)i);
    return values;
}

static struct device *open_device(int threads)
{
    struct device *device = NULL;
    struct error error = {0};
    assert_int_equal(device_open(&device, DEVICE_CPU, PRECISION_FP32, threads, &(struct device_place){0, 1}, &error), STATUS_OK);
    return device;
}

static void functions_agree_with_libm(void **state)
{
    (void)state;
    for (float x = -80; x < 80; x += 0.0137f) assert_true(fabs((double)vector_exp(x) / exp((double)x) - 1) < 3e-7);
    for (float x = -12; x < 12; x += 0.00137f)
        assert_true(fabs((double)vector_tanh(x) - tanh((double)x)) <= 6e-7 * fabs(tanh((double)x)));
    for (double x = -3000; x < 3000; x += 0.0317) {
        assert_true(fabs((double)vector_sine(x, 0) - sin(x)) < 2e-7);
        assert_true(fabs((double)vector_sine(x, 1) - cos(x)) < 2e-7);
    }
    assert_true(vector_exp(-1e9f) == 0 && vector_exp(-200) == 0 && isfinite(vector_exp(1000)));
    assert_true(vector_tanh(1e6f) == 1 && vector_tanh(-1e6f) == -1 && vector_tanh(0) == 0);
}

/* Windows of given lengths with noise in them. */
struct fixture {
    struct device_windows w;
    int32_t *length;
};

static void fixture_new(struct fixture *f, const int *lengths, int B, int L)
{
    size_t T = (size_t)B * (size_t)L;
    float **fields[] = {&f->w.magnitude, &f->w.error,  &f->w.target, &f->w.probed, &f->w.hidden,
                        &f->w.modified,  &f->w.weight, &f->w.seen,   &f->w.live};
    f->w.B = B, f->w.L = L;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) *fields[i] = memory_zeroed(T, sizeof(float), "a field");
    f->w.time = memory_zeroed(T, sizeof(double), "times");
    f->w.length = memory_zeroed((size_t)B, sizeof(int32_t), "lengths");
    f->w.start = memory_zeroed((size_t)B, sizeof(int32_t), "starts");
    f->w.curve = memory_zeroed((size_t)B, sizeof(int64_t), "curves");
    for (int b = 0; b < B; b++) {
        f->w.length[b] = lengths[b], f->w.start[b] = 3 * b, f->w.curve[b] = 1000 + b;
        for (int i = 0; i < lengths[b]; i++) {
            int at = b * L + i;
            f->w.magnitude[at] = 15 + noise(1, (uint32_t)at);
            f->w.error[at] = 0.1f + 0.05f * noise(2, (uint32_t)at);
            f->w.time[at] = 3.7 * i;
        }
    }
}

static void fixture_free(struct fixture *f)
{
    void *all[] = {f->w.magnitude, f->w.error, f->w.target, f->w.probed, f->w.hidden, f->w.modified, f->w.weight,
                   f->w.seen,      f->w.live,  f->w.time,   f->w.length, f->w.start,  f->w.curve};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) memory_free(all[i]);
}

static const struct masking paper = {
    .mode = MASKING_DRAWN, .probed = 0.5, .same = 0.2, .random = 0.2, .weighted = true, .seed = 5};

static void embed_windows(struct device *device, struct device_windows *w, const struct masking *masking)
{
    float weight[4] = {1, 2, 3, 4}, bias[4] = {0}, *X = memory_new((size_t)w->B * (size_t)w->L * 4, sizeof *X, "X");
    struct embed embed = {.windows = w, .masking = *masking, .D = 4, .pe_base = 1e4, .weight = weight, .bias = bias, .X = X};
    device->operations->embed_forward(device, &embed);
    memory_free(X);
}

/* Numbers of astromer.md for n = 200: 100 probed = 20 true + 16 random + 64 hidden; the paper's: 20 + 20 + 60. */
static void mask_counts_are_the_papers(void **state)
{
    (void)state;
    struct masking_counts c = masking_counts(&paper, 200);
    assert_int_equal(c.probed, 100);
    assert_int_equal(c.same, 20);
    assert_int_equal(c.random, 16);
    struct masking literal = paper;
    literal.random_of_probed = true;
    assert_int_equal(masking_counts(&literal, 200).random, 20);
    for (int n = 0; n <= 256; n++) {
        c = masking_counts(&paper, n);
        assert_int_equal(c.probed, n / 2);
        assert_int_equal(c.same, (c.probed + 4) / 5);
        assert_int_equal(c.random, (c.probed - c.same + 4) / 5);
    }
}

static void check_window_masks(const struct device_windows *w, int b)
{
    int n = w->length[b], probed = 0, hidden = 0, changed = 0;
    struct masking_counts c = masking_counts(&paper, n);
    double sum = 0;
    for (int i = 0; i < w->L; i++) {
        int at = b * w->L + i;
        if (i >= n) {
            assert_true(w->hidden[at] == 1 && w->probed[at] == 0 && w->target[at] == 0);
            continue;
        }
        sum += (double)w->target[at];
        probed += w->probed[at] != 0;
        hidden += w->hidden[at] != 0;
        assert_true(w->probed[at] != 0 || (w->hidden[at] == 0 && w->modified[at] == w->target[at]));
        if (w->modified[at] == w->target[at]) continue;
        changed++;
        bool found = false; /* a random magnitude is one of the window's own, and never at a hidden step */
        for (int j = 0; j < n; j++) found |= w->modified[at] == w->target[b * w->L + j];
        assert_true(found && w->hidden[at] == 0);
    }
    assert_int_equal(probed, c.probed);
    assert_int_equal(hidden, c.probed - c.same - c.random);
    assert_true(changed <= c.random && changed >= c.random - 3);
    assert_true(fabs(sum) < 1e-4 * (n + 1));
}

static void masks_are_as_defined(void **state)
{
    (void)state;
    int lengths[] = {200, 131, 5, 1, 0, 2, 199};
    struct fixture f = {0}, again = {0};
    struct device *device = open_device(2), *alone = NULL;
    fixture_new(&f, lengths, 7, 200);
    fixture_new(&again, lengths, 7, 200);
    embed_windows(device, &f.w, &paper);
    for (int b = 0; b < 7; b++) check_window_masks(&f.w, b);
    device_close(device);
    alone = open_device(1);
    embed_windows(alone, &again.w, &paper);
    assert_memory_equal(f.w.hidden, again.w.hidden, 7 * 200 * sizeof(float));
    assert_memory_equal(f.w.modified, again.w.modified, 7 * 200 * sizeof(float));
    struct masking later = paper;
    later.epoch = 1;
    embed_windows(alone, &again.w, &later);
    assert_memory_not_equal(f.w.hidden, again.w.hidden, 7 * 200 * sizeof(float));
    device_close(alone);
    fixture_free(&f);
    fixture_free(&again);
}

/* Every observation is as likely to be hidden as any other, and all parts of the light curve are. */
static void masks_are_uniform(void **state)
{
    (void)state;
    enum { B = 400, L = 50 };
    int lengths[B], hits[L] = {0};
    struct fixture f = {0};
    struct device *device = open_device(2);
    for (int b = 0; b < B; b++) lengths[b] = L;
    fixture_new(&f, lengths, B, L);
    embed_windows(device, &f.w, &paper);
    for (int b = 0; b < B; b++)
        for (int i = 0; i < L; i++) hits[i] += f.w.hidden[b * L + i] != 0;
    struct masking_counts c = masking_counts(&paper, L);
    double p = (double)(c.probed - c.same - c.random) / L, deviation = sqrt(B * p * (1 - p));
    for (int i = 0; i < L; i++) assert_true(fabs(hits[i] - B * p) < 4.5 * deviation);
    device_close(device);
    fixture_free(&f);
}

static void error_weights_are_scaled(void **state)
{
    (void)state;
    int lengths[] = {3, 2, 1};
    struct fixture f = {0};
    struct device *device = open_device(1);
    fixture_new(&f, lengths, 3, 4);
    float errors[12] = {0.1f, 0.2f, 0.4f, 0, 0.3f, 0.3f, 0, 0, 0.5f};
    memcpy(f.w.error, errors, sizeof errors);
    embed_windows(device, &f.w, &paper);
    float expected[12] = {1.001f, 2.5f / 7.5f + 0.001f, 0.001f, 0, 0.001f, 0.001f, 0, 0, 0.001f};
    for (int i = 0; i < 12; i++) assert_true(fabs((double)f.w.weight[i] - (double)expected[i]) < 1e-6);
    struct masking inverse = paper;
    inverse.inverse = true;
    embed_windows(device, &f.w, &inverse);
    assert_true(fabs((double)f.w.weight[1] - 5) < 1e-5);
    device_close(device);
    fixture_free(&f);
}

/* y = x W + b with strides, and its gradients, against double. */
static void products_agree_with_double(void **state)
{
    (void)state;
    const struct {
        int64_t T;
        int in, out, tanh;
    } shapes[] = {{1, 1, 1, 0}, {7, 5, 3, 2}, {130, 33, 65, 65}, {64, 256, 96, 0}, {9000, 3, 5, 2}};
    struct device *device = open_device(2);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t T = shapes[s].T, in = shapes[s].in, out = shapes[s].out, xs = in + 3, ws = out + 2, ys = out + 1;
        float *x = noise_new(1, T * xs), *W = noise_new(2, in * ws), *b = noise_new(3, out), *y = noise_new(4, T * ys),
              *d_y = noise_new(5, T * ys), *d_x = noise_new(6, T * xs), *d_W = memory_zeroed((size_t)(in * ws), 4, "d_W"),
              *d_b = memory_zeroed((size_t)out, 4, "d_b"), *kept = memory_new((size_t)(T * ys), 4, "d_y");
        memcpy(kept, d_y, (size_t)(T * ys) * 4);
        struct linear l = {.T = T,
                           .in = (int)in,
                           .out = (int)out,
                           .x = x,
                           .x_stride = xs,
                           .weight = W,
                           .weight_stride = ws,
                           .bias = s == 1 ? NULL : b,
                           .y = y,
                           .y_stride = ys,
                           .tanh_columns = shapes[s].tanh};
        device->operations->linear_forward(device, &l);
        device->operations->linear_backward(device, &l, &(struct linear_gradient){d_y, d_x, d_W, d_b});
        for (int64_t t = 0; t < T; t++)
            for (int64_t j = 0; j < out; j++) {
                double sum = s == 1 ? 0 : (double)b[j];
                for (int64_t k = 0; k < in; k++) sum += (double)x[t * xs + k] * (double)W[k * ws + j];
                if (j < shapes[s].tanh) sum = tanh(sum);
                assert_true(fabs(sum - (double)y[t * ys + j]) < 2e-5);
                double slope = j < shapes[s].tanh ? 1 - (double)y[t * ys + j] * (double)y[t * ys + j] : 1;
                assert_true(fabs((double)kept[t * ys + j] * slope - (double)d_y[t * ys + j]) < 1e-5);
            }
        for (int64_t t = 0; t < T; t += 5)
            for (int64_t k = 0; k < in; k++) {
                double sum = 0;
                for (int64_t j = 0; j < out; j++) sum += (double)d_y[t * ys + j] * (double)W[k * ws + j];
                assert_true(fabs(sum - (double)d_x[t * xs + k]) < 2e-5);
            }
        for (int64_t j = 0; j < out; j++) {
            double bias = 0, weight = 0;
            for (int64_t t = 0; t < T; t++)
                bias += (double)d_y[t * ys + j], weight += (double)x[t * xs] * (double)d_y[t * ys + j];
            assert_true(fabs(bias - (double)d_b[j]) < 1e-4 && fabs(weight - (double)d_W[j]) < 1e-4);
        }
        void *all[] = {x, W, b, y, d_y, d_x, d_W, d_b, kept};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) memory_free(all[i]);
    }
    device_close(device);
}

/* Rows that are not wanted, here NaN, are neither read nor missed, over many chunks of rows. */
static void unwanted_rows_do_not_matter(void **state)
{
    (void)state;
    enum { T = 20000, IN = 4, OUT = 3 };
    struct device *device = open_device(2);
    float *x = noise_new(1, T * IN), *W = noise_new(2, IN * OUT), *b = noise_new(3, OUT), *d_y = noise_new(4, T * OUT),
          *wanted = noise_new(5, T);
    float *y[2] = {noise_new(6, T * OUT), noise_new(6, T * OUT)}, *d_x[2] = {noise_new(7, T * IN), noise_new(7, T * IN)};
    float d_W[2][IN * OUT] = {{0}}, d_b[2][OUT] = {{0}};
    for (int t = 0; t < T; t++) wanted[t] = wanted[t] > 0.2f;
    for (int i = 0; i < 2; i++) { /* all rows, the others without a gradient; then the wanted ones, the others NaN */
        for (int t = 0; t < T; t++) {
            for (int j = 0; j < OUT && wanted[t] == 0; j++) d_y[t * OUT + j] = i ? NAN : 0;
            for (int k = 0; k < IN && wanted[t] == 0 && i; k++) x[t * IN + k] = NAN;
        }
        struct linear l = {.T = T,
                           .in = IN,
                           .out = OUT,
                           .x = x,
                           .x_stride = IN,
                           .weight = W,
                           .weight_stride = OUT,
                           .bias = b,
                           .y = y[i],
                           .y_stride = OUT,
                           .wanted = i ? wanted : NULL};
        device->operations->linear_forward(device, &l);
        device->operations->linear_backward(device, &l, &(struct linear_gradient){d_y, d_x[i], d_W[i], d_b[i]});
    }
    for (int t = 0; t < T; t++) {
        for (int j = 0; j < OUT && wanted[t] != 0; j++)
            assert_true(fabs((double)y[0][t * OUT + j] - (double)y[1][t * OUT + j]) < 1e-6);
        for (int k = 0; k < IN; k++) assert_true(fabs((double)d_x[0][t * IN + k] - (double)d_x[1][t * IN + k]) < 1e-6);
    }
    for (int i = 0; i < IN * OUT; i++) assert_true(fabs((double)d_W[0][i] - (double)d_W[1][i]) < 1e-3);
    for (int j = 0; j < OUT; j++) assert_true(fabs((double)d_b[0][j] - (double)d_b[1][j]) < 1e-3);
    void *all[] = {x, W, b, d_y, wanted, y[0], y[1], d_x[0], d_x[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) memory_free(all[i]);
    device_close(device);
}

/* Padding and hidden keys: with mask K and alpha -1e9 they must not reach the output at all; a window without a visible key
 * averages over all. */
static void hidden_keys_do_not_matter(void **state)
{
    (void)state;
    enum { B = 2, L = 9, D = 8, H = 2 };
    float hidden[B * L] = {0}, seen[B * L], Z[B * L * D], again[B * L * D], weights[B * H * L * L];
    float *qkv = noise_new(1, B * L * 3 * D), *saved = memory_zeroed(B * H * L * L, 4, "saved");
    struct device *device = open_device(2);
    for (int i = 0; i < L; i++) hidden[i] = i % 3 == 1, hidden[L + i] = 1;
    for (int i = 0; i < B * L; i++) seen[i] = i >= L || hidden[i] == 0;
    struct attention a = {.B = B,
                          .L = L,
                          .D = D,
                          .H = H,
                          .mask = MASK_K,
                          .alpha = -1e9,
                          .hidden = hidden,
                          .Q = qkv,
                          .K = qkv + D,
                          .V = qkv + 2 * D,
                          .stride = 3 * D,
                          .keys = seen,
                          .Z = Z,
                          .saved = saved};
    device->operations->attention_forward(device, &a);
    for (int j = 0; j < D; j++) {
        double mean = 0;
        for (int i = 0; i < L; i++) mean += (double)qkv[((L + i) * 3 + 2) * D + j] / L;
        for (int i = 0; i < L; i++) assert_true(fabs((double)Z[(L + i) * D + j] - mean) < 1e-5);
    }
    device->operations->attention_weights(device, &a, weights);
    for (int row = 0; row < B * H * L; row++) {
        double sum = 0;
        for (int k = 0; k < L; k++) sum += (double)weights[row * L + k];
        assert_true(fabs(sum - 1) < 1e-5);
        if (row < H * L) assert_true(weights[row * L + 1] == 0 && weights[row * L + 7] == 0);
    }
    for (int i = 1; i < L; i += 3)
        for (int j = D; j < 3 * D; j++) qkv[i * 3 * D + j] = 1e3f;
    a.Z = again;
    device->operations->attention_forward(device, &a);
    assert_memory_equal(Z, again, L * D * sizeof(float));
    device_close(device);
    memory_free(qkv);
    memory_free(saved);
}

static void pooling_sees_real_observations_only(void **state)
{
    (void)state;
    enum { B = 3, L = 4, D = 2 };
    float X[B * L * D], pooled[B * D];
    int32_t length[B] = {4, 2, 0};
    struct device *device = open_device(1);
    for (int i = 0; i < B * L * D; i++) X[i] = (float)-i - 1;
    struct pool pool = {
        .B = B, .L = L, .D = D, .pooling = POOL_MEAN, .X = X, .length = length, .pooled = pooled, .pooled_stride = D};
    device->operations->pool_forward(device, &pool);
    assert_true(pooled[0] == -4 && pooled[1] == -5 && pooled[2] == -10 && pooled[4] == 0);
    pool.pooling = POOL_MAX;
    device->operations->pool_forward(device, &pool);
    assert_true(pooled[0] == -1 && pooled[2] == -9 && pooled[5] == 0);
    device_close(device);
}

/* The factor 1 / (2 B loss), clipping, and a step that is not finite. */
static void a_step_finishes_once(void **state)
{
    (void)state;
    float gradient[2] = {3, 4}, totals[TOTALS] = {8, 2, 2, 1, 0}, w[2] = {1, 1}, m[2] = {0}, v[2] = {0};
    struct step_state s = {0};
    struct device *device = open_device(1);
    struct step_finish finish = {.N = 2, .gradient = gradient, .totals = totals, .state = &s};
    device->operations->step_finish(device, &finish);
    assert_true(fabs(s.loss - 2) < 1e-6 && fabs(s.plain_rmse - 1) < 1e-6 && fabs(s.factor - 0.125) < 1e-6);
    assert_true(fabs(s.gradient_norm - 0.625) < 1e-6 && s.applied == 1 && s.updates == 1 && s.stop == 1 && s.save == 0);
    struct adam adam = {.N = 2,
                        .weight = w,
                        .m = m,
                        .v = v,
                        .gradient = gradient,
                        .learning_rate = 0.1,
                        .beta1 = 0.9,
                        .beta2 = 0.98,
                        .epsilon = 1e-9,
                        .state = &s};
    device->operations->adam(device, &adam); /* the first update is learning_rate times the gradient's sign */
    assert_true(fabs((double)w[0] - 0.9) < 1e-6 && fabs((double)w[1] - 0.9) < 1e-6);
    finish.clip_norm = 0.0625;
    device->operations->step_finish(device, &finish);
    assert_true(fabs(s.factor - 0.0125) < 1e-7);
    totals[TOTAL_ERROR] = NAN;
    device->operations->step_finish(device, &finish);
    device->operations->adam(device, &adam);
    assert_true(s.applied == 0 && s.updates == 2 && fabs((double)w[0] - 0.9) < 1e-6);
    totals[TOTAL_ERROR] = 8, gradient[1] = INFINITY;
    device->operations->step_finish(device, &finish);
    assert_true(s.applied == 0 && s.updates == 2);
    device_close(device);
}

static void what_is_not_there_is_refused(void **state)
{
    (void)state;
    struct device *device = NULL;
    struct error error = {0};
    assert_int_equal(device_open(&device, DEVICE_CPU, PRECISION_TF32, 1, &(struct device_place){0, 1}, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "tf32"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_agree_with_libm),
        cmocka_unit_test(mask_counts_are_the_papers),
        cmocka_unit_test(masks_are_as_defined),
        cmocka_unit_test(masks_are_uniform),
        cmocka_unit_test(error_weights_are_scaled),
        cmocka_unit_test(products_agree_with_double),
        cmocka_unit_test(unwanted_rows_do_not_matter),
        cmocka_unit_test(hidden_keys_do_not_matter),
        cmocka_unit_test(pooling_sees_real_observations_only),
        cmocka_unit_test(a_step_finishes_once),
        cmocka_unit_test(what_is_not_there_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
