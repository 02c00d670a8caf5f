# SPDX-License-Identifier: MIT
"""Periods to fold a light curve by: the highest peak of a Lomb-Scargle periodogram, doubled for stars with two minima a period. Of a
slow star that is observed every night there is a peak as high at a day, which is not taken."""
import numpy as np

DOUBLED = ('close binary', 'contact', 'detached', 'eclips')  # words in the names of classes
PAPERS = ('EC', 'CB', 'DB')  # the same classes as the paper's surveys call them
SHORTEST_PERIOD, LONGEST_PERIOD = 0.08, 1000.0  # days
LEAST_OBSERVATIONS = 10
SLOW, AS_HIGH = 20.0, 0.85  # days; share of the highest peak's power


def add_options(parser):
    parser.add_argument('--double', nargs='*', default=DOUBLED, metavar='WORD', help='double the period of classes with such a word')


def is_doubled(label, words):
    return label in PAPERS or any(word.lower() in label.lower() for word in words)


def period_of(time, magnitude, double):
    """In days; nan where no period can be found."""
    from astropy.timeseries import LombScargle
    span = time.max() - time.min() if len(time) else 0.0
    if len(time) < LEAST_OBSERVATIONS or not span > 2 * SHORTEST_PERIOD:
        return np.nan
    longest = min(LONGEST_PERIOD, span)
    step = 0.1 / span  # a tenth of a peak's width
    frequency = np.arange(1 / longest, 1 / SHORTEST_PERIOD, step)
    power = LombScargle(time, magnitude).power(frequency, assume_regular_frequency=True)
    best = np.argmax(power)
    slow = np.flatnonzero(frequency < 1 / SLOW)
    nightly = frequency[best] > 0.5 and abs(frequency[best] - round(frequency[best])) < 1 / SLOW
    if nightly and len(slow) and power[slow].max() > AS_HIGH * power[best]:
        best = slow[np.argmax(power[slow])]
    return (2 if double else 1) / frequency[best]
