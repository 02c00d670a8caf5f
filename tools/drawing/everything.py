# SPDX-License-Identifier: MIT
"""Draws all figures for which there are files: in the folder of an experiment (its results.jsonl, finetune.json and results of classify)
and in what is given beside it. What is left out is said, with what it would take."""
import argparse
import glob
import os

import h5py

from drawing import finetuning
from surveyfiles import FileError, require


def parse(words):
    parser = argparse.ArgumentParser(prog='figures all', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('experiment', nargs='*', help='folders of astromer experiment')
    parser.add_argument('--results', nargs='+', default=[], metavar='FILE', help='results.jsonl of outside baselines, for f1')
    parser.add_argument('--survey', nargs='+', default=[], help='surveys, for distributions')
    parser.add_argument('--run', nargs='+', default=[], help='pretraining runs, for learning')
    parser.add_argument('--embedding', nargs='+', default=[], metavar='FILE',
                        help='files of astromer embed: with --blocks for tsne and silhouette, with --attention for attention')
    parser.add_argument('--reconstructions', metavar='FILE', help='table of astromer evaluate --reconstructions')
    parser.add_argument('--seed', type=int, default=0, help='of tsne and silhouette (%(default)s)')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='where the pictures go; it is made if need be')
    options = parser.parse_args(words)
    given = (options.experiment, options.results, options.survey, options.run, options.embedding, options.reconstructions)
    if not any(given):
        parser.error('name the folder of an experiment, or files with --survey, --run, --embedding, --reconstructions')
    return options


class Embeddings:
    """The files of --embedding, by what can be drawn from them."""

    def __init__(self, paths):
        self.blocks, self.attention = [], []
        for path in paths:
            try:
                with h5py.File(path, 'r') as file:
                    if 'blocks' in file:
                        self.blocks.append((path, str(file.attrs.get('survey_id')), file.attrs.get('pool') in (b'mean', 'mean')))
                    if 'attention/weights' in file:
                        self.attention.append(path)
            except OSError as failure:
                raise FileError(f'{path}: there is no such HDF5 file') from failure

    def by_survey(self):
        """The files of one survey, which one picture of silhouettes shows: the last of each pooling."""
        surveys = {}
        for path, survey, is_mean in self.blocks:
            surveys.setdefault(survey, {})[is_mean] = path
        return [list(files.values()) for files in surveys.values()]


def files_below(folders, pattern):
    return [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, *pattern.split('/'))))]


def numbered(name, lists):
    """One figure for each list; the name is numbered where there are several."""
    return [(name if len(lists) == 1 else f'{name}-{i}', words) for i, words in enumerate(lists, 1)]


def plan_confusion(folders):
    """One picture for each survey and head, of the heads in results that a paper shows: skip, and raw_gru to compare it with."""
    made = []
    surveys = sorted({os.path.dirname(os.path.dirname(path)) for path in files_below(folders, '*/fold*-n*/*.h5')})
    for survey in surveys:
        for head in ('skip', 'raw_gru'):
            files = sorted(glob.glob(os.path.join(survey, 'fold*-n*', f'{head}.h5')))
            if files:
                made.append((f'confusion-{os.path.basename(survey)}-{head}', files))
    names = [name for name, _ in made]
    for i, (name, files) in enumerate(made):  # two experiments on one survey
        if names.count(name) > 1:
            made[i] = f'{os.path.basename(os.path.dirname(os.path.dirname(os.path.dirname(files[0]))))}-{name}', files
    return made


def figures_of(options):
    """figure -> [(file name, words)], and what each needs."""
    embeddings = Embeddings(options.embedding)
    lines = files_below(options.experiment, 'results.jsonl') + options.results
    skip = files_below(options.experiment, '*/fold*-n*/skip.h5')
    finetuned = [file for folder in options.experiment for file in finetuning.files_of(folder)]
    blocks = embeddings.by_survey()
    one_each = [[next((p for p, _, is_mean in embeddings.blocks if p in files and is_mean), files[0])] for files in blocks]
    seed = ['--seed', str(options.seed)]
    return [
        ('distributions', [('distributions', options.survey)] if options.survey else [], '--survey'),
        ('learning', [('learning', options.run)] if options.run else [], '--run'),
        ('finetuning', [('finetuning', finetuned)] if finetuned else [], 'an experiment with finetune.json'),
        ('attention', numbered('attention', [[path] for path in embeddings.attention]), '--embedding made with --attention'),
        ('f1', [('f1', lines)] if lines else [], 'an experiment with results.jsonl'),
        ('gamma', [('gamma', skip)] if skip else [], 'an experiment with results of head skip'),
        ('tsne', [(name, words + seed) for name, words in numbered('tsne', one_each)], '--embedding made with --blocks'),
        ('confusion', plan_confusion(options.experiment), 'an experiment with results of head skip'),
        ('silhouette', [(name, words + seed) for name, words in numbered('silhouette', blocks)], '--embedding made with --blocks'),
        ('reconstructions', [('reconstructions', [options.reconstructions])] if options.reconstructions else [], '--reconstructions')]


def plan(words):
    """Pairs (figure, words of its command line)."""
    options = parse(words)
    for folder in options.experiment:
        require(os.path.isdir(folder), folder, 'is no folder of an experiment')
    figures = figures_of(options)
    require(any(made for _, made, _ in figures), (options.experiment + [''])[0], 'has no files to draw a figure from')
    try:
        os.makedirs(options.out, exist_ok=True)
    except OSError as failure:
        raise FileError(f'{options.out}: {failure.strerror}') from failure
    for figure, made, needs in figures:
        for name, figure_words in made:
            yield figure, [*figure_words, '--out', os.path.join(options.out, name)]
        if not made:
            print(f'left out {figure}: it needs {needs}')
