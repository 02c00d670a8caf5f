# SPDX-License-Identifier: MIT
"""Numbers that describe one light curve as astronomers did before there were transformers: how its magnitudes are spread, how they
follow each other in time, and its period with the shape of the light curve folded by it. tools/outside-baselines gives them to a
random forest.

The period is looked for in two steps. A Lomb-Scargle periodogram of one sine (astropy, method `fast`) covers everything from an hour
to the whole time span; its highest peaks are refined and then compared by a fit of FIT_HARMONICS harmonics, which tells a period from
its aliases (a star seen once a night varies with f and with 1 - f alike, but its harmonics do not) better than a sine can. Two equal
eclipses look like one period of half the length: such binaries come out at half their period, consistently, and the features of the
fit at the doubled period say how far the two halves differ."""
import numpy as np
from astropy.timeseries import LombScargle

SHORTEST_PERIOD = 0.05  # days
STEPS_A_PEAK = 2.5  # of the coarse frequency grid: a peak is 1 / span wide
FINE_STEPS_A_PEAK = 25
SEGMENT, OVERSAMPLING = 10900, 3  # frequencies that one FFT of 2^15 covers, which stays in the cache; its points a frequency
CANDIDATES, LEAST_CANDIDATE_POWER = 8, 0.4  # peaks that are refined; their power, of the highest one's
FIT_HARMONICS = 3
SHAPE_HARMONICS = 4
LEAST_OBSERVATIONS = 10  # with fewer there is no period
SLOW_DAYS = 30.0
SHORTEST_INTERVAL = 0.01  # days; slopes over less are noise

SPREAD = ('mean', 'weighted_mean', 'standard_deviation', 'amplitude', 'skewness', 'kurtosis', 'median_absolute_deviation',
          'beyond_1_std', 'stetson_k', 'flux_ratio_20', 'flux_ratio_35', 'flux_ratio_50', 'flux_ratio_65', 'flux_ratio_80',
          'percent_amplitude', 'percent_range', 'percentile_asymmetry', 'median_buffer_range', 'median_error', 'log_chi2',
          'excess_deviation')
SEQUENCE = ('von_neumann_eta', 'von_neumann_eta_even', 'max_slope', 'linear_trend', 'linear_trend_share', 'pair_slope_trend',
            'cumulative_range', 'slow_share')
PERIOD = ('log_period', 'power', 'log_peak_period', 'peak_power', 'second_power_ratio', 'harmonic_amplitude', 'harmonic_ratio_2',
          'harmonic_ratio_3', 'harmonic_ratio_4', 'phase_2_cos', 'phase_2_sin', 'phase_3_cos', 'phase_3_sin', 'rise_share',
          'unexplained_share', 'folded_eta', 'folded_eta_double', 'folded_cumulative_range', 'double_gain', 'double_odd_ratio')
NAMES = SPREAD + SEQUENCE + PERIOD


def features(time, magnitude, error):
    """The features of one light curve in the order of NAMES; nan where there is none. time: days, ascending; magnitude and error: mag."""
    time, magnitude, error = (np.asarray(column, dtype=np.float64) for column in (time, magnitude, error))
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        values = {**spread(magnitude, error), **sequence(time, magnitude), **periodic(time, magnitude, error)}
    vector = np.array([values.get(name, np.nan) for name in NAMES])
    vector[~np.isfinite(vector)] = np.nan
    return vector


def spread(magnitude, error):
    """Of the magnitudes whatever their order."""
    n = len(magnitude)
    mean, deviation = magnitude.mean(), magnitude.std()
    weight = error ** -2.0
    weighted = np.sum(weight * magnitude) / weight.sum()
    pull = np.sqrt(n / max(n - 1, 1)) * (magnitude - weighted) / error
    centred = (magnitude - mean) / deviation
    median = np.median(magnitude)
    low, high = np.percentile(magnitude, (5, 95))
    flux = 10 ** (-0.4 * (magnitude - median))
    reach = np.percentile(flux, (5, 10, 17.5, 25, 32.5, 40, 60, 67.5, 75, 82.5, 90, 95))
    whole = reach[-1] - reach[0]
    return {
        'mean': mean, 'weighted_mean': weighted, 'standard_deviation': deviation, 'amplitude': (high - low) / 2,
        'skewness': np.mean(centred ** 3), 'kurtosis': np.mean(centred ** 4) - 3,
        'median_absolute_deviation': np.median(np.abs(magnitude - median)),
        'beyond_1_std': np.mean(np.abs(magnitude - weighted) > deviation),
        'stetson_k': np.mean(np.abs(pull)) / np.sqrt(np.mean(pull ** 2)),
        **{f'flux_ratio_{share}': (reach[11 - k] - reach[k]) / whole for share, k in ((20, 5), (35, 4), (50, 3), (65, 2), (80, 1))},
        'percent_amplitude': np.max(np.abs(flux - 1)), 'percent_range': whole,
        'percentile_asymmetry': np.log((high - median) / (median - low)),
        'median_buffer_range': np.mean(np.abs(magnitude - median) < (high - low) / 10),
        'median_error': np.median(error), 'log_chi2': np.log10(np.sum(weight * (magnitude - weighted) ** 2) / max(n - 1, 1)),
        'excess_deviation': np.sqrt(max(deviation ** 2 - np.mean(error ** 2), 0.0)),
    }


def cumulative_range(magnitude):
    """The range of the running sum of the magnitudes over what it could be: large where neighbours are alike."""
    total = np.cumsum(magnitude - magnitude.mean()) / (len(magnitude) * magnitude.std())
    return total.max() - total.min()


def eta(magnitude):
    """Von Neumann's ratio: the mean squared step over the variance; 2 for noise, 0 for a smooth curve."""
    return np.mean(np.diff(magnitude) ** 2) / magnitude.var() if len(magnitude) > 1 else np.nan


def sequence(time, magnitude):
    """Of the magnitudes in the order of time."""
    n, span = len(time), time[-1] - time[0]
    if n < 3 or not span > 0:
        return {}
    interval, step = np.diff(time), np.diff(magnitude)
    fair = interval >= SHORTEST_INTERVAL
    centred = time - time.mean()
    slope = np.sum(centred * magnitude) / np.sum(centred ** 2)
    variance = magnitude.var()
    # Sampled unevenly, eta would say most of those pairs that are far apart: weighted with 1 / interval^2 it does not.
    weight = interval[fair] ** -2.0
    slow = np.floor((time - time[0]) / SLOW_DAYS).astype(int)
    count = np.bincount(slow)
    level = np.bincount(slow, magnitude)[count > 0] / count[count > 0]
    recent = np.diff(magnitude[-30:])
    return {
        'von_neumann_eta': eta(magnitude),
        'von_neumann_eta_even': np.log10(np.sum(weight * step[fair] ** 2) / weight.sum() / variance),
        'max_slope': np.log10(np.max(np.abs(step[fair] / interval[fair]), initial=0.0)),
        'linear_trend': slope, 'linear_trend_share': slope ** 2 * np.mean(centred ** 2) / variance,
        'pair_slope_trend': np.mean(recent > 0) - np.mean(recent < 0), 'cumulative_range': cumulative_range(magnitude),
        'slow_share': np.sum(count[count > 0] * (level - magnitude.mean()) ** 2) / n / variance,
    }


class HarmonicFit:
    """A mean and the sine and cosine of `harmonics` multiples of a frequency, by least squares with the errors as weights."""

    def __init__(self, time, magnitude, weight, frequency, harmonics):
        turn = 2 * np.pi * frequency * time[:, None] * np.arange(1, harmonics + 1)
        design = np.concatenate([np.ones((len(time), 1)), np.cos(turn), np.sin(turn)], axis=1)
        root = np.sqrt(weight)
        # A little ridge: harmonics that the cadence cannot tell apart must not get huge amplitudes that cancel.
        matrix = (design * weight[:, None]).T @ design
        matrix[np.diag_indices_from(matrix)] += 1e-6 * weight.sum()
        solution = np.linalg.solve(matrix, design.T @ (weight * magnitude))
        self.mean, self.cosine, self.sine = solution[0], solution[1:harmonics + 1], solution[harmonics + 1:]
        self.amplitude = np.hypot(self.cosine, self.sine)
        self.phase = np.arctan2(self.sine, self.cosine)
        off = np.sum((root * (magnitude - design @ solution)) ** 2)
        level = np.sum(weight * magnitude) / weight.sum()
        self.unexplained = off / np.sum(weight * (magnitude - level) ** 2)

    def curve(self, phase):
        turn = 2 * np.pi * phase[:, None] * np.arange(1, len(self.cosine) + 1)
        return self.mean + np.cos(turn) @ self.cosine + np.sin(turn) @ self.sine


def periodogram(time, magnitude, error):
    """Lomb-Scargle power on an even grid of frequencies from 1 / span to 1 / SHORTEST_PERIOD, to the accuracy that finding peaks
    needs. The mean is not fitted anew at each frequency: at whole numbers a day, where a star that is seen once a night always has
    the same phase, the fit would be a division of nothing by nothing. Returns both."""
    step = 1 / (STEPS_A_PEAK * (time[-1] - time[0]))
    frequency = step * np.arange(np.ceil(STEPS_A_PEAK), np.ceil(1 / (SHORTEST_PERIOD * step)) + 2)
    search = LombScargle(time, magnitude, error, fit_mean=False)
    settings = {'method': 'fast', 'assume_regular_frequency': True, 'method_kwds': {'trig_sum_kwds': {'oversampling': OVERSAMPLING}}}
    # Every part has its neighbour's first frequency too, so that none is a single one, which is no grid.
    parts = [frequency[first:first + SEGMENT + 1] for first in range(0, len(frequency) - 1, SEGMENT)]
    power = np.concatenate([search.power(part, **settings)[:SEGMENT] for part in parts])
    return frequency[:len(power)], power


def peaks(frequency, power):
    """The frequencies of the CANDIDATES highest local maxima that are not much lower than the highest, that first."""
    around = np.concatenate([[-np.inf], power, [-np.inf]])
    place = np.flatnonzero((power > around[:-2]) & (power >= around[2:]))
    place = place[np.argsort(-power[place], kind='stable')[:CANDIDATES]]
    return frequency[place[power[place] >= LEAST_CANDIDATE_POWER * power[place[0]]]]


def refine(time, magnitude, error, coarse):
    """The highest power within a step of the coarse grid. Returns (frequency, power)."""
    span = time[-1] - time[0]
    reach = round(FINE_STEPS_A_PEAK / STEPS_A_PEAK)
    fine = np.maximum(coarse + np.arange(-reach, reach + 1) / (FINE_STEPS_A_PEAK * span), 1 / span)
    power = LombScargle(time, magnitude, error).power(fine, method='cython')
    best = np.argmax(power)
    return fine[best], power[best]


def find_period(time, magnitude, error):
    """The frequencies (per day) that the light curve may have, each with its power of a single sine: the first is the one that
    FIT_HARMONICS harmonics explain best, the second the highest peak of the periodogram, then the other candidates. Empty where
    no period can be found. `time` may start anywhere."""
    span = time[-1] - time[0]
    if len(time) < LEAST_OBSERVATIONS or not span > 2 * SHORTEST_PERIOD or not magnitude.std() > 0:
        return []
    candidates = [refine(time, magnitude, error, coarse) for coarse in peaks(*periodogram(time, magnitude, error))]
    highest = max(candidates, key=lambda candidate: candidate[1])
    weight = error ** -2.0
    harmonics = FIT_HARMONICS if len(time) >= 5 * FIT_HARMONICS else 1
    best = min(candidates, key=lambda candidate: HarmonicFit(time, magnitude, weight, candidate[0], harmonics).unexplained)
    return [best, highest] + [candidate for candidate in candidates if candidate is not best]


def periodic(time, magnitude, error):
    """The period and the light curve folded by it."""
    time = time - time[0]
    found = find_period(time, magnitude, error)
    if not found:
        return {}
    (frequency, power), (peak_frequency, peak_power) = found[:2]
    weight = error ** -2.0
    fit = HarmonicFit(time, magnitude, weight, frequency, SHAPE_HARMONICS)
    double = HarmonicFit(time, magnitude, weight, frequency / 2, 2 * SHAPE_HARMONICS)
    shape = fit.curve(np.arange(200) / 200)
    ratio = fit.amplitude / fit.amplitude[0]
    # Phases of the harmonics from that of the first, which moves with the zero of time.
    second, third = (fit.phase[k - 1] - k * fit.phase[0] for k in (2, 3))
    folded = magnitude[np.argsort(time * frequency % 1, kind='stable')]
    folded_double = magnitude[np.argsort(time * frequency / 2 % 1, kind='stable')]
    odd, even = double.amplitude[0::2], double.amplitude[1::2]
    return {
        'log_period': -np.log10(frequency), 'power': power, 'log_peak_period': -np.log10(peak_frequency), 'peak_power': peak_power,
        'second_power_ratio': max((other for _, other in found[2:]), default=0.0) / power,
        'harmonic_amplitude': fit.amplitude[0], 'harmonic_ratio_2': ratio[1], 'harmonic_ratio_3': ratio[2],
        'harmonic_ratio_4': ratio[3], 'phase_2_cos': np.cos(second), 'phase_2_sin': np.sin(second), 'phase_3_cos': np.cos(third),
        'phase_3_sin': np.sin(third), 'rise_share': (np.argmin(shape) - np.argmax(shape)) % 200 / 200,
        'unexplained_share': fit.unexplained, 'folded_eta': eta(folded), 'folded_eta_double': eta(folded_double),
        'folded_cumulative_range': cumulative_range(folded), 'double_gain': 1 - double.unexplained / fit.unexplained,
        'double_odd_ratio': np.sqrt(np.sum(odd ** 2) / np.sum(even ** 2)),
    }
