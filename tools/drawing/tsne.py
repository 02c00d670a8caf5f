# SPDX-License-Identifier: MIT
"""Draws the windows of a labelled survey in two dimensions, by t-SNE of the pooled input embedding and of each block's pooled output,
from a file of `astromer embed --blocks`. One window a star; the title says how many windows, and the legend how many stars there
are of each class. Distances and sizes of clusters in such a picture mean little; `figures silhouette` measures."""
import numpy as np

from drawing import embedding, style
from drawing.style import plt
from surveyfiles import require

COLUMNS = 4


def add_options(parser):
    parser.add_argument('embedding', help='file of astromer embed --blocks')
    embedding.add_options(parser, per_class=200)
    parser.add_argument('--perplexity', type=float, default=30.0, help='of t-SNE: about how many neighbours count (%(default)s)')
    parser.add_argument('--metric', choices=('cosine', 'euclidean'), default='cosine', help='distance between windows (%(default)s)')


def check_options(parser, options):
    embedding.check_options(parser, options)
    if not options.perplexity > 0:
        parser.error('--perplexity is above 0')


def flat(values, options):
    from sklearn.manifold import TSNE
    return TSNE(perplexity=options.perplexity, metric=options.metric, init='pca', learning_rate='auto', method='barnes_hut',
                random_state=options.seed).fit_transform(values.astype(np.float32))


def draw_stage(axes, places, blocks):
    """In an order drawn by lot, so that no class lies on top of the others."""
    order = np.random.RandomState(0).permutation(len(places))
    for part in np.array_split(order, 6):
        for c in range(len(blocks.classes)):
            rows = part[blocks.label[part] == c]
            axes.scatter(*places[rows].T, linewidths=0, alpha=0.8, **point(c, 8))
    axes.set(xticks=[], yticks=[])
    axes.set_box_aspect(1)
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_linewidth(0.5)


def point(c, area):
    look = style.of_number(c)
    return {'c': look['color'], 'marker': look['marker'], 's': area * (2 if look['marker'] == '*' else 1)}


def draw_legend(axes, blocks):
    axes.set_axis_off()
    handles = [axes.scatter([], [], linewidths=0, **point(c, 22)) for c in range(len(blocks.classes))]
    names = [style.wrapped(f'{name} ({style.number(count)})', 24) for name, count in zip(blocks.classes, blocks.stars)]
    axes.legend(handles, names, loc='center left', bbox_to_anchor=(-0.02, 0.5), frameon=False, fontsize=7, labelspacing=0.6,
                handletextpad=0.3)


def draw(options):
    blocks = embedding.Blocks(options.embedding, options)
    require(options.perplexity < len(blocks.label), options.embedding,
            f'{len(blocks.label)} windows are too few for a perplexity of {options.perplexity:g}: --perplexity sets it')
    style.use()
    rows = -(-(blocks.stages + 1) // COLUMNS)
    figure, places = plt.subplots(rows, COLUMNS, figsize=(style.PAGE_INCHES, 1.95 * rows + 0.3), squeeze=False, constrained_layout=True)
    for stage in range(blocks.stages):
        axes = places.flat[stage]
        draw_stage(axes, flat(blocks.values[:, stage], options), blocks)
        axes.set_title('input embedding' if stage == 0 else f'block {stage}', fontsize=9)
    draw_legend(places.flat[blocks.stages], blocks)
    for axes in places.flat[blocks.stages + 1:]:
        axes.set_axis_off()
    figure.suptitle(f'{blocks.survey}: t-SNE of the {blocks.pool} over {len(blocks.label)} windows, one a star', fontsize=9.5)
    return figure
