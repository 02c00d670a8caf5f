# SPDX-License-Identifier: MIT
"""Draws how well each head classifies with so many labelled samples a class: macro F1, the mean over folds with its standard
deviation. On the left windows are classified, as in the paper; on the right stars, by the mean probability of their windows, with
methods from outside beside, which know only stars. Lines: heads on the encoder; dashes: trained from the labels alone; dots:
methods from outside."""
import numpy as np

from drawing import results, style
from drawing.style import plt
from surveyfiles import FileError

PANELS = {'macro_f1': 'macro F1 of windows', 'star_macro_f1': 'macro F1 of stars', 'accuracy': 'accuracy of windows',
          'star_accuracy': 'accuracy of stars'}


def add_options(parser):
    parser.add_argument('results', nargs='+', help='results.jsonl of experiments and of outside baselines, or a folder with one')
    parser.add_argument('--metric', nargs='+', choices=tuple(PANELS), default=['macro_f1', 'star_macro_f1'],
                        help='what to draw, a column each (%(default)s)')
    parser.add_argument('--heads', nargs='+', help='only these heads')


def draw_panel(axes, series, samples):
    """samples: all numbers of samples a class, one after the other along the bottom; series are moved apart a little. Returns
    handles by series."""
    ordered = sorted(series, key=results.order_of)
    shift = np.linspace(-0.13, 0.13, len(ordered)) if len(ordered) > 1 else [0.0]
    handles = {}
    for (head, encoder), aside in zip(ordered, shift):
        there = sorted(series[head, encoder])
        x = [samples.index(n) + aside for n in there]
        mean, spread = zip(*(style.mean_and_spread(series[head, encoder][n]) for n in there))
        handles[head, encoder] = axes.errorbar(x, mean, spread, elinewidth=0.9, capsize=1.8,
                                               **results.style_of(head, encoder))
    axes.set_xticks(range(len(samples)), [f'{n:g}' for n in samples])
    axes.set_xlim(-0.35, len(samples) - 0.65)
    axes.grid(True, axis='y')
    return handles


def draw(options):
    lines = results.read_lines(options.results)
    lines = [line for line in lines if not options.heads or line['head'] in options.heads]
    tables = {metric: results.by_survey(lines, metric) for metric in options.metric}
    metrics = [metric for metric in options.metric if tables[metric]]
    if not metrics:
        raise FileError(f'{options.results[0]}: has no {" or ".join(options.metric)} of the heads asked for')
    surveys = sorted({survey for table in tables.values() for survey in table})
    style.use()
    every = {(line['head'], line.get('encoder') or 'none') for line in lines}
    columns = 4
    height = 2.9 * len(surveys) + style.LEGEND_ROW_INCHES * -(-len(every) // columns) + 0.1
    figure, places = plt.subplots(len(surveys), len(metrics), figsize=(style.PAGE_INCHES if len(metrics) > 1 else 5.0, height),
                                  squeeze=False, constrained_layout=True, sharey='row')
    handles = {}
    for survey, row in zip(surveys, places):
        samples = sorted({line['samples'] for line in lines if line['survey'] == survey})
        folds = len({line['fold'] for line in lines if line['survey'] == survey})
        for metric, axes in zip(metrics, row):
            handles.update(draw_panel(axes, tables[metric].get(survey, {}), samples))
            axes.set_title(f'{survey}: {PANELS[metric]}', fontsize=9.5)
        row[0].set_ylabel('mean and s.d. over ' + (f'{folds} folds' if folds > 1 else 'one fold'))
    for axes in places[-1]:
        axes.set_xlabel('labelled samples a class')
    ordered = sorted(handles, key=results.order_of)
    style.legend_above(figure, [handles[key] for key in ordered], [results.name_of(*key) for key in ordered], columns)
    return figure
