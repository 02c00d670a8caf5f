#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that bench/scaling's arithmetic is what it says: sums over links, what hides behind the backward pass, the slowest of many
ranks, steps between measured batches, what bends first; that it reads measurements of a CPU, of bench/roofline and of bench/gpu; that a
prediction which the measured two ranks contradict is an error; and that bench/parts tells the step's real parts."""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get('BUILD', ROOT / 'build'))
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / 'bench'))
import scaling_model as model  # noqa: E402

FAST = model.Link('fast', 1e30, 0)
NODE = model.Link('pcie', 24e9, 1e-6)
NET = model.Link('10gbe', 1.25e9, 1e-5)
NOTHING = model.Conditions(survey_bytes=0, curves=1e12, shards=1 << 30, node_memory=1, reading=1, writing=1, request=0, walk=0, load=0,
                           checkpoint_bytes=0, tensors=0, every=0)
WORK = model.Work(windows=16, filled=(0.4, 0.6, 0.8), sizes=(4e6, 4e6, 4e6), update=0.2, scatter=0.0, aside=True)
TINY = ('data.window=32', 'model.width=32', 'model.heads=1', 'model.ffn=32', 'model.blocks=3')


class Model(unittest.TestCase):
    def test_slowest_of_many(self):
        for n, expected in ((1, 0), (2, 0.5642), (10, 1.5388), (100, 2.5076), (1000, 3.2414)):
            self.assertAlmostEqual(model.expected_maximum(n), expected, delta=2e-3 + 1e-3 * expected)
        row = model.simulate(WORK._replace(scatter=0.05), 100, model.Cluster(FAST, FAST, 1, 0), NOTHING)
        self.assertAlmostEqual(row['seconds'], 1 + 0.05 * 2.5076, delta=1e-3)
        self.assertIn('the slowest rank', model.bends_first(row))

    def test_sums_over_links(self):
        inside = 2 * 3 * 1e-6 + 2 * 3 / 4 * 1e8 / 24e9
        self.assertAlmostEqual(model.sum_seconds(1e8, 4, model.Cluster(NODE, NET, 4, 0)), inside)
        self.assertAlmostEqual(model.sum_seconds(1e8, 8, model.Cluster(NODE, NET, 4, 1e-3)),
                               1e-3 + inside + 2 * 1 * 1e-5 + 2 * 1 / 2 * 1e8 / 1.25e9)
        self.assertAlmostEqual(model.sum_seconds(8, 1024, model.Cluster(NODE, NET, 1, 0)), 2 * 10 * 1e-5, delta=1e-7)  # a tree
        self.assertEqual(model.sum_seconds(1e8, 1, model.Cluster(NODE, NET, 4, 1)), 0)

    def test_what_hides(self):
        for seconds, exposed in ((0.1, 0.1), (0.2, 0.2), (0.3, 0.5), (1, 2.6)):
            self.assertAlmostEqual(model.exposed_seconds(WORK.filled, WORK.sizes, True, lambda size: seconds), exposed)
            self.assertAlmostEqual(model.exposed_seconds(WORK.filled, WORK.sizes, False, lambda size: seconds), 3 * seconds)

    def test_nothing_lost(self):
        row = model.simulate(WORK, 64, model.Cluster(FAST, FAST, 8, 0), NOTHING)
        self.assertAlmostEqual(row['efficiency'], 1)
        self.assertAlmostEqual(row['windows_per_second'], 64 * 16)
        self.assertEqual(model.bends_first(row), 'nothing')
        self.assertIsNone(model.bent_at([WORK], lambda ranks: 16, model.Cluster(FAST, FAST, 8, 0), NOTHING))

    def test_parts_add_up(self):
        c = NOTHING._replace(survey_bytes=1e12, node_memory=1e9, reading=1e8, request=0.1, writing=1e8, checkpoint_bytes=4e7, tensors=300,
                             every=60, walk=1e-4, load=1e-3)
        row = model.simulate(WORK._replace(scatter=0.02), 64, model.Cluster(NODE, NET, 8, 1e-4), c)
        self.assertAlmostEqual(row['seconds'], row['own_seconds'] + sum(row['lost_seconds'].values()))
        running = row['seconds'] - row['lost_seconds']['checkpoints']
        self.assertGreater(running, 1.2)
        self.assertAlmostEqual(row['lost_seconds']['checkpoints'] / running, row['checkpoint_seconds'] / 60)
        self.assertTrue(all(seconds > 0 for name, seconds in row['lost_seconds'].items() if name != 'the loader'), row)

    def test_what_bends(self):
        cluster = model.Cluster(FAST, FAST, 8, 0)
        for name, c, ranks in (('the loader', NOTHING._replace(walk=1.0), 1024),
                               ('reading', NOTHING._replace(survey_bytes=1e9, request=0.1), 8),
                               ('checkpoints', NOTHING._replace(checkpoint_bytes=1e3, every=10), 4)):
            self.assertTrue(model.bends_first(model.simulate(WORK, ranks, cluster, c)).startswith(name), name)
        slow = model.Cluster(NODE, NET._replace(bandwidth=1e7), 1, 0)
        self.assertTrue(model.bends_first(model.simulate(WORK, 64, slow, NOTHING)).startswith('sums over the ranks'))
        words = model.bends_first(model.simulate(WORK, 64, cluster, NOTHING._replace(shards=8, curves=2048)))
        self.assertIn('needs 64 shards', words)
        self.assertIn('only 2.0 steps an epoch', words)
        ranks, row = model.bent_at([WORK], lambda ranks: 16, model.Cluster(NODE, NET._replace(latency=1e-2), 1, 0), NOTHING)
        before = model.simulate(WORK, ranks // 2, model.Cluster(NODE, NET._replace(latency=1e-2), 1, 0), NOTHING)
        self.assertTrue(row['efficiency'] < 0.9 <= before['efficiency'], (ranks, row, before))

    def test_between_batches(self):
        large = WORK._replace(windows=32, filled=(0.6, 1.0, 1.4), update=0.2)
        self.assertEqual(model.work_at([large, WORK], 16), WORK)
        middle = model.work_at([large, WORK], 24)
        self.assertTrue(all(math.isclose(a, b) for a, b in zip(middle.filled, (0.5, 0.8, 1.1))), middle)
        self.assertAlmostEqual(model.work_at([large, WORK], 8).filled[-1], 0.5)
        self.assertAlmostEqual(model.work_at([WORK], 32).filled[-1], 1.6)

    def test_links_from_measurements(self):
        points = [(size, 1e-5 + size / 1e9) for size in (4096, 1 << 20, 4 << 20, 16 << 20)]
        link, start = model.fitted_link(points, 2)
        self.assertAlmostEqual(link.bandwidth, 1e9, delta=1e7)
        self.assertAlmostEqual(start, 1e-5, delta=1e-5)
        self.assertAlmostEqual(model.sum_seconds(2 << 20, 2, model.Cluster(link, None, 2, start)), 1e-5 + (2 << 20) / 1e9, delta=5e-6)
        self.assertAlmostEqual(model.interpolated(points)(2 << 20), 1e-5 + (2 << 20) / 1e9, delta=1e-7)
        with self.assertRaises(ValueError):
            model.fitted_link([(4096, 1.0), (1 << 20, 1.0)], 2)


def step_lines(ranks, batch, seconds, reduce=False):
    lines = [{'kind': 'step', 'ranks': ranks, 'at_once': 2, 'threads': 1, 'precision': 'fp32', 'batch': batch, 'parameters': 3000000,
              'tensors': 100, 'seconds': seconds, 'scatter': 0.01, 'update_seconds': 0.01, 'begin_seconds': 0.0, 'progress_seconds': 0.001,
              'wait_seconds': 0.001}]
    lines += [{'kind': 'bucket', 'bytes': 4000000, 'filled_seconds': (seconds - 0.01) * share} for share in (0.4, 0.7, 1.0)]
    lines += [{'kind': 'walk', 'seconds_of_a_position': 2e-8}]
    if reduce:
        lines += [{'kind': 'reduce', 'ranks': 2, 'bytes': size, 'seconds': 1e-5 + size / 4e9} for size in (4096, 1 << 20, 4 << 20)]
    return lines


def made(two_seconds=0.51):
    rounds = [{'one': step_lines(1, 32, 0.5), 'two': step_lines(2, 16, two_seconds, reduce=True), 'apart': step_lines(1, 16, 0.5)}
              for _ in range(3)]
    measured = {'batch': 32, 'processor': 'a made CPU',
                'precisions': {'fp32': {'rounds': rounds, 'by_batch': {'32': step_lines(1, 32, 0.98)}}},
                'training': {'data_wait_share': [0.001, 0.002], 'reduce_wait_share': [0.01, 0.02], 'checkpoint_seconds': [0.1],
                             'loader': {'seconds_of_a_window': 1e-6}}}
    machine = {'processor': 'a made CPU', 'cores': 2, 'load_before': 0.0, 'commit': 'abc', 'date': '2026-01-01T00:00:00+00:00'}
    return {'measured': measured, 'machine': machine, 'notes': []}


class Program(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def scaling(self, data, *words):
        (self.folder / 'measured.json').write_text(json.dumps(data))
        command = [sys.executable, ROOT / 'bench' / 'scaling', '--measured', self.folder / 'measured.json', '--out',
                   self.folder / 'out.json', *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertNotIn('Traceback', done.stderr)
        return done

    def test_from_measurements(self):
        done = self.scaling(made())
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads((self.folder / 'out.json').read_text())
        numbers = result['numbers']
        self.assertAlmostEqual(numbers['fp32_two_over_one']['median'], 0.5 / 0.51)
        self.assertAlmostEqual(numbers['fp32_in_the_ranks']['median'], 100 * 0.002 / 0.51)
        self.assertAlmostEqual(numbers['data_wait']['median'], 0.15)
        expected = 0.5 * (1 + 0.01 * 0.5642) + 3 * (1e-5 + 4e6 / 4e9)
        self.assertAlmostEqual(numbers['fp32_predicted_over_measured']['median'], expected / 0.51, delta=1e-4)
        self.assertEqual({tuple(row['ranks'] for row in table['rows']) for table in result['predictions']}, {(4, 64, 1024)})
        self.assertIn('PREDICTIONS', done.stdout)
        self.assertIn('Assumptions', done.stdout)

    def test_contradicted(self):
        done = self.scaling(made(two_seconds=0.7))
        self.assertEqual((done.returncode, done.stderr.count('\n')), (1, 1), done.stderr)
        self.assertIn('the model is off by more than 10%', done.stderr)

    def test_gpus(self):
        roofline = {'setting': {'batch': 512, 'precision': 'bf16'}, 'cards': [
            {'card': 'H100', 'update_seconds': 1e-4, 'buckets': [{'filled_seconds': s, 'bytes': 4000000} for s in (0.004, 0.007, 0.0099)]}]}
        timed = {'ms': 100.0, 'ms_lowest': 99.0, 'ms_highest': 102.73, 'batch': 512}
        gpu = {'harness': False, 'parts': {'machine': {'data': {'cards': [{'name': 'NVIDIA RTX A5000'}]}},
                                           'time': {'data': {'bf16': {'step': timed}, 'fp32': {'step': None}}}}}
        (self.folder / 'roofline.json').write_text(json.dumps(roofline))
        (self.folder / 'gpu.json').write_text(json.dumps(gpu))
        done = self.scaling(made(), '--gpu', self.folder / 'roofline.json', '--gpu', self.folder / 'gpu.json', '--sizes', '1', '4', '64',
                            '--gpu-scatter', '0.02')
        self.assertEqual(done.returncode, 0, done.stderr)
        tables = {table['name']: table for table in json.loads((self.folder / 'out.json').read_text())['predictions']
                  if table['batch'] == '512 windows a rank'}
        h100, a5000 = tables['H100, bf16, roofline'], tables['NVIDIA RTX A5000, bf16, measured']
        self.assertEqual((h100['inside']['name'], h100['between']['name'], h100['per_node']), ('nvlink', 'ib', 8))
        self.assertEqual((a5000['inside']['name'], a5000['per_node']), ('pcie', 4))
        self.assertAlmostEqual(h100['rows'][0]['own_seconds'], 0.01, delta=1e-9)
        self.assertAlmostEqual(a5000['rows'][0]['own_seconds'], 0.1, delta=1e-9)
        self.assertAlmostEqual(a5000['scatter'], 0.01)
        self.assertAlmostEqual(h100['scatter'], 0.02)
        gpu['harness'] = True
        (self.folder / 'gpu.json').write_text(json.dumps(gpu))
        done = self.scaling(made(), '--gpu', self.folder / 'gpu.json')
        self.assertEqual(done.returncode, 1)
        self.assertIn('no GPU', done.stderr)


class Parts(unittest.TestCase):
    def parts(self, *words, ranks=1):
        command = ['mpirun', '-n', str(ranks), BUILD / 'bench' / 'parts', '--batch', '4', '--threads', '1', '--steps', '5', *words, *TINY]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = {}
        for line in map(json.loads, done.stdout.splitlines()):
            lines.setdefault(line['kind'], []).append(line)
        return lines

    def hold_together(self, lines):
        step, = lines['step']
        times = [line['filled_seconds'] for line in lines['bucket']]
        self.assertEqual(len(times), 3 + 2)  # readout, blocks, embedding
        self.assertEqual(times, sorted(times))
        self.assertTrue(0 < times[0] and step['update_seconds'] > 0, (times, step))
        size = sum(line['bytes'] for line in lines['bucket'])
        self.assertTrue(4 * step['parameters'] < size < 4.2 * step['parameters'] + 1000, (size, step))
        return step

    def test_one_rank(self):
        lines = self.parts()
        step = self.hold_together(lines)
        self.assertEqual(step['ranks'], 1)
        self.assertLessEqual(lines['bucket'][-1]['filled_seconds'], step['seconds_highest'])
        self.assertNotIn('reduce', lines)

    def test_two_ranks(self):
        lines = self.parts(ranks=2)
        step = self.hold_together(lines)
        self.assertEqual((step['ranks'], step['at_once']), (2, 2))
        self.assertTrue(step['wait_seconds'] > 0)
        self.assertEqual([line['bytes'] for line in lines['reduce']][:2], [4096, 8192])

    def test_both(self):
        lines = self.parts('--both', ranks=2)
        self.assertEqual([step['ranks'] for step in lines['step']], [2, 1])
        self.assertEqual([bucket['ranks'] for bucket in lines['bucket']], [2] * 5 + [1] * 5)

    def test_apart(self):
        lines = self.parts('--apart', ranks=2)
        step = self.hold_together(lines)
        self.assertEqual((step['ranks'], step['at_once']), (1, 2))
        self.assertNotIn('reduce', lines)


if __name__ == '__main__':
    unittest.main()
