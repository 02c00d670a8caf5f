# SPDX-License-Identifier: MIT
"""Draws confusion matrices from files of `astromer classify`: of the windows (with --stars the stars) of a class, a row, the share
that was taken for each class, in per cent, and their number below. The test sets of all folds are added up. One panel for each
survey, head and number of labelled samples a class."""
import numpy as np

from drawing import results, style
from drawing.style import plt
from surveyfiles import FileError, require

CELL_INCHES = 0.36


def add_options(parser):
    parser.add_argument('results', nargs='+', help='files of astromer classify, or the folder of an experiment')
    parser.add_argument('--heads', nargs='+', default=['skip'], help='of a folder only these heads (%(default)s)')
    parser.add_argument('--samples', nargs='+', type=int, help='only these numbers of samples a class')
    parser.add_argument('--stars', action='store_true', help='stars instead of windows')


def counts_of(group, what):
    matrices = results.one_of_each_fold(group, what)
    classes = len(group[0].classes)
    require(matrices.shape[1:] == (classes, classes) and np.all(matrices >= 0), group[0].path,
            f'its {what} is no table of {classes} x {classes} counts')
    return matrices.sum(axis=0)


def draw_matrix(axes, counts, classes, left):
    """The classes are numbered, and named on the left when `left`. Returns the mean share of the classes that is right."""
    rows = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(rows, 1)
    axes.imshow(share, vmin=0, vmax=1, cmap=style.MATRIX_COLOURS)
    for i, j in np.ndindex(*counts.shape):
        colour = 'black' if share[i, j] > 0.5 else 'white'
        axes.text(j, i - 0.12, f'{100 * share[i, j]:.0f}', ha='center', va='center', fontsize=7.5, color=colour)
        axes.text(j, i + 0.25, style.number(int(counts[i, j])), ha='center', va='center', fontsize=4.8, color=colour)
    numbers = range(1, len(classes) + 1)
    axes.set_yticks(range(len(classes)), [f'{style.wrapped(c)} {n}' for c, n in zip(classes, numbers)] if left else numbers, fontsize=7.5)
    axes.set_xticks(range(len(classes)), numbers, fontsize=7.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return np.mean(np.diag(share)[rows[:, 0] > 0]) if rows.any() else 0.0


def panels_of(options):
    what = 'star_confusion' if options.stars else 'confusion'
    folder_heads = None if all(path.endswith('.h5') for path in options.results) else options.heads
    groups = results.find_results(options.results, [what], lambda result: result.data[what] is not None and (
        not folder_heads or result.head in folder_heads) and (not options.samples or result.samples in options.samples))
    panels = [(key, samples, counts_of(group, what), group[0].classes, len(group))
              for key, by_samples in groups.items() for samples, group in by_samples.items()]
    if not panels:
        raise FileError(f'{options.results[0]}: has no {what} of the heads and samples asked for')
    return panels


def draw(options):
    panels = panels_of(options)
    style.use()
    side = max(1.9, CELL_INCHES * max(len(panel[3]) for panel in panels))
    columns = min(len(panels), max(1, int((style.PAGE_INCHES - 1.0) / side)))
    rows = -(-len(panels) // columns)
    figure, places = plt.subplots(rows, columns, figsize=(side * columns + 1.2, (side + 0.48) * rows + 0.25), squeeze=False,
                                  constrained_layout=True)
    for i, ((survey, head, encoder), samples, counts, classes, folds) in enumerate(panels):
        axes = places.flat[i]
        share = draw_matrix(axes, counts, classes, left=i % columns == 0 or classes != panels[i - 1][3])
        axes.set_title(f'{survey}, {results.name_of(head, encoder)}, {samples} a class\n'
                       f'{100 * share:.0f} % right on average, {folds} fold{"s" if folds > 1 else ""}', fontsize=8)
    for axes in places.flat[len(panels):]:
        axes.set_axis_off()
    figure.supxlabel('predicted class', fontsize=9)
    figure.supylabel('true class', fontsize=9)
    return figure
