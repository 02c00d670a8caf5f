# SPDX-License-Identifier: MIT
"""Draws which observations the heads of a block look at, from a file of `astromer embed --attention`: a light curve folded by its
period, once for each head, every observation coloured by the attention that it receives, the mean over the window's observations
as queries, in units of what each would get if all got the same. Marks grow with it too. One row for each light curve: the first
window of each in the file, or of those given by --ids. The period is the highest peak of a Lomb-Scargle periodogram of the window,
doubled for classes with two minima a period (--double), or what --period says."""
import numpy as np

from drawing import periods, style
from drawing.style import plt
from surveyfiles import FileError, Reading, require, texts

MOST_ROWS = 6
SETS = ('curve', 'start', 'length', 'time', 'magnitude')


def add_options(parser):
    parser.add_argument('embedding', help='file of astromer embed --attention')
    parser.add_argument('--ids', nargs='+', metavar='ID', help=f'these light curves (default: the first {MOST_ROWS})')
    parser.add_argument('--period', nargs='+', default=[], metavar='ID=DAYS', help='fold a light curve by this period')
    periods.add_options(parser)


def check_options(parser, options):
    pairs = [word.rpartition('=') for word in options.period]
    try:
        options.period = {name: float(days) for name, _, days in pairs}
    except ValueError:
        parser.error('--period wants ID=DAYS')
    if not all(name and days > 0 for name, days in options.period.items()):
        parser.error('--period wants ID=DAYS')


class Window:
    def __init__(self, group, row, star, label):
        length = int(group['length'][row])
        self.star, self.label = star, label
        self.time, self.magnitude = (group[name][row, :length].astype(np.float64) for name in ('time', 'magnitude'))
        weights = group['weights'][row, :, :length, :length].astype(np.float64)
        self.received = weights.mean(axis=1) * length  # heads x observations


def read(path, ids):
    """The first window of each light curve, and the block's number."""
    with Reading(path) as file:
        require('attention/weights' in file, path, 'has no attention: make it with astromer embed --attention ID,ID')
        group, names = file['attention'], texts(file['id'][:])
        curve, first = np.unique(group['curve'][:], return_index=True)
        shape = group['weights'].shape
        whole = all(len(group[name]) == shape[0] for name in SETS) and len(shape) == 4 and shape[2] == shape[3]
        require(whole and np.all(group['length'][:] <= shape[3]), path, 'its datasets of attention do not fit together')
        there = dict(zip((names[c] for c in curve), first))
        missing = [name for name in ids or [] if name not in there]
        require(not missing, path, f'has no attention over light curve {missing[0] if missing else ""}; it has {", ".join(there)}')
        wanted = ids or [names[curve[i]] for i in np.argsort(first)][:MOST_ROWS]
        classes = texts(file.attrs.get('classes', []))
        label = dict(zip(names, file['label'][:])) if 'label' in file else {}
        class_of = lambda name: classes[label[name]] if label.get(name, -1) >= 0 else ''  # noqa: E731
        windows = [Window(group, there[name], name, class_of(name)) for name in wanted]
        block = int(group.attrs.get('block', 1))
    if not windows:
        raise FileError(f'{path}: has no window with attention')
    return windows, block


def draw_head(axes, window, head, period, limits):
    phase = (window.time / period) % 1 if np.isfinite(period) else window.time
    received = window.received[head]
    order = np.argsort(received)  # the most looked at on top
    size = 2 + 16 * np.clip(received / limits[1], 0, 1)
    for shift in (0, 1) if np.isfinite(period) else (0,):
        points = axes.scatter((phase + shift)[order], window.magnitude[order], c=received[order], s=size[order], vmin=limits[0],
                              vmax=limits[1], cmap=style.MATRIX_COLOURS, linewidths=0.15, edgecolors='black')
    return points


def draw_row(figure, places, window, options):
    doubled = periods.is_doubled(window.label, options.double)
    period = options.period.get(window.star) or periods.period_of(window.time, window.magnitude, doubled)
    limits = 0.0, max(2.0, float(np.percentile(window.received, 99)))
    for head, axes in enumerate(places):
        points = draw_head(axes, window, head, period, limits)
        axes.tick_params(labelleft=head == 0, labelsize=8)
    places[0].invert_yaxis()
    places[0].set_ylabel('mag')
    known = f'period {period:.4g} d' if np.isfinite(period) else 'no period found: against time'
    style.title_across(places[0], f'{window.label or "light curve"}: {window.star}, {known}', 8.5)
    bar = figure.colorbar(points, ax=list(places), aspect=12, pad=0.01)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)


def draw(options):
    windows, block = read(options.embedding, options.ids)
    heads = len(windows[0].received)
    style.use()
    figure, places = plt.subplots(len(windows), heads, figsize=(max(style.PAGE_INCHES, 1.75 * heads), 1.75 * len(windows) + 0.6),
                                  squeeze=False, constrained_layout=True, sharey='row')
    for window, row in zip(windows, places):
        draw_row(figure, row, window, options)
    for head, axes in enumerate(places[-1]):
        axes.set_xlabel(f'phase\nhead {head + 1}' if len(windows) == 1 else 'phase')
    for head, axes in enumerate(places[0]):
        axes.annotate(f'head {head + 1}', (0.5, 1.0), xytext=(0, 17), xycoords='axes fraction', textcoords='offset points', ha='center',
                      fontsize=9, fontweight='bold')
    figure.suptitle(f'Attention received in block {block}, over its mean', fontsize=9.5)
    return figure
