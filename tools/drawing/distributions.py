# SPDX-License-Identifier: MIT
"""Draws how the observations of surveys are distributed: their magnitudes, and the days from one observation of a light curve to the
next, the cadence. Each survey's histogram has the area 1, so that surveys of all sizes can be compared; a dashed line is the median.
A survey is read shard by shard and takes no more memory than its largest shard."""
import os

import numpy as np

from drawing import style
from drawing.style import COLOURS, LINES, plt
from surveyfiles import FileError, Reading, Survey

# Fine bins that hold every survey; what is drawn joins some of them.
MAGNITUDES = np.arange(-10, 40.001, 0.02)
LOG_DAYS = np.arange(-6, 5.001, 0.02)
BINS_DRAWN = 60  # about so many between the 0.1st and the 99.9th percentile


def add_options(parser):
    parser.add_argument('survey', nargs='+', help='folder of a survey')
    parser.add_argument('--label', nargs='+', help='one name a survey (default: the surveys\' names)')


def check_options(parser, options):
    if options.label and len(options.label) != len(options.survey):
        parser.error(f'{len(options.survey)} surveys need as many --label, not {len(options.label)}')


class Histograms:
    """Of one survey: counts in the fine bins, observations, light curves, and pairs of observations at the same time."""

    def __init__(self, folder):
        survey = Survey(folder)
        self.name = survey.name or os.path.basename(os.path.abspath(folder))
        self.curves, self.observations, self.simultaneous = sum(survey.count), 0, 0
        self.magnitude = np.zeros(len(MAGNITUDES) - 1, dtype=np.int64)
        self.log_days = np.zeros(len(LOG_DAYS) - 1, dtype=np.int64)
        for path in survey.paths:
            with Reading(path) as shard:
                self.add(shard['time'][:], shard['magnitude'][:], shard['offset'][:].astype(np.int64))
        if not self.magnitude.any() or not self.log_days.any():
            raise FileError(f'{folder}: has no light curve with observations at two times')

    def add(self, time, magnitude, offset):
        if len(time) == 0:
            return
        self.observations += len(time)
        self.magnitude += np.histogram(magnitude, MAGNITUDES)[0]
        step = np.diff(time)
        within = np.ones(len(step), dtype=bool)
        within[offset[(offset > 0) & (offset < len(time))] - 1] = False  # from one light curve's last to the next one's first
        self.simultaneous += int(np.sum(within & (step <= 0)))
        step = step[within & (step > 0)]
        self.log_days += np.histogram(np.clip(np.log10(step), LOG_DAYS[0], LOG_DAYS[-1]), LOG_DAYS)[0]


def percentile(counts, edges, percent):
    total = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(percent / 100 * total[-1], total, edges))


def coarser(edges, histograms):
    """The bins that are drawn: each joins as many fine ones as make about BINS_DRAWN where the surveys have observations."""
    low = min(percentile(counts, edges, 0.1) for counts in histograms)
    high = max(percentile(counts, edges, 99.9) for counts in histograms)
    width = edges[1] - edges[0]
    join = max(1, round((high - low) / width / BINS_DRAWN))
    first = max(0, int((low - edges[0]) / width) - 2 * join)
    return np.arange(first, min(len(edges), int((high - edges[0]) / width) + 3 * join), join)


def draw_panel(axes, edges, histograms, labels, values):
    bins = coarser(edges, histograms)
    for i, (counts, label) in enumerate(zip(histograms, labels)):
        joined = np.add.reduceat(counts, bins[:-1])[:len(bins) - 1]
        joined[-1] = counts[bins[-2]:bins[-1]].sum()
        density = joined / (counts.sum() * np.diff(edges[bins]))
        middle = percentile(counts, edges, 50)
        axes.stairs(density, values(edges[bins]), color=COLOURS[i % len(COLOURS)], linestyle=LINES[i % len(LINES)],
                    linewidth=1.4, label=label)
        axes.axvline(values(middle), color=COLOURS[i % len(COLOURS)], linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_ylim(0, None)
    axes.grid(True, axis='x')


def describe(label, survey):
    share = survey.simultaneous / max(survey.observations - survey.curves, 1)
    same = f' ({100 * share:.2g} % of the intervals are 0 days)' if survey.simultaneous else ''
    return f'{label}: {style.number(survey.curves)} light curves, {style.number(survey.observations)} observations{same}'


def draw(options):
    surveys = [Histograms(folder) for folder in options.survey]
    labels = options.label or [survey.name for survey in surveys]
    style.use()
    figure, (left, right) = plt.subplots(1, 2, figsize=(style.PAGE_INCHES, 2.9 + style.LEGEND_ROW_INCHES * len(surveys)),
                                         constrained_layout=True)
    draw_panel(left, MAGNITUDES, [survey.magnitude for survey in surveys], labels, lambda edges: edges)
    left.set(xlabel='magnitude', ylabel='share of observations per mag')
    draw_panel(right, LOG_DAYS, [survey.log_days for survey in surveys], labels, lambda edges: 10.0 ** edges)
    right.set(xlabel='days to the next observation', ylabel='share of intervals per decade', xscale='log')
    style.legend_above(figure, left.get_legend_handles_labels()[0], [describe(*pair) for pair in zip(labels, surveys)], 1)
    return figure
