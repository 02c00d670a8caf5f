# SPDX-License-Identifier: MIT
"""Reads files of `astromer embed --blocks` (src/commands/embedding_file.h) and draws the same windows from each by lot: of every star
one, so that the windows of one star make no cluster, and of every class as many stars as were asked for at most."""
import numpy as np

from surveyfiles import Reading, require, text, texts


def add_options(parser, per_class):
    parser.add_argument('--per-class', type=int, default=per_class, metavar='N', help='stars of a class at most (%(default)s)')
    parser.add_argument('--least', type=int, default=20, metavar='N', help='leave out classes with fewer stars (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='chooses stars and windows (%(default)s)')


def check_options(parser, options):
    if options.per_class < 2 or options.least < 1:
        parser.error('--per-class is at least 2, --least at least 1')
    if not 0 <= options.seed < 2 ** 32:
        parser.error('--seed is a number from 0 to 4294967295')


class Blocks:
    """values: windows x (M + 1) x D, the pooled input embedding and block outputs. label: of each window, an index in classes, which
    are those that were drawn. stars: how many there were of each class."""

    def __init__(self, path, options):
        self.path = path
        with Reading(path) as file:
            require('blocks' in file, path, 'has no dataset blocks: make it with astromer embed --blocks')
            require('label' in file and len(file.attrs.get('classes', [])), path, 'is of a survey without labels')
            self.survey, self.survey_id = text(file.attrs['survey']), text(file.attrs['survey_id'])
            self.pool = text(file.attrs['pool'])
            classes, label, first = texts(file.attrs['classes']), file['label'][:], file['first_window'][:]
            require(len(first) == len(label) + 1 and np.all(np.diff(first) >= 0) and first[-1] == len(file['blocks'])
                    and np.all(label < len(classes)), path, 'its tables do not fit together')
            rows, of_row, self.stars = choose(label, np.diff(first), first, len(classes), options)
            kept = [c for c in range(len(classes)) if self.stars[c]]
            require(len(kept) >= 2, path, f'has fewer than two classes with at least {options.least} stars: --least sets the number')
            self.rows = rows
            self.values = file['blocks'][rows].astype(np.float64)
        require(np.all(np.isfinite(self.values)), path, 'has values that are no numbers')
        self.classes = [classes[c] for c in kept]
        self.stars = [self.stars[c] for c in kept]
        self.label = np.searchsorted(kept, of_row)

    @property
    def stages(self):
        return self.values.shape[1]


def choose(label, windows, first, classes, options):
    """Rows in ascending order, the class of each, and the number of stars of each class that is drawn (0: left out). A function of
    the seed, the labels and the numbers of windows alone."""
    random = np.random.RandomState(options.seed)
    rows, of_row, stars = [], [], []
    for c in range(classes):
        members = np.flatnonzero((label == c) & (windows > 0))
        order, place = random.permutation(len(members)), random.random_sample(len(members))
        stars.append(len(members) if len(members) >= options.least else 0)
        for i in order[:min(options.per_class, stars[-1])]:
            rows.append(int(first[members[i]] + place[i] * windows[members[i]]))
            of_row.append(c)
    order = np.argsort(rows)
    return np.array(rows, dtype=np.int64)[order], np.array(of_row, dtype=np.int64)[order], stars
