#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that the golden files are right: the reference's gradients agree with central differences for every switch of the model,
tests/golden holds what tests/golden/remake makes, and the reference recomputes golden files of another implementation."""
import os
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SHARED = HERE.parent.parent / 'shared' / 'golden'
MODELS = (
    [],
    ['--no-leak', '--mask=QK', '--alpha=1', '--no-token', '--no-weighted'],
    ['--mask=QK', '--alpha=-2.5', '--blocks=1', '--width=16', '--heads=2', '--pe-base=1000'],
    ['--no-leak', '--heads=1', '--lengths=20,7,0'],
    ['--blocks=0', '--no-token'],
    ['--lengths=1,0'],  # nothing probed at all: the loss is 0 and so is its gradient
)


def golden(*arguments):
    done = subprocess.run([sys.executable, HERE / 'golden.py', *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def check(condition, message):
    if not condition:
        sys.exit(f'FAILED: {message}')


def arrays_of(path):
    """Every dataset and attribute of a file by name."""
    with h5py.File(path, 'r') as file:
        found = {f'attribute {name}': value for name, value in file.attrs.items()}

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]
            found.update({f'{name} attribute {key}': value for key, value in item.attrs.items()})

        file.visititems(visit)
        return found


def test_central_differences():
    for options in MODELS:
        status, output = golden('--self-check', *options)
        check(status == 0, f'golden.py --self-check {" ".join(options)}: {output}')
        print('central differences', ' '.join(options) or '(defaults)', '-', output.strip())


def test_shipped_files_are_what_the_generator_makes():
    shipped = sorted(path.name for path in (HERE / 'golden').glob('*.h5'))
    check(shipped, 'tests/golden holds no golden files')
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([HERE / 'golden' / 'remake', folder], check=True, env={**os.environ, 'PYTHON': sys.executable})
        made = sorted(path.name for path in pathlib.Path(folder).glob('*.h5'))
        check(made == shipped, f'tests/golden holds {shipped}, remake makes {made}')
        for name in shipped:
            ours, theirs = arrays_of(HERE / 'golden' / name), arrays_of(f'{folder}/{name}')
            check(set(ours) == set(theirs), f'{name} differs from what remake makes in {sorted(set(ours) ^ set(theirs))}')
            for key, value in ours.items():
                same = value == theirs[key] if isinstance(value, str) else np.allclose(value, theirs[key], rtol=1e-9, atol=1e-9)
                check(same, f'{name}: {key} is not what remake makes')
    print(f'{len(shipped)} shipped files are what remake makes')


def test_compare(paths):
    for path in paths:
        status, output = golden('--compare', path)
        check(status == 0, f'golden.py --compare: {output}')
        print('recomputed', path)


def test_compare_can_fail():
    """One weight off by a part in ten million must be seen."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'wrong.h5'
        path.write_bytes((HERE / 'golden' / 'mixed.h5').read_bytes())
        with h5py.File(path, 'r+') as file:
            file['weights/block0.key.weight'][3, 3] *= 1.0 + 1e-7
        check(golden('--compare', path)[0] == 1, 'golden.py --compare did not notice a wrong weight')


test_central_differences()
test_shipped_files_are_what_the_generator_makes()
test_compare(sorted((HERE / 'golden').glob('*.h5')))
test_compare_can_fail()
if SHARED.is_dir():
    test_compare([SHARED / 'small1.h5', SHARED / 'small2.h5'])
else:
    print('no ../shared/golden here: golden files of another implementation not recomputed')
