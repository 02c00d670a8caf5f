# SPDX-License-Identifier: MIT
"""Reads what classifiers leave: the lines of results.jsonl (one a cell of the grid survey x samples x fold x head; src/train and
tools/outside-baselines write the same keys) and the files of `astromer classify`; and says how a head is drawn."""
import collections
import glob
import json
import math
import os

import numpy as np

from drawing.style import BLACK, BLUE, DARK_GREY, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from surveyfiles import FileError, Reading, require, text, texts

# In the order of legends. On the encoder: lines, filled markers. Trained from labels alone: dashes, hollow markers. From outside: dots.
FROM_LABELS, OUTSIDE = (0, (5, 1.5)), (0, (1.2, 1.2))
HEADS = {
    'skip': (BLUE, 'o', '-'), 'avg': (SKY, 's', '-'), 'max': (VERMILLION, '^', '-'), 'att_avg': (PURPLE, 'D', '-'),
    'att_cls': (ORANGE, 'v', '-'),
    'base_avgpool': (GREEN, 's', FROM_LABELS), 'base_gru': (DARK_GREY, '^', FROM_LABELS), 'raw_gru': (BLACK, 'o', FROM_LABELS),
    'forest_features': (BLACK, 'X', OUTSIDE), 'knn_embedding': (SKY, 'P', OUTSIDE), 'logistic_embedding': (VERMILLION, '*', OUTSIDE),
    'forest_embedding': (BLUE, 'X', OUTSIDE)}
OTHERS = (PURPLE, '<', OUTSIDE)
METRICS = ('macro_f1', 'accuracy', 'star_macro_f1', 'star_accuracy')


def style_of(head, encoder):
    """How to draw a head on an encoder: keywords of plot."""
    colour, marker, line = HEADS.get(head, OTHERS)
    hollow = line == FROM_LABELS or encoder == 'trained'
    return {'color': colour, 'marker': marker, 'linestyle': line, 'markerfacecolor': 'white' if hollow else colour,
            'linewidth': 2.2 if head == 'skip' else 1.3, 'markersize': 8 if marker == '*' else 5.5}


def name_of(head, encoder):
    return f'{head}, encoder trained' if encoder == 'trained' else head


def order_of(series):
    """Sorts (head, encoder)."""
    head, encoder = series
    heads = list(HEADS)
    return heads.index(head) if head in heads else len(heads), head, encoder


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_line(line):
    if not isinstance(line, dict) or not all(isinstance(line.get(key), str) for key in ('survey', 'head')):
        raise ValueError('it has no survey or head')
    if not all(is_number(line.get(key)) for key in ('samples', 'fold')):
        raise ValueError('it has no samples or fold')
    if not any(is_number(line.get(metric)) for metric in METRICS):
        raise ValueError(f'it has none of {", ".join(METRICS)}')


def read_lines(paths):
    """All lines of files, or of the results.jsonl of folders. A cell that was computed twice counts once, the last time."""
    cells, origin = {}, {}
    for path in paths:
        path = os.path.join(path, 'results.jsonl') if os.path.isdir(path) else path
        try:
            with open(path, encoding='utf-8') as file:
                lines = file.read().split('\n')
        except (OSError, UnicodeDecodeError) as failure:
            raise FileError(f'{path}: {getattr(failure, "strerror", None) or "is no text"}') from failure
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                cell = json.loads(line)
                check_line(cell)
            except (ValueError, RecursionError) as failure:
                if number == len(lines):  # being written, or cut off when the program was killed
                    continue
                raise FileError(f'{path}: line {number} is no result of a classifier: {failure}') from failure
            key = cell['survey'], cell['samples'], cell['fold'], cell['head'], cell.get('encoder') or 'none'
            if origin.setdefault(key, path) != path:
                raise FileError(f'{path}: head {cell["head"]} on {cell["survey"]}, fold {cell["fold"]}, {cell["samples"]} samples a '
                                f'class is in {origin[key]} too; draw them one by one')
            cells[key] = cell
        require(cells, path, 'holds no results')
    return list(cells.values())


def by_survey(lines, metric):
    """survey -> (head, encoder) -> samples a class -> the metric of each fold."""
    surveys = {}
    for line in lines:
        if is_number(line.get(metric)):
            series = surveys.setdefault(line['survey'], {}).setdefault((line['head'], line.get('encoder') or 'none'), {})
            series.setdefault(line['samples'], []).append(line[metric])
    return surveys


class Result:
    """A file of `astromer classify`: what it is of, and the datasets that were asked for (absent ones are None)."""

    def __init__(self, path, datasets):
        self.path = path
        with Reading(path) as file:
            self.head, self.survey = text(file.attrs['head']), text(file.attrs['survey'])
            self.encoder = text(file.attrs['encoder'])
            self.fold, self.samples = int(file.attrs['fold']), int(file.attrs['samples'])
            self.classes = texts(file.attrs['classes'])
            self.data = {name: file[name][()] if name in file else None for name in datasets}


def find_results(paths, datasets, wanted):
    """The results in files, and of folders (an experiment's) those in SURVEY/fold*-n*/. wanted(result): whether to keep one. Grouped:
    (survey, head, encoder) -> samples -> results, in order."""
    groups = {}
    for path in paths:
        files = sorted(glob.glob(os.path.join(path, '*', 'fold*-n*', '*.h5'))) if os.path.isdir(path) else [path]
        require(files, path, 'has no results of classify, SURVEY/fold0-n20/HEAD.h5 and the like')
        for file in files:
            result = Result(file, datasets)
            if wanted(result):
                group = groups.setdefault((result.survey, result.head, result.encoder), collections.defaultdict(list))
                group[result.samples].append(result)
    ordered = sorted(groups, key=lambda key: (key[0], order_of(key[1:])))
    return {key: dict(sorted(groups[key].items())) for key in ordered}


def one_of_each_fold(results, what):
    """Refuses a fold that is there twice, and arrays that differ in shape or classes. Returns the arrays, stacked."""
    first = results[0]
    for i, result in enumerate(results):
        array = result.data[what]
        same = array is not None and np.shape(array) == np.shape(first.data[what]) and result.classes == first.classes
        require(same, result.path, f'its {what} does not fit that of {first.path}')
        require(np.all(np.isfinite(array)), result.path, f'its {what} has values that are no numbers')
        twin = next((other for other in results[:i] if other.fold == result.fold), None)
        require(twin is None, result.path, f'is of the same fold as {twin and twin.path}')
    return np.stack([result.data[what] for result in results])
