#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that tools/learning-curve reads the log of a run that was killed and resumed as one history, survives damaged lines, and
draws pictures in the formats that were asked for, or says in one line why not. Exit status 77: no matplotlib here."""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

TOOLS = pathlib.Path(__file__).resolve().parent.parent / 'tools'
sys.path.insert(0, str(TOOLS))
from runlog import LogError, RunLog, series  # noqa: E402


def check(condition, message):
    if not condition:
        sys.exit(f'FAILED: {message}')


def step_line(step, rmse):
    return json.dumps({'event': 'step', 'step': step, 'epoch': 0, 'windows': 32 * step, 'loss': rmse, 'rmse': rmse})


def epoch_line(epoch, step, rmse):
    return json.dumps({'event': 'epoch', 'epoch': epoch, 'step': step, 'windows': 32 * step, 'train_rmse': 0.3, 'val_rmse': rmse,
                       'val_r2': 0.5})


def write(path, lines, end='\n'):
    path.write_text('\n'.join(lines) + end)
    return path


def test_resumed_log(folder):
    """Killed after step 50, resumed from a checkpoint at step 25, killed again while it wrote a line."""
    lines = ['{"event": "start", "spread": 0.43}'] + [step_line(s, 0.5) for s in (10, 20)] + [epoch_line(0, 20, 0.4)]
    lines += [step_line(s, 0.9) for s in (30, 40)] + [epoch_line(1, 40, 0.9), step_line(50, 0.9)]
    lines += ['{"event": "start"}', step_line(30, 0.4), step_line(40, 0.3), epoch_line(1, 40, 0.35), '{"event": "step", "st']
    log = RunLog(str(write(folder / 'resumed.jsonl', lines, end='')))
    check(series(log.steps, 'step', 'rmse') == ([10, 20, 30, 40], [0.5, 0.5, 0.4, 0.3]), f'steps {log.steps}')
    check(series(log.epochs, 'windows', 'val_rmse') == ([640, 1280], [0.4, 0.35]), f'epochs {log.epochs}')
    check(log.number('spread') == 0.43, 'spread')
    check(log.damaged == [], f'the half last line counts as damage: {log.damaged}')


def test_damaged_lines(folder):
    lines = [step_line(10, 0.5), 'garbage', '[]', '{"event": "step"}', '{"event": "step", "step": "ten"}', '', step_line(20, 0.4),
             '{"event": "step", "step": 30, "windows": 960, "rmse": null}', '{"event": "checkpoint", "path": "x"}']
    log = RunLog(str(write(folder / 'damaged.jsonl', lines, end='\r\n')))
    check(log.damaged == [2, 3, 4, 5], f'damaged {log.damaged}')
    check(series(log.steps, 'step', 'rmse') == ([10, 20], [0.5, 0.4]), f'steps {log.steps}')
    try:
        RunLog(str(folder / 'nothing'))
        check(False, 'a log that does not exist was read')
    except LogError:
        pass


def draw(*arguments):
    done = subprocess.run([sys.executable, TOOLS / 'learning-curve', *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    check('Traceback' not in done.stderr, done.stderr)
    return done.returncode, done.stderr


def test_pictures(folder):
    run, other = folder / 'run', folder / 'other'
    for path in (run, other):
        path.mkdir()
        lines = [step_line(s, 0.5 - s / 2000) for s in range(1, 500)]
        write(path / 'log.jsonl', lines[:300] + [epoch_line(0, 300, 0.4)] + lines[300:] + [epoch_line(1, 499, 0.3)])
    check(draw(run)[0] == 0, 'learning-curve RUN')
    check((run / 'learning-curve.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n', 'the picture is no PNG')
    check((run / 'learning-curve.pdf').read_bytes()[:5] == b'%PDF-', 'the picture is no PDF')
    both = folder / 'both.png'
    status, error = draw(run, other / 'log.jsonl', '--label', 'a', 'b', '--log-x', '--log-y', '--spread', '0.43', '--out', both)
    check(status == 0 and both.stat().st_size > 10000, f'two runs in one picture: {error}')
    for what, arguments, expected in (
            ('an empty log', [write(folder / 'empty.jsonl', [''])], 1), ('no log', [folder / 'nothing'], 1),
            ('a folder that does not exist', [run, '--out', folder / 'no' / 'picture.png'], 1),
            ('a format that does not exist', [run, '--out', folder / 'picture.xyz'], 1),
            ('too few labels', [run, other, '--label', 'a'], 2)):
        status, error = draw(*arguments)
        check(status == expected and error.splitlines()[-1].startswith('learning-curve: '), f'{what}: status {status}: {error}')
    write(folder / 'steps.jsonl', [step_line(1, 0.5)])
    write(folder / 'epochs.jsonl', [epoch_line(0, 9, 0.4)])
    for name in ('steps', 'epochs'):
        status, error = draw(folder / f'{name}.jsonl', '--out', folder / f'{name}.png')
        check(status == 0, f'a log with {name} only: {error}')


with tempfile.TemporaryDirectory() as temporary:
    test_resumed_log(pathlib.Path(temporary))
    test_damaged_lines(pathlib.Path(temporary))
    if importlib.util.find_spec('matplotlib') is None:
        print('the log was read right; no matplotlib here: nothing drawn')
        sys.exit(77)
    test_pictures(pathlib.Path(temporary))
