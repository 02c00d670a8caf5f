# SPDX-License-Identifier: MIT
"""Draws how much the head `skip` takes of the input embedding and of each block, its trainable weights gamma after the softmax: the
mean over folds with its standard deviation, for each number of labelled samples a class. The dashed line is where they start."""
import numpy as np

from drawing import results, style
from drawing.style import COLOURS, LINES, MARKERS, plt
from surveyfiles import FileError

START = 'at the start'


def add_options(parser):
    parser.add_argument('results', nargs='+', help='files of astromer classify, or the folder of an experiment')


def stage_names(stages):
    return ['input'] + [str(block) for block in range(1, stages)]


def draw_survey(axes, by_samples, order):
    """order: the numbers of samples of all panels, so that one legend holds for them all."""
    for samples, group in by_samples.items():
        i = order.index(samples)
        gamma = results.one_of_each_fold(group, 'gamma')
        mean = gamma.mean(axis=0)
        spread = gamma.std(axis=0, ddof=1) if len(gamma) > 1 else np.zeros_like(mean)
        x = np.arange(len(mean)) + 0.08 * (i - (len(order) - 1) / 2)
        axes.errorbar(x, mean, spread, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], linewidth=1.4, markersize=5.5,
                      linestyle=LINES[i % len(LINES)], elinewidth=0.9, capsize=1.8, label=f'{samples} samples a class')
    stages = len(mean)
    axes.axhline(1 / stages, color='black', linewidth=0.9, linestyle=(0, (4, 3)), label=START)
    axes.set_xticks(range(stages), stage_names(stages))
    axes.set_xlabel('block')
    axes.grid(True, axis='y')


def draw(options):
    groups = results.find_results(options.results, ['gamma'], lambda result: result.data['gamma'] is not None)
    if not groups:
        raise FileError(f'{options.results[0]}: has no weights gamma: they come with head skip')
    style.use()
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    figure, places = plt.subplots(rows, columns, figsize=(4.2 if columns == 1 else style.PAGE_INCHES, 2.7 * rows + 0.3), squeeze=False,
                                  constrained_layout=True, sharey=True)
    order = sorted({samples for by_samples in groups.values() for samples in by_samples})
    for axes, ((survey, _, encoder), by_samples) in zip(places.flat, groups.items()):
        draw_survey(axes, by_samples, order)
        axes.set_title(survey + (', encoder trained' if encoder == 'trained' else ''), fontsize=9.5)
    for axes in places.flat[len(groups):]:
        axes.set_axis_off()
    for axes in places[:, 0]:
        axes.set_ylabel('weight of the block')
    handles = {}
    for axes in places.flat:
        handles.update(dict(zip(*reversed(axes.get_legend_handles_labels()))))
    handles[START] = handles.pop(START)  # to the end
    style.legend_above(figure, list(handles.values()), list(handles), 2 * columns)
    return figure
