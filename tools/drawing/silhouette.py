# SPDX-License-Identifier: MIT
"""Draws how well the classes lie apart after each block: the silhouette with cosine distance (1: far apart, 0: not at all, below:
mixed), over windows drawn by lot, one a star, the mean over --draws draws with its standard deviation. mean and max are the pooled
outputs of a block, from files of `astromer embed --blocks` with --pool mean and --pool max; concat is the input embedding and the
outputs of all blocks up to this one, mean-pooled, one after the other."""
import argparse

import numpy as np

from drawing import embedding, gamma, style
from drawing.style import BLUE, GREEN, LINES, VERMILLION, plt
from surveyfiles import require

LOOKS = {'mean': (BLUE, 'o', LINES[0]), 'concat': (GREEN, 's', LINES[1]), 'max': (VERMILLION, '^', LINES[2])}


def add_options(parser):
    parser.add_argument('embedding', nargs='+', help='files of astromer embed --blocks, one with --pool mean, one with --pool max')
    embedding.add_options(parser, per_class=200)
    parser.add_argument('--draws', type=int, default=5, metavar='N', help='how often windows are drawn (%(default)s)')


def check_options(parser, options):
    embedding.check_options(parser, options)
    if options.draws < 1:
        parser.error('--draws is at least 1')


def scores(blocks):
    """pooling -> the silhouette after the input embedding and each block."""
    from sklearn.metrics import silhouette_score
    found = {blocks.pool: [silhouette_score(blocks.values[:, stage], blocks.label, metric='cosine') for stage in range(blocks.stages)]}
    if blocks.pool == 'mean':
        joined = blocks.values.reshape(len(blocks.values), -1)
        width = blocks.values.shape[2]
        found['concat'] = [silhouette_score(joined[:, :(stage + 1) * width], blocks.label, metric='cosine')
                           for stage in range(blocks.stages)]
    return found


def all_scores(options):
    """pooling -> draws x (M + 1), and the first file's windows."""
    table, first = {}, None
    for path in options.embedding:
        for k in range(options.draws):
            drawn = argparse.Namespace(**{**vars(options), 'seed': (options.seed + k) % 2 ** 32})
            blocks = embedding.Blocks(path, drawn)
            first = first or blocks
            require(blocks.survey_id == first.survey_id and blocks.stages == first.stages, path,
                    f'is of another survey or model than {first.path}')
            require(blocks.pool in LOOKS, path, f'has the pooling {blocks.pool}, not mean or max')
            for pool, values in scores(blocks).items():
                require(len(table.get(pool, [])) == k, path, f'is the second file with the pooling {blocks.pool}')
                table.setdefault(pool, []).append(values)
    return {pool: np.array(table[pool]) for pool in LOOKS if pool in table}, first


def draw(options):
    table, blocks = all_scores(options)
    style.use()
    figure, axes = plt.subplots(figsize=(4.6, 3.2), constrained_layout=True)
    for i, (pool, values) in enumerate(table.items()):
        colour, marker, line = LOOKS[pool]
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(blocks.stages)
        axes.errorbar(np.arange(blocks.stages) + 0.06 * (i - 1), values.mean(axis=0), spread, color=colour, marker=marker,
                      linestyle=line, linewidth=1.5, markersize=5.5, elinewidth=0.9, capsize=1.8, label=pool)
    axes.axhline(0, color='black', linewidth=0.8)
    axes.set_xticks(range(blocks.stages), gamma.stage_names(blocks.stages))
    axes.set(xlabel='block', ylabel='silhouette (cosine)')
    axes.set_title(f'{blocks.survey}: {len(blocks.classes)} classes, {len(blocks.label)} windows a draw', fontsize=9)
    axes.grid(True, axis='y')
    axes.legend(frameon=False)
    return figure
