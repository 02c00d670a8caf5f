# SPDX-License-Identifier: MIT
"""How all pictures look, and how they are written: sizes for a page, colours that people with any colour vision can tell apart,
with a marker or a line style beside each so that grey print can be read too."""
import os
import textwrap

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from surveyfiles import FileError  # noqa: E402

# Okabe and Ito's colours. Their yellow cannot be read on white and is left out.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'
BLACK, GREY, DARK_GREY = '#000000', '#999999', '#737373'
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, DARK_GREY)
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*', '<', '>', 'h')
LINES = ('-', (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MATRIX_COLOURS = 'cividis'
PAGE_INCHES = 7.2
LEGEND_ROW_INCHES = 0.19


def use(font_size=9):
    plt.rcParams.update({'font.size': font_size, 'axes.spines.top': False, 'axes.spines.right': False, 'pdf.fonttype': 42,
                         'axes.axisbelow': True, 'grid.linewidth': 0.4, 'grid.alpha': 0.5})


def of_number(i):
    """A colour and a marker; no two of the first 88 are alike in both."""
    return {'color': COLOURS[i % len(COLOURS)], 'marker': MARKERS[i % len(MARKERS)]}


def wrapped(name, width=15):
    return '\n'.join(textwrap.wrap(name, width, break_long_words=False)) or name


def number(value):
    return f'{value:,}'.replace(',', '\N{NO-BREAK SPACE}')


def title_across(axes, words, font_size=8):
    """A title from the left end of an axes over those on its right, which does not widen its own."""
    axes.set_title(' ', fontsize=font_size)
    axes.annotate(words, (0, 1), xytext=(0, 4), xycoords='axes fraction', textcoords='offset points', fontsize=font_size,
                  annotation_clip=False).set_in_layout(False)


def legend_above(figure, handles, labels, columns):
    """A legend of the whole figure in a strip of its own at the top; the layout is constrained to the rest."""
    rows = -(-len(handles) // columns)
    strip = (rows * LEGEND_ROW_INCHES + 0.08) / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - strip))
    figure.legend(handles, labels, loc='upper center', ncol=columns, frameon=False, fontsize=8.5, borderaxespad=0.1)


def mean_and_spread(values):
    """Over folds: the mean and the standard deviation, 0 of a single one."""
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0


def stem_of(path):
    """A name without the end that says a format: both formats are written."""
    base, end = os.path.splitext(path)
    return base if end in ('.png', '.pdf') else path


def both_formats(path):
    return [stem_of(path) + end for end in ('.png', '.pdf')]


def save(figure, paths, dots_per_inch=200):
    """Each path's end chooses the format. PDFs hold no date, so that the same figure is the same file."""
    for path in paths:
        try:
            figure.savefig(path, dpi=dots_per_inch, metadata={'CreationDate': None} if str(path).endswith('.pdf') else None)
        except (OSError, ValueError) as failure:
            raise FileError(f'{path}: cannot be written: {failure}') from failure
        print(f'wrote {path}')
    plt.close(figure)
