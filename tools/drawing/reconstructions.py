# SPDX-License-Identifier: MIT
"""Draws what a model made of light curves, from the table of `astromer evaluate --reconstructions`: for one window a class what was
visible, what was hidden, and what the model put there, against time and folded by the period; and against the true magnitudes,
with the hidden observations of all windows of the class behind.

Of each class the window is drawn whose hidden observations the model fills in neither better nor worse than the median of the class
(--rank 0.5; 0 is the best). The period is the highest peak of a Lomb-Scargle periodogram of all observations of the star in the
table, doubled for classes that have two minima a period (--double)."""
import collections
import csv

import numpy as np

from drawing import periods, style
from drawing.style import BLUE, GREY, VERMILLION, plt
from surveyfiles import FileError

COLUMNS = ('id', 'class', 'start', 'mjd', 'magnitude', 'error', 'probed', 'hidden', 'reconstruction', 'unmasked')
NUMBERS = ('mjd', 'magnitude', 'probed', 'hidden', 'reconstruction')
LEAST_PROBED = 10  # observations of a window that may be drawn
MOST_POINTS = 4000  # of a class, behind the window's


class Window:
    """rows: (time, magnitude, probed, hidden, the model's magnitude or nan) of each observation."""

    def __init__(self, star, label, rows):
        self.star, self.label = star, label
        self.time, self.magnitude, probed, hidden, self.model = np.array(rows).T
        self.hidden, self.probed = hidden == 1, probed == 1
        off = (self.magnitude - self.model)[self.probed]
        spread = self.magnitude[self.probed] - self.magnitude.mean()
        self.rmse = np.sqrt(np.mean(off ** 2)) if len(off) else np.nan
        self.unexplained = np.mean(off ** 2) / np.mean(spread ** 2) if len(off) and np.any(spread) else np.nan

    def hidden_pairs(self):
        """(true, model), both from the window's mean."""
        return (self.magnitude - self.magnitude.mean())[self.hidden], (self.model - self.magnitude.mean())[self.hidden]


def add_options(parser):
    parser.add_argument('table', help='of astromer evaluate --reconstructions')
    parser.add_argument('--rank', type=float, default=0.5, help='which window of a class, 0 the best to 1 the worst (%(default)s)')
    periods.add_options(parser)


def check_options(parser, options):
    if not 0 <= options.rank <= 1:
        parser.error('--rank is a number from 0 to 1')


def read(path):
    """The windows of a table, and every star's times and magnitudes."""
    windows, stars = collections.OrderedDict(), collections.defaultdict(list)
    try:
        with open(path, newline='', encoding='utf-8') as file:
            table = csv.reader(file)
            names = next(table, [])
            if not set(COLUMNS) <= set(names):
                raise FileError(f'{path}: is no table of reconstructions: its columns are not {", ".join(COLUMNS)}')
            star, label, start, *numbers = (names.index(name) for name in ('id', 'class', 'start', *NUMBERS))
            for row in table:
                values = [float(row[column] or 'nan') for column in numbers]
                windows.setdefault((row[star], row[start], row[label]), []).append(values)
                stars[row[star]].append(values[:2])
        return [Window(star, label, rows) for (star, _, label), rows in windows.items()], stars
    except OSError as failure:
        raise FileError(f'{path}: {failure.strerror}') from failure
    except (ValueError, IndexError, csv.Error) as failure:
        raise FileError(f'{path}: is no table of reconstructions: {failure}') from failure


def choose(windows, rank):
    """One window a class, at this rank among those with enough probed observations by the share of variance left unexplained.
    Pairs (window, all of them)."""
    classes = collections.defaultdict(list)
    for window in windows:
        if window.probed.sum() >= LEAST_PROBED and np.isfinite(window.unexplained):
            classes[window.label].append(window)
    chosen = []
    for label in sorted(classes):
        ordered = sorted(classes[label], key=lambda window: window.unexplained)
        chosen.append((ordered[round(rank * (len(ordered) - 1))], ordered))
    return chosen


def draw_points(axes, x, window, folded):
    repeat = (0, 1) if folded else (0,)  # two periods
    for shift in repeat:
        first = shift == 0
        axes.plot(x[~window.hidden] + shift, window.magnitude[~window.hidden], '.', color=GREY, markersize=4,
                  label='visible' if first else None)
        axes.plot(x[window.hidden] + shift, window.magnitude[window.hidden], 'o', color=BLUE, markersize=3.6, markerfacecolor='none',
                  label='hidden' if first else None)
        axes.plot(x[window.hidden] + shift, window.model[window.hidden], 'x', color=VERMILLION, markersize=4, markeredgewidth=1.1,
                  label='model' if first else None)


def draw_pairs(axes, window, others):
    """The model's magnitudes against the true ones; the line is where they would be equal."""
    true, model = (np.concatenate(parts) for parts in zip(*(other.hidden_pairs() for other in others)))
    some = np.linspace(0, len(true) - 1, min(len(true), MOST_POINTS)).astype(int)
    axes.plot(true[some], model[some], '.', color=GREY, markersize=1.5, alpha=0.35, rasterized=True)
    axes.plot(*window.hidden_pairs(), 'x', color=VERMILLION, markersize=3.5, markeredgewidth=0.9)
    low, high = np.percentile(true, (0.5, 99.5)) if len(true) else (-1, 1)
    reach = 1.1 * max(-low, high, *np.abs(window.hidden_pairs()[0])) + 1e-3
    axes.plot((-reach, reach), (-reach, reach), color='black', linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set(xlim=(reach, -reach), ylim=(reach, -reach))
    axes.set_box_aspect(1)
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=8)


def draw(options):
    windows, stars = read(options.table)
    chosen = choose(windows, options.rank)
    if not chosen:
        raise FileError(f'{options.table}: has no window with {LEAST_PROBED} probed observations')
    style.use()
    figure, axes = plt.subplots(len(chosen), 3, figsize=(style.PAGE_INCHES, 1.75 * len(chosen) + 0.6), constrained_layout=True,
                                squeeze=False, gridspec_kw={'width_ratios': (3, 3, 1.75)})
    for (window, others), (left, middle, right) in zip(chosen, axes):
        period = periods.period_of(*np.array(stars[window.star]).T, periods.is_doubled(window.label, options.double))
        draw_points(left, window.time, window, False)
        if np.isfinite(period):
            draw_points(middle, (window.time / period) % 1, window, True)
        draw_pairs(right, window, others)
        folded = f'folded by {period:.4g} d' if np.isfinite(period) else 'no period found'
        style.title_across(left, f'{window.label or "light curve"}: {window.star}   (RMSE {window.rmse:.3f} mag; {folded}; '
                           f'{len(others)} windows of the class)')
        left.set_ylabel('mag')
        low, high = window.magnitude.min(), window.magnitude.max()
        for place in (left, middle):
            place.set_ylim(high + 0.08 * (high - low) + 1e-3, low - 0.08 * (high - low) - 1e-3)
        right.set_ylabel('model - mean', fontsize=8, labelpad=1)
        middle.tick_params(labelleft=False)
        left.xaxis.set_major_locator(plt.MaxNLocator(4))
    axes[-1, 0].set_xlabel('MJD (days)')
    axes[-1, 1].set_xlabel('phase')
    axes[-1, 2].set_xlabel('true - mean (mag)', fontsize=8)
    style.legend_above(figure, *axes[0, 0].get_legend_handles_labels(), 3)
    return figure
