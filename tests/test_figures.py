#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that tools/figures draws every figure, as PNG and PDF, from small files made here in the formats of astromer's commands; that
the numbers in the pictures are those of the files; and that whatever is wrong with a file is one line. All in one process, for
matplotlib takes long to load. Exit status 77: no matplotlib, scikit-learn or astropy here."""
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from importlib.machinery import SourceFileLoader

import h5py
import numpy as np

TOOLS = pathlib.Path(__file__).resolve().parent.parent / 'tools'
sys.path.insert(0, str(TOOLS))
CLASSES = ['Cepheid', 'Contact binary', 'RR Lyrae, a long name']
HEADS = ('skip', 'avg', 'base_gru', 'raw_gru')
STAGES, WIDTH, LENGTH, STARS = 3, 6, 24, 40  # STARS of each class, with two windows each


def check(condition, message):
    if not condition:
        sys.exit(f'FAILED: {message}')


# ---- Files as the commands write them ----

def strings(values):
    return np.array([value.encode() for value in values])


def write_survey(folder, random):
    folder.mkdir()
    for s in range(2):
        with h5py.File(folder / f'shard-{s:05d}-of-00002.h5', 'w') as file:
            lengths = [5, 1, 30] if s == 0 else []
            file['offset'] = np.cumsum([0] + lengths).astype(np.uint64)
            file['time'] = np.concatenate([50000 + np.sort(random.uniform(0, 100, n)) for n in lengths] or [np.zeros(0)])
            file['magnitude'] = random.normal(15, 1, sum(lengths)).astype(np.float32)
            file['id'] = strings([f'star{i}' for i in range(len(lengths))]) if lengths else np.zeros(0, 'S1')
            file.attrs.update({'survey_id': 'abc', 'name': 'made up', 'shard': s, 'shards': 2})
    return folder


def write_run(folder):
    folder.mkdir()
    lines = [{'event': 'step', 'step': s, 'windows': 8 * s, 'rmse': 1 / s} for s in range(1, 30)]
    lines.append({'event': 'epoch', 'epoch': 1, 'step': 29, 'windows': 232, 'val_rmse': 0.3, 'val_r2': 0.5})
    (folder / 'log.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n')
    return folder


def result_line(samples, fold, head, f1, star_only=False):
    return json.dumps({'survey': 'asas', 'samples': samples, 'fold': fold, 'head': head, 'encoder': 'frozen',
                       'macro_f1': None if star_only else f1, 'accuracy': None if star_only else f1, 'star_macro_f1': f1 + 0.05,
                       'star_accuracy': f1 + 0.1})


def write_result(path, head, samples, fold, random):
    C = len(CLASSES)
    with h5py.File(path, 'w') as file:
        file.attrs.update({'head': head, 'survey': 'asas', 'encoder': 'frozen', 'fold': fold, 'samples': samples,
                           'classes': strings(CLASSES)})
        file['confusion'] = np.full((C, C), 2, np.int64) + 8 * np.eye(C, dtype=np.int64)
        file['star_confusion'] = random.randint(0, 9, (C, C))
        if head == 'skip':
            gamma = np.exp(random.normal(0, 0.3, STAGES))
            file['gamma'] = (gamma / gamma.sum()).astype(np.float32)


def write_experiment(folder, random):
    lines = []
    for samples in (20, 100):
        for fold in range(3):
            cell = folder / 'asas' / f'fold{fold}-n{samples}'
            (cell / 'finetune').mkdir(parents=True)
            (cell / 'finetune' / 'finetune.json').write_text(json.dumps({
                'survey': 'asas', 'fold': fold, 'samples': samples, 'minutes': samples / 30 + fold, 'rmse_before': 0.2 + fold / 100,
                'rmse_after': 0.2 - samples / 1000}) + '\n')
            for i, head in enumerate(HEADS):
                write_result(cell / f'{head}.h5', head, samples, fold, random)
                lines.append(result_line(samples, fold, head, 0.3 + samples / 500 - 0.05 * i + fold / 50))
    (folder / 'results.jsonl').write_text('\n'.join(lines) + '\n{"half a li')
    return folder


def write_embedding(path, random, pool='mean', attention=False):
    stars = STARS * len(CLASSES) + 3
    label = np.array([-1] + [c for c in range(len(CLASSES)) for _ in range(STARS)] + [0, 1], np.int32)
    first = np.concatenate([[0], np.cumsum([2] * (stars - 2) + [0, 1])])
    curve = np.repeat(np.arange(stars), np.diff(first))
    with h5py.File(path, 'w') as file:
        file.attrs.update({'survey_id': 'abc', 'survey': 'asas', 'pool': pool, 'classes': strings(CLASSES + ['of few stars'])})
        # The classes lie apart after the last block only.
        blocks = random.normal(0, 1, (len(curve), STAGES, WIDTH))
        for c in range(len(CLASSES)):
            blocks[label[curve] == c, -1, c] += 30.0
        file['blocks'], file['label'], file['first_window'] = blocks.astype(np.float32), label, first
        file['id'] = strings([f'star{i}' for i in range(stars)])
        if attention:
            write_attention(file.create_group('attention'), random)
    return path


def write_attention(group, random):
    lengths = [LENGTH, LENGTH - 4, LENGTH]
    group.attrs['block'] = 1
    group['curve'], group['start'], group['length'] = [50, 50, 5], np.int32([0, LENGTH, 0]), np.int32(lengths)
    time = np.sort(random.uniform(0, 40, (3, LENGTH)), axis=1)
    group['time'], group['magnitude'] = time, (15 + np.sin(2 * np.pi * time / 3.0)).astype(np.float32)
    weights = np.zeros((3, 2, LENGTH, LENGTH), np.float32)
    for w, n in enumerate(lengths):
        weights[w, :, :, :n] = 1 / n
    weights[:, 1] = 0.0
    weights[:, 1, :, 3] = 1.0  # head 2 looks at observation 3 alone
    group['weights'] = weights


def write_reconstructions(path, random):
    rows = ['id,class,start,mjd,magnitude,error,probed,hidden,reconstruction,unmasked']
    for star, label in (('a', 'Mira'), ('b', 'Contact binary'), ('c', 'Mira'), ('d', '')):
        for i, time in enumerate(np.sort(random.uniform(0, 50, 40))):
            magnitude, probed = 12 + np.sin(time), i % 2
            rows.append(f'{star},{label},0,{time},{magnitude},0.1,{probed},{probed},{magnitude + 0.1 if probed else ""},{magnitude}')
    path.write_text('\n'.join(rows) + '\n')
    return path


# ---- The program ----

def run(figures, *words):
    """(status, standard error) of a call in this process."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = figures.main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), error.getvalue()


def draws(figures, stem, *words):
    status, out, error = run(figures, *words, '--out', stem)
    check(status == 0 and not error, f'{" ".join(map(str, words))}: status {status}: {error}')
    for end, start in (('.png', b'\x89PNG\r\n\x1a\n'), ('.pdf', b'%PDF-')):
        content = pathlib.Path(f'{stem}{end}').read_bytes()
        check(content.startswith(start) and len(content) > 5000, f'{stem}{end} is no picture')


def refuses(figures, status, part, *words):
    found, _, error = run(figures, *words, '--out', 'refused')
    check(found == status and part in error.splitlines()[-1], f'{" ".join(map(str, words))}: status {found}: {error}')
    check(status == 2 or len(error.splitlines()) == 1, f'not one line: {error}')
    check(not os.path.exists('refused.png'), f'{" ".join(map(str, words))}: a picture was made')


def test_pictures(figures):
    """All of them through `all`, and the options that it does not use."""
    status, out, error = run(figures, 'all', 'experiment', '--results', 'outside.jsonl', '--survey', 'survey', '--run', 'run',
                             '--embedding', 'mean.h5', 'max.h5', '--reconstructions', 'r.csv', '--out', 'pictures')
    check(status == 0 and not error, f'all: status {status}: {error}')
    made = {path.stem for path in pathlib.Path('pictures').glob('*.png')}
    named = {name.partition('-')[0] for name in made}
    check(named == set(figures.FIGURES), f'all made {sorted(made)}')
    for path in pathlib.Path('pictures').iterdir():
        check(path.stat().st_size > 5000 and path.suffix in ('.png', '.pdf'), f'{path} is no picture')
    check(len(list(pathlib.Path('pictures').iterdir())) == 2 * len(made), 'not every picture is there as PNG and as PDF')
    draws(figures, 'stars', 'confusion', 'experiment', '--heads', 'avg', 'skip', '--samples', '20', '--stars')
    draws(figures, 'folded', 'attention', 'mean.h5', '--ids', 'star5', '--period', 'star5=3.0')
    status, out, error = run(figures, 'all', '--run', 'run', '--out', 'few')
    check(status == 0 and 'left out f1: it needs' in out and len(os.listdir('few')) == 2, f'all with a run only: {out}{error}')
    status, out, error = run(figures, 'all', '--run', 'run', 'nowhere', '--survey', 'survey', '--out', 'few')
    check(status == 1 and os.path.exists('few/distributions.pdf') and 'nowhere' in error, f'all goes on after a failure: {error}')


def test_numbers():
    """What is drawn, without its drawing."""
    import argparse
    from drawing import attention, distributions, embedding, periods, results, silhouette
    random = np.random.RandomState(1)
    nights = np.flatnonzero(random.random_sample(800) < 0.3)
    nights = nights + random.normal(0, 0.08, len(nights))
    for period, double in ((212.0, False), (0.55, False), (0.55, True)):
        found = periods.period_of(nights, np.sin(2 * np.pi * nights / period), double)
        check(abs(found / period / (2 if double else 1) - 1) < 0.03, f'a period of {period} days is found as {found}')
    for _ in range(6):  # half of these have their highest peak near one day
        nights = np.sort(random.choice(600, 90, False)) + random.normal(0, 0.01, 90)
        found = periods.period_of(nights, np.sin(2 * np.pi * nights / 212) + 0.3 * random.normal(0, 1, 90), False)
        check(abs(found / 212 - 1) < 0.1, f'a slow star has the period {found}')
    survey = distributions.Histograms('survey')
    check((survey.curves, survey.observations, survey.magnitude.sum(), survey.log_days.sum()) == (3, 36, 36, 33),
          'intervals are those within a light curve')
    table = results.by_survey(results.read_lines(['experiment', 'outside.jsonl']), 'star_macro_f1')
    check(sorted(table['asas']['skip', 'frozen']) == [20, 100] and len(table['asas']['knn_embedding', 'frozen'][20]) == 1, f'{table}')
    check(('knn_embedding', 'frozen') not in results.by_survey(results.read_lines(['outside.jsonl']), 'macro_f1').get('asas', {}),
          'a method that knows only stars has no macro F1 of windows')
    options = argparse.Namespace(per_class=25, least=20, seed=1, draws=2, embedding=['mean.h5', 'max.h5'])
    blocks, again = (embedding.Blocks(path, options) for path in options.embedding)
    check(blocks.classes == CLASSES and np.all(np.bincount(blocks.label) == 25), 'of each class as many as were asked for')
    with h5py.File('mean.h5') as file:
        curve = np.searchsorted(file['first_window'][:], blocks.rows, side='right') - 1
        check(len(set(curve)) == len(curve) and np.all(file['label'][:][curve] == blocks.label), 'one window a star, with its label')
    check(np.array_equal(blocks.rows, again.rows), 'the same windows for each pooling')
    options.seed = 2
    check(not np.array_equal(blocks.rows, embedding.Blocks('mean.h5', options).rows), 'another seed, other windows')
    scores, _ = silhouette.all_scores(options)
    check(set(scores) == {'mean', 'concat', 'max'} and scores['mean'].shape == (2, STAGES), f'{scores}')
    for pool in scores:
        check(scores[pool][0, -1] > 0.5 and abs(scores[pool][0, 0]) < 0.2, f'the silhouette of {pool} is {scores[pool]}')
    windows, block = attention.read('mean.h5', ['star50'])
    check(block == 1 and np.allclose(windows[0].received[0], 1) and np.isclose(windows[0].received[1, 3], LENGTH), 'attention received')


def test_refusals(figures):
    pathlib.Path('text').write_text('{}\n{}\n')
    with h5py.File('empty.h5', 'w') as file:
        file.attrs['survey'] = 'x'
    for name in figures.FIGURES:
        refuses(figures, 1, 'nowhere', name, 'nowhere')
        if name != 'learning':  # which names damaged lines besides
            refuses(figures, 1, 'text', name, 'text')
        refuses(figures, 2, 'required', name)
    for name in ('gamma', 'confusion', 'attention', 'tsne', 'silhouette'):
        refuses(figures, 1, 'empty.h5', name, 'empty.h5')
    os.mkdir('empty')
    for name in ('f1', 'gamma', 'confusion', 'finetuning', 'distributions', 'learning'):
        refuses(figures, 1, 'empty', name, 'empty')
    refuses(figures, 1, 'no weights gamma', 'gamma', 'experiment/asas/fold0-n20/avg.h5')
    refuses(figures, 1, 'same fold', 'gamma', *['experiment/asas/fold0-n20/skip.h5'] * 2)
    refuses(figures, 1, 'heads asked for', 'f1', 'experiment', '--heads', 'nosuch')
    refuses(figures, 1, 'star7', 'attention', 'mean.h5', '--ids', 'star7')
    refuses(figures, 1, 'no attention', 'attention', 'max.h5')
    refuses(figures, 1, '--least', 'tsne', 'mean.h5', '--least', '1000')
    refuses(figures, 1, 'perplexity', 'tsne', 'mean.h5', '--perplexity', '1000')
    refuses(figures, 1, 'second file', 'silhouette', 'mean.h5', 'mean.h5')
    refuses(figures, 2, '--label', 'distributions', 'survey', '--label', 'a', 'b')
    refuses(figures, 2, 'ID=DAYS', 'attention', 'mean.h5', '--period', '3')
    check(run(figures, 'learning', 'run', '--out', 'nosuch/x')[0] == 1, 'a folder that does not exist')
    status, _, error = run(figures, 'nosuch')
    check(status == 2 and len(error.splitlines()) == 1, f'a figure that does not exist: {error}')
    refuses(figures, 1, 'nowhere', 'all', 'nowhere')
    refuses(figures, 1, 'no files', 'all', 'empty')


def main():
    missing = [name for name in ('matplotlib', 'sklearn', 'astropy') if importlib.util.find_spec(name) is None]
    if missing:
        print(f'no {", ".join(missing)} here: nothing drawn')
        return 77
    figures = SourceFileLoader('figures', str(TOOLS / 'figures')).load_module()
    random = np.random.RandomState(8)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        write_survey(pathlib.Path('survey'), random)
        write_run(pathlib.Path('run'))
        write_experiment(pathlib.Path('experiment'), random)
        write_embedding('mean.h5', random, attention=True)
        write_embedding('max.h5', random, 'max')
        write_reconstructions(pathlib.Path('r.csv'), random)
        pathlib.Path('outside.jsonl').write_text('\n'.join(result_line(n, 0, 'knn_embedding', 0.4, True) for n in (20, 100)) + '\n')
        test_numbers()
        test_refusals(figures)
        test_pictures(figures)
        done = subprocess.run([sys.executable, TOOLS / 'figures'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        check(done.returncode == 2 and 'silhouette' in done.stdout and not done.stderr, f'{done}')
        os.chdir('/')
    return 0


if __name__ == '__main__':
    sys.exit(main())
