#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that bench/picture makes its table and picture of what the result files say, calls predictions and busy machines by name, and
names a file that is no result; that bench/all runs what there is, goes on after a failure and keeps no stale result."""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / 'bench'))
import benches  # noqa: E402

MACHINE = {'processor': 'a made CPU', 'cores': 2, 'load_before': 0.0, 'commit': 'abc123', 'date': '2026-01-02T00:00:00+00:00'}


def run(*words):
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stdout, done.stderr


class Folder(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def write(self, name, machine=(), **more):
        numbers = {'speed': benches.summary([10.0, 30.0, 12.5], 'our step, fp32', 'windows/s'),
                   'share': benches.ratio(benches.summary([2.0, 3.0]), benches.summary([4.0, 4.0]), 'ours / theirs')}
        path = self.folder / f'{name}.json'
        benches.write_result(path, name, {**MACHINE, **dict(machine)}, {'batch': 32}, numbers, **more)
        return path


class Form(Folder):
    def test_round_trip(self):
        result = benches.read_result(self.write('speed', notes=['a note']))
        self.assertEqual(result['numbers']['speed'], {'what': 'our step, fp32', 'unit': 'windows/s', 'median': 12.5, 'lowest': 10.0,
                                                      'highest': 30.0, 'rounds': [10.0, 30.0, 12.5]})
        self.assertEqual(result['numbers']['share']['rounds'], [0.5, 0.75])
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ['speed.json'])

    def test_no_result(self):
        for text in ('', '[]', '{"numbers": {}}', '{"numbers": 3}',
                     '{"machine": {}, "numbers": {"a": {"median": 1, "lowest": "x", "highest": 2}}}'):
            path = self.folder / 'bad.json'
            path.write_text(text)
            with self.assertRaises(benches.BenchError) as caught:
                benches.read_result(path)
            self.assertIn('bad.json', str(caught.exception))

    def test_programs(self):
        fake = self.folder / 'fake'
        fake.write_text('#!/bin/sh\necho words; echo \'{"a": 1}\'; echo "{half"; echo \'{"windows_per_second": 2}\'\n')
        fake.chmod(0o755)
        self.assertEqual(benches.run_lines([fake]), [{'a': 1}, {'windows_per_second': 2}])
        self.assertEqual(benches.run_json([fake]), {'windows_per_second': 2})
        fake.write_text('#!/bin/sh\necho "fake: out of cake" >&2; echo more >&2; exit 3\n')
        with self.assertRaisesRegex(benches.BenchError, '^fake: out of cake$'):
            benches.run_lines([fake])
        with self.assertRaises(benches.BenchError):
            benches.run_lines([self.folder / 'absent'])

    def test_digits(self):
        self.assertEqual([benches.number_text(x) for x in (54321.4, 123.45, 12.34, 1.234, 0.1234, 0.01234, 0)],
                         ['54 321', '123.5', '12.3', '1.23', '0.12', '0.0123', '0'])


@unittest.skipIf(importlib.util.find_spec('matplotlib') is None, 'no matplotlib here')
class Picture(Folder):
    def picture(self, *words):
        return run(ROOT / 'bench' / 'picture', *words)

    def test_table_and_picture(self):
        row = {'ranks': 4, 'windows_per_second': 400.0, 'efficiency': 0.987, 'first': 'the slowest rank (1.3%)', 'beyond': False}
        table = {'name': 'made GPUs', 'batch': '512 windows a rank', 'per_node': 4, 'inside': {'name': 'pcie'}, 'between': {'name': 'ib'},
                 'rows': [row, dict(row, ranks=64, efficiency=0.5, beyond=True)]}
        speed = self.write('speed')
        guess = self.write('guess', machine={'load_before': 3.0}, prediction=True, predictions=[table], assumptions=['the sun shines'])
        status, output, error = self.picture(speed, guess, '--out', self.folder / 't.md', self.folder / 'p.png', self.folder / 'p.pdf')
        self.assertEqual(status, 0, error)
        text = (self.folder / 't.md').read_text()
        for words in ('### speed\na made CPU, 2 cores, commit abc123, 2026-01-02; batch 32',
                      '| our step, fp32 | 12.5 | 10.0 | 30.0 | windows/s |',
                      '### guess (PREDICTION)', '**The machine was busy** (load 3.0)', '| 4 | 400.0 | 0.987 | the slowest rank (1.3%) |',
                      '(beyond the measured batches)', '- the sun shines'):
            self.assertIn(words, text)
        self.assertEqual(text.count('busy'), 1)
        self.assertEqual((self.folder / 'p.png').read_bytes()[1:4], b'PNG')
        self.assertEqual((self.folder / 'p.pdf').read_bytes()[:4], b'%PDF')

    def test_refusals(self):
        (self.folder / 'bad.json').write_text('{}')
        for words in ([self.folder / 'bad.json'], [self.folder / 'absent.json'], [self.write('speed'), '--out', self.folder / 'x.doc']):
            status, _, error = self.picture(*words, *([] if '--out' in words else ['--out', self.folder / 'x.md']))
            self.assertEqual((status, error.count('\n')), (1, 1), error)


FAKE = '''#!/usr/bin/python3
import sys
sys.path.insert(0, {bench!r})
import benches
if {fails}: sys.exit('fake: broken')
out = sys.argv[sys.argv.index('--out') + 1]
benches.write_result(out, {name!r}, {machine!r}, {{'words': ' '.join(sys.argv[1:])}}, {{'a': benches.summary([1.0, 2.0], 'a', 's')}})
'''


@unittest.skipIf(importlib.util.find_spec('matplotlib') is None, 'no matplotlib here')
class All(Folder):
    def fake(self, name, fails=False):
        path = self.folder / 'bench' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAKE.format(bench=str(ROOT / 'bench'), name=name, fails=fails, machine=MACHINE))
        path.chmod(0o755)

    def all(self, *words):
        return run(ROOT / 'bench' / 'all', '--folder', self.folder / 'bench', '--out', self.folder / 'out', *words)

    def test_every_bench(self):
        self.fake('train-step'), self.fake('roofline'), self.fake('scaling')
        status, output, error = self.all()
        self.assertEqual(status, 0, error)
        found = sorted(path.name for path in (self.folder / 'out').iterdir())
        self.assertEqual(found, ['results.md', 'results.png', 'roofline-512.json', 'roofline-64.json', 'scaling.json', 'train-step.json'])
        self.assertIn('not in this checkout: inference', output)
        words = json.loads((self.folder / 'out' / 'scaling.json').read_text())['setting']['words']
        self.assertEqual(words.count('--gpu'), 2)
        self.fake('train-step', fails=True)
        status, output, error = self.all('--only', 'train-step', 'scaling')
        self.assertEqual(status, 1)
        self.assertIn('failed: train-step', error)
        self.assertFalse((self.folder / 'out' / 'train-step.json').exists())
        self.assertNotIn('train-step', (self.folder / 'out' / 'results.md').read_text())

    def test_nothing(self):
        (self.folder / 'bench').mkdir()
        status, _, error = self.all()
        self.assertEqual(status, 1)
        self.assertIn('nothing was measured', error)


if __name__ == '__main__':
    unittest.main()
