# SPDX-License-Identifier: MIT
"""Draws what finetuning changes, from files finetune.json of `astromer finetune`: the RMSE of the probed magnitudes of the test light
curves before and after, and the minutes that it took, for each number of labelled samples a class: each fold as a small mark, their
mean as a line."""
import glob
import json
import os

import numpy as np

from drawing import results, style
from drawing.style import COLOURS, LINES, MARKERS, plt
from surveyfiles import FileError, require

NEEDED = ('samples', 'fold', 'minutes', 'rmse_before', 'rmse_after')


def add_options(parser):
    parser.add_argument('finetuned', nargs='+', help='files finetune.json, folders with one, or the folder of an experiment')


def files_of(path):
    if not os.path.isdir(path):
        return [path]
    found = [os.path.join(path, 'finetune.json')]
    return found if os.path.exists(found[0]) else sorted(glob.glob(os.path.join(path, '*', 'fold*-n*', 'finetune', 'finetune.json')))


def read(paths):
    """survey -> samples -> the lines of its folds."""
    surveys = {}
    for path in paths:
        files = files_of(path)
        require(files, path, 'has no finetune.json, in SURVEY/fold0-n20/finetune or the like')
        for name in files:
            try:
                with open(name, encoding='utf-8') as file:
                    line = json.load(file)
            except OSError as failure:
                raise FileError(f'{name}: {failure.strerror}') from failure
            except (ValueError, RecursionError) as failure:
                raise FileError(f'{name}: is no JSON: {failure}') from failure
            good = isinstance(line, dict) and isinstance(line.get('survey'), str) and all(results.is_number(line.get(k)) for k in NEEDED)
            require(good, name, f'is no result of finetune: it has not all of survey, {", ".join(NEEDED)}')
            surveys.setdefault(line['survey'], {}).setdefault(line['samples'], []).append(line)
    return dict(sorted(surveys.items()))


def draw_series(axes, by_samples, samples, key, aside, hollow, look, label):
    there = sorted(by_samples)
    x = np.array([samples.index(n) for n in there]) + aside
    folds = [[line[key] for line in by_samples[n]] for n in there]
    face = 'white' if hollow else look['color']
    axes.plot(x, [np.mean(values) for values in folds], markersize=6, markerfacecolor=face, label=label, linewidth=1.4, **look)
    for place, values in zip(x, folds):
        if len(values) > 1:
            axes.plot([place] * len(values), values, '_', color=look['color'], markersize=7, markeredgewidth=0.9)


def draw(options):
    surveys = read(options.finetuned)
    samples = sorted({n for by_samples in surveys.values() for n in by_samples})
    style.use()
    rows = len(surveys)
    figure, (left, right) = plt.subplots(1, 2, figsize=(style.PAGE_INCHES, 2.8 + style.LEGEND_ROW_INCHES * rows),
                                         constrained_layout=True)
    for i, (survey, by_samples) in enumerate(surveys.items()):
        look = {'color': COLOURS[i % len(COLOURS)], 'marker': MARKERS[i % len(MARKERS)]}
        aside = 0.1 * (i - (len(surveys) - 1) / 2)
        draw_series(left, by_samples, samples, 'rmse_before', aside - 0.02, True, {**look, 'linestyle': LINES[1]}, f'{survey}, before')
        draw_series(left, by_samples, samples, 'rmse_after', aside + 0.02, False, {**look, 'linestyle': '-'}, f'{survey}, finetuned')
        draw_series(right, by_samples, samples, 'minutes', aside, False, {**look, 'linestyle': '-'}, survey)
    for axes in (left, right):
        axes.set_xticks(range(len(samples)), [f'{n:g}' for n in samples])
        axes.set_xlim(-0.35, len(samples) - 0.65)
        axes.set_xlabel('labelled samples a class')
        axes.grid(True, axis='y')
    left.set_ylabel('probed RMSE (mag)')
    right.set_ylabel('minutes of finetuning')
    right.set_ylim(0, None)
    # Matplotlib fills legends column by column: all of `before` come first.
    handles, labels = left.get_legend_handles_labels()
    style.legend_above(figure, handles[::2] + handles[1::2], labels[::2] + labels[1::2], 2)
    return figure
