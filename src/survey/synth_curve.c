/* SPDX-License-Identifier: MIT
 *
 * One made light curve: a class, a star of it, a shape of its brightness, the nights on which it was seen, noise. All random
 * numbers of a curve come one after another from its own sequence. Periods, amplitudes and brightnesses are those of the Large
 * Magellanic Cloud. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/random.h"
#include "survey/cuts.h"
#include "survey/synth.h"

const char *const synth_class_names[SYNTH_CLASSES] = {"Cep_0", "Cep_1", "EC", "LPV", "RRab", "RRc"};
enum class { CEP_0, CEP_1, EC, LPV, RRAB, RRC };

enum { HARMONICS = 8, NIGHTS = 2700, SHAPE_SAMPLES = 256 };
static const double first_night_mjd = 48823, pi = 3.14159265358979323846;

/* The sequence of a curve. C leaves the order of two calls in one expression open: one draw a statement. */
struct draws {
    uint64_t seed, curve;
    uint32_t next, number[4];
};

static double uniform(struct draws *draws, double low, double high)
{
    if (draws->next % 4 == 0) random_block(draws->seed, RANDOM_SYNTHETIC, 0, draws->curve, draws->next / 4, draws->number);
    uint32_t bits = draws->number[draws->next++ % 4];
    return low + (high - low) * ((double)bits + 0.5) * 0x1p-32;
}

static double normal(struct draws *draws, double mean, double deviation)
{
    double radius = sqrt(-2 * log(uniform(draws, 0, 1)));
    return mean + deviation * radius * cos(2 * pi * uniform(draws, 0, 1));
}

/* A normal number within bounds. */
static double bounded(struct draws *draws, double mean, double deviation, double low, double high)
{
    double value = normal(draws, mean, deviation);
    return value < low ? low : value > high ? high : value;
}

/* How the brightness of a star varies: pulsators by harmonics, binaries by two eclipses, long-period variables by three waves. */
struct shape {
    enum class class;
    double period, phase; /* days; 0 .. 1 */
    double scale;         /* mag per unit of the shape */
    double weight[HARMONICS], shift[HARMONICS];
    double depth[2], width, sharpness, ellipsoidal; /* EC: width in phase */
    double wave_period[3], wave_weight[3], wave_phase[3];
};

/* A sawtooth that rises steeply and falls slowly: weights steepness^(k-1) / k, phases moved a little by `lean`. */
static void shape_sawtooth(struct shape *shape, double steepness, double lean)
{
    for (int k = 0; k < HARMONICS; k++) {
        shape->weight[k] = pow(steepness, k) / (k + 1);
        shape->shift[k] = k * lean;
    }
}

static double shape_pulsation(const struct shape *shape, double phase)
{
    double sum = 0;
    for (int k = 0; k < HARMONICS; k++) sum -= shape->weight[k] * sin(2 * pi * (k + 1) * phase + shape->shift[k]);
    return sum;
}

static double shape_eclipses(const struct shape *shape, double phase)
{
    double from_first = fabs(phase - floor(phase + 0.5)), from_second = fabs(phase - 0.5 - floor(phase));
    double first = exp(-pow(from_first / shape->width, shape->sharpness));
    double second = exp(-pow(from_second / shape->width, shape->sharpness));
    return shape->depth[0] * first + shape->depth[1] * second + shape->ellipsoidal * cos(4 * pi * phase);
}

/* Magnitudes from the mean at a time. */
static double shape_at(const struct shape *shape, double time)
{
    double turns = time / shape->period + shape->phase, phase = turns - floor(turns), sum = 0;
    if (shape->class == EC) return shape_eclipses(shape, phase);
    if (shape->class != LPV) return shape->scale * shape_pulsation(shape, phase);
    for (int w = 0; w < 3; w++)
        sum += shape->wave_weight[w] * sin(2 * pi * (time / shape->wave_period[w] + shape->wave_phase[w]));
    return shape->scale * sum;
}

/* Sets the scale of a pulsation so that it spans the amplitude from peak to peak. */
static void span(struct shape *shape, double amplitude)
{
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < SHAPE_SAMPLES; i++) {
        double value = shape_pulsation(shape, (double)i / SHAPE_SAMPLES);
        low = fmin(low, value);
        high = fmax(high, value);
    }
    shape->scale = amplitude / (high - low);
}

static void draw_cepheid(struct draws *draws, struct shape *shape, struct synth_star *star)
{
    bool fundamental = star->class == CEP_0;
    double log_period = fundamental ? bounded(draws, 0.55, 0.22, 0.18, 1.5) : bounded(draws, 0.3, 0.17, -0.1, 0.78);
    star->period_days = pow(10, log_period);
    star->mean_mag = (fundamental ? 17.4 : 16.9) - 2.76 * log_period + normal(draws, 0, 0.25);
    star->amplitude_mag = fundamental ? bounded(draws, 0.7, 0.2, 0.25, 1.2) : bounded(draws, 0.33, 0.07, 0.15, 0.5);
    double steepness = fundamental ? bounded(draws, 0.72, 0.07, 0.5, 0.88) : bounded(draws, 0.25, 0.08, 0.05, 0.42);
    /* The bump of fundamental Cepheids wanders along the light curve with the period. */
    double lean = fundamental ? 0.9 * (log_period - 0.5) + normal(draws, 0, 0.1) : normal(draws, 0, 0.15);
    shape_sawtooth(shape, steepness, lean);
    span(shape, star->amplitude_mag);
}

static void draw_rr_lyrae(struct draws *draws, struct shape *shape, struct synth_star *star)
{
    bool ab = star->class == RRAB;
    star->period_days = ab ? bounded(draws, 0.57, 0.065, 0.45, 0.8) : bounded(draws, 0.33, 0.035, 0.25, 0.4);
    star->mean_mag = normal(draws, 19.2, 0.22);
    double typical = ab ? 1.2 - 2.2 * (star->period_days - 0.48) : 0.45;
    star->amplitude_mag = ab ? bounded(draws, typical, 0.12, 0.3, 1.4) : bounded(draws, typical, 0.07, 0.25, 0.6);
    double steepness = ab ? bounded(draws, 0.86, 0.04, 0.7, 0.95) : bounded(draws, 0.12, 0.05, 0, 0.25);
    shape_sawtooth(shape, steepness, normal(draws, 0, 0.12));
    span(shape, star->amplitude_mag);
}

static void draw_binary(struct draws *draws, struct shape *shape, struct synth_star *star)
{
    star->period_days = pow(10, bounded(draws, 0.35, 0.35, -0.4, 1.6));
    star->mean_mag = uniform(draws, 15.5, 19.3);
    bool close = star->period_days < uniform(draws, 0.5, 4);
    shape->depth[0] = star->amplitude_mag = uniform(draws, 0.25, 1.0);
    shape->depth[1] = shape->depth[0] * uniform(draws, close ? 0.5 : 0.1, 1);
    shape->width = close ? uniform(draws, 0.08, 0.13) : uniform(draws, 0.02, 0.07);
    shape->sharpness = close ? 2 : uniform(draws, 2, 4);
    shape->ellipsoidal = close ? uniform(draws, 0.03, 0.12) : uniform(draws, 0, 0.02);
}

static void draw_long_period(struct draws *draws, struct shape *shape, struct synth_star *star)
{
    star->period_days = pow(10, uniform(draws, 2, log10(500)));
    star->mean_mag = bounded(draws, 15.7, 0.7, 14.2, 17.5);
    star->amplitude_mag = 0.25 * pow(10, uniform(draws, 0, 0.9));
    /* Two close periods beat, a slow third one moves the mean: semi-regular. */
    shape->wave_period[0] = star->period_days;
    double shorter = uniform(draws, 0, 1) < 0.5 ? -1 : 1;
    shape->wave_period[1] = star->period_days * (1 + shorter * uniform(draws, 0.04, 0.15));
    shape->wave_period[2] = star->period_days * uniform(draws, 5, 10);
    shape->wave_weight[0] = 1;
    shape->wave_weight[1] = uniform(draws, 0.1, 0.6);
    shape->wave_weight[2] = uniform(draws, 0, 0.4);
    for (int w = 0; w < 3; w++) shape->wave_phase[w] = uniform(draws, 0, 1);
    shape->scale = star->amplitude_mag / 2;
}

/* The classes take turns, in another order in each block of six, so that no shard or rank sees only some of them. */
static int draw_class(uint64_t seed, int64_t curve)
{
    struct draws block = {.seed = seed, .curve = (uint64_t)(curve / SYNTH_CLASSES) | (uint64_t)1 << 55};
    return (int)((curve + (int64_t)uniform(&block, 0, SYNTH_CLASSES)) % SYNTH_CLASSES);
}

/* The chance of a visit on each night: none in bad weather, which comes and goes in spells, less in the cloud's low season. */
static double draw_nights(struct draws *draws, float chance[NIGHTS])
{
    bool clear = true;
    double sum = 0, season = uniform(draws, 0.25, 0.6);
    for (int night = 0; night < NIGHTS; night++) {
        clear = uniform(draws, 0, 1) < (clear ? 0.82 : 0.35);
        double height = 0.5 + 0.5 * cos(2 * pi * (night - 150) / 365.25);
        chance[night] = clear ? (float)(season + (1 - season) * height) : 0;
        sum += chance[night];
    }
    return sum;
}

/* The times of the observations in order. Now and then a star is seen only a few times. */
static int draw_times(struct draws *draws, double *time)
{
    float chance[NIGHTS];
    double sum = draw_nights(draws, chance), wanted = exp(bounded(draws, log(800), 0.4, log(300), log(1500)));
    int count = 0;
    if (uniform(draws, 0, 1) < 0.04) wanted = uniform(draws, 15, 300);
    for (int night = 0; night < NIGHTS; night++) {
        int visits = (int)(chance[night] * wanted / sum + uniform(draws, 0, 1));
        if (count + visits > SYNTH_OBSERVATIONS_MOST) visits = SYNTH_OBSERVATIONS_MOST - count;
        /* Later visits of a night follow at least half an hour after the one before. */
        double moment = first_night_mjd + night + uniform(draws, 0.42, 0.72);
        for (int v = 0; v < visits; v++, moment += uniform(draws, 0.02, 0.05)) time[count++] = moment;
    }
    return count;
}

/* Error of a measurement at a magnitude on a night of usual seeing. */
static double usual_error(double magnitude)
{
    double photons = 0.08 * pow(10, 0.3 * (magnitude - 19));
    return sqrt(0.012 * 0.012 + photons * photons);
}

/* Three decimals, as catalogues have. */
static float rounded(double value)
{
    return (float)(round(value * 1000) / 1000);
}

int synth_curve(uint64_t seed, int64_t curve, struct synth_star *star, double *time, float *magnitude, float *error_mag)
{
    static void (*const draw[SYNTH_CLASSES])(struct draws *, struct shape *, struct synth_star *) = {
        draw_cepheid, draw_cepheid, draw_binary, draw_long_period, draw_rr_lyrae, draw_rr_lyrae};
    struct draws draws = {.seed = seed, .curve = (uint64_t)curve};
    struct shape shape = {.scale = 1};
    star->class = draw_class(seed, curve);
    draw[star->class](&draws, &shape, star);
    shape.class = (enum class)star->class;
    shape.period = star->period_days;
    shape.phase = uniform(&draws, 0, 1);
    int count;
    do count = draw_times(&draws, time);
    while (count < CUTS_OBSERVATIONS_LEAST);
    for (int i = 0; i < count; i++) {
        double true_mag = star->mean_mag + shape_at(&shape, time[i] - first_night_mjd);
        double error = usual_error(true_mag) * exp(normal(&draws, 0, 0.25));
        error = error < 0.01 ? 0.01 : error > 0.5 ? 0.5 : error;
        time[i] = round(time[i] * 1e6) / 1e6;
        magnitude[i] = rounded(true_mag + normal(&draws, 0, error));
        error_mag[i] = rounded(error);
    }
    return count;
}
