# SPDX-License-Identifier: MIT
"""Draws the learning curve of one or several runs from their logs: train and validation RMSE against the windows seen, the best
epoch marked, and as a dashed line what predicting each window's mean would give."""
import os
import sys

import numpy as np

from drawing import style
from drawing.style import BLUE, COLOURS, VERMILLION, plt
from runlog import LogError, RunLog, series

SMOOTH_OVER = 30  # a training curve is averaged over this fraction of its points
AXES = {'windows': 'windows seen', 'step': 'optimiser steps', 'epoch': 'epochs'}


def add_options(parser):
    parser.add_argument('run', nargs='+', help='folder of a run, or its log.jsonl')
    parser.add_argument('--x', choices=tuple(AXES), default='windows', help='what runs along the bottom (%(default)s)')
    parser.add_argument('--log-x', action='store_true', help='logarithmic bottom scale')
    parser.add_argument('--log-y', action='store_true', help='logarithmic RMSE scale')
    parser.add_argument('--spread', type=float, help='RMSE of predicting each window\'s mean (default: `spread` of the log, if any)')
    parser.add_argument('--label', nargs='+', help='one name a run (default: the folders\' names)')
    parser.add_argument('--title', help='title above the picture')


def check_options(parser, options):
    if options.label and len(options.label) != len(options.run):
        parser.error(f'{len(options.run)} runs need as many --label, not {len(options.label)}')


def smooth(values):
    """Centred running mean, shorter at both ends."""
    reach = len(values) // (2 * SMOOTH_OVER)
    if reach == 0:
        return np.array(values)
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - reach, 0)
    end = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return (total[end] - total[first]) / (end - first)


def draw_run(axes, log, options, label, train_colour, validation_colour):
    """One run's curves. Returns the y values that the picture has to show."""
    prefix = f'{label}, ' if label else ''
    steps = series(log.steps, options.x, 'rmse') if options.x != 'epoch' else ([], [])
    if not steps[0]:
        steps = series(log.epochs, options.x, 'train_rmse')
    if steps[0]:
        smoothed = smooth(steps[1])
        if not label:
            axes.plot(*steps, color=train_colour, linewidth=0.5, alpha=0.15)
        axes.plot(steps[0], smoothed, color=train_colour, linewidth=1.3, linestyle=(0, (5, 1.2)), label=f'{prefix}training')
    x, rmse = series(log.epochs, options.x, 'val_rmse')
    if x:
        marker = 'o' if len(x) <= 60 else None
        axes.plot(x, rmse, color=validation_colour, linewidth=1.8, marker=marker, markersize=3.5, label=f'{prefix}validation')
        mark_best(axes, log, x, rmse, options, prefix, validation_colour)
    if not steps[0] and not x:
        raise LogError(f'{log.path}: has no step or epoch line with an RMSE yet')
    return list(smooth(steps[1])) + rmse


def mark_best(axes, log, x, rmse, options, prefix, colour):
    """The last epoch that the run itself called its best: its weights are in best.h5."""
    called = [line for line in log.epochs if line.get('best') is True and line.get('val_rmse') in rmse and line.get(options.x) in x]
    least = int(np.argmin(rmse))
    line = called[-1] if called else next(line for line in log.epochs if line.get(options.x) == x[least]
                                          and line.get('val_rmse') == rmse[least])
    best = next(i for i in range(len(x)) if x[i] == line[options.x] and rmse[i] == line['val_rmse'])
    r2 = f', R² {line["val_r2"]:.3f}' if isinstance(line.get('val_r2'), float) else ''
    axes.plot(x[best], rmse[best], marker='*', markersize=13, color=colour, markeredgecolor='black', markeredgewidth=0.7,
              linestyle='none', zorder=5, label=f'{prefix}best: {rmse[best]:.4f}{r2} (epoch {line.get("epoch", "?")})')


def names_of(paths):
    """A run's folder names it; runs whose folders have one name are told apart by the folders above."""
    folders = [os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path)) for path in paths]
    names = [os.path.basename(folder) for folder in folders]
    return names if len(set(names)) == len(names) else [os.path.join(*folder.split(os.sep)[-2:]) for folder in folders]


def read(paths):
    logs = [RunLog(path) for path in paths]
    for log in logs:
        if log.damaged:
            print(f'{log.path}: {len(log.damaged)} damaged lines left out, the first is line {log.damaged[0]}', file=sys.stderr)
    return logs


def scale_axes(axes, options, shown, spread):
    if options.log_x:
        axes.set_xscale('log')
    else:
        axes.xaxis.set_major_formatter(plt.matplotlib.ticker.EngFormatter(sep='') if options.x != 'epoch' else
                                       plt.matplotlib.ticker.ScalarFormatter())
    if options.log_y:
        axes.set_yscale('log')
        axes.yaxis.set_minor_formatter(plt.matplotlib.ticker.FormatStrFormatter('%.2g'))
        axes.yaxis.set_major_formatter(plt.matplotlib.ticker.FormatStrFormatter('%.2g'))
    else:
        # The first steps of a run may lie far above all the rest.
        low, high = min(shown), min(max(shown), 2.0 * max(np.median(shown), spread or 0.0))
        axes.set_ylim(max(low - 0.08 * (high - low), 0.0), high + 0.08 * (high - low) if high > low else None)


def draw(options):
    logs = read(options.run)
    style.use(10)
    figure, axes = plt.subplots(figsize=(6.4, 4.0), constrained_layout=True)
    labels = options.label or (names_of(options.run) if len(logs) > 1 else [None])
    pairs = [(BLUE, VERMILLION)] if len(logs) == 1 else [(c, c) for c in COLOURS]
    shown = []
    for i, log in enumerate(logs):
        shown += draw_run(axes, log, options, labels[i], *pairs[i % len(pairs)])
    spreads = {f'{spread:.4f}': spread for spread in (log.number('spread') for log in logs) if spread}
    spread = options.spread if options.spread is not None else next(iter(spreads.values())) if len(spreads) == 1 else None
    if spread is not None:
        axes.axhline(spread, color='black', linewidth=1.0, linestyle=(0, (2, 2)), label=f'each window\'s mean: {spread:.4f}')
        shown.append(spread)
    scale_axes(axes, options, shown, spread)
    axes.set(xlabel=AXES[options.x], ylabel='RMSE of the probed magnitudes (mag)', title=options.title or '')
    axes.grid(True, which='major')
    axes.legend(fontsize=9, framealpha=0.85, edgecolor='none')
    return figure
