#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that bench/train-step sums up its rounds right and names a program that fails, and that bench/torch_step.py computes what
the golden files say. Exit status 77: no PyTorch here."""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def check(condition, message):
    if not condition:
        sys.exit(f'FAILED: {message}')


def run(*command):
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    check('Traceback' not in done.stderr, done.stderr)
    return done.returncode, done.stdout, done.stderr


def fake_step(folder, script):
    """A stand-in for our step."""
    path = folder / 'bench' / 'step'
    path.parent.mkdir(exist_ok=True)
    path.write_text('#!/bin/sh\n' + script)
    path.chmod(0o755)


def test_train_step(folder):
    bench = [ROOT / 'bench' / 'train-step', '--build', folder, '--no-torch', '--no-bf16', '--rounds', '3', '--out', folder / 'out.json']
    rounds = folder / 'rounds'
    fake_step(folder, f'echo x >> {rounds}; n=$(wc -l < {rounds})\n'
                      'echo words; echo "{\\"windows_per_second\\": ${n}0, \\"product_gflops\\": 218.23488}"\n')
    status, output, error = run(*bench)
    check(status == 0 and 'our step' in output, error)
    numbers = json.loads((folder / 'out.json').read_text())['numbers']
    check(numbers['ours_windows_per_second']['rounds'] == [10.0, 20.0, 30.0], f'{numbers}')
    check(abs(numbers['ours_gflops']['median'] - 109.11744) < 1e-9, f'{numbers["ours_gflops"]}')
    check(abs(numbers['ours_over_product']['median'] - 0.5) < 1e-9, f'{numbers["ours_over_product"]}')
    for script, expected in (('echo out of cake >&2; exit 3\n', 'out of cake'), ('echo 3\n', 'no JSON line'), ('true\n', 'no JSON line')):
        fake_step(folder, script)
        status, _, error = run(*bench)
        check(status == 1 and expected in error.splitlines()[-1], f'status {status}: {error}')
    (folder / 'bench' / 'step').unlink()
    check(run(*bench)[0] == 2, 'a build without bench/step')


def test_torch_step():
    step = ROOT / 'bench' / 'torch_step.py'
    files = sorted((ROOT / 'tests' / 'golden').glob('*.h5'))
    status, output, error = run(step, '--check', *files)
    check(status == 0 and output.count(', ok\n') == len(files) > 0, output + error)
    status, _, error = run(step, '--check', ROOT / 'README-that-is-not-there.h5')
    check(status == 1 and error.startswith('torch_step.py: ') and error.count('\n') == 1, error)


with tempfile.TemporaryDirectory() as temporary:
    test_train_step(pathlib.Path(temporary))
if importlib.util.find_spec('torch') is None:
    print('train-step passed; no PyTorch here: its step not checked')
    sys.exit(77)
test_torch_step()
