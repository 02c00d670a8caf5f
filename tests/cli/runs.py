# SPDX-License-Identifier: MIT
"""What the tests of training share: a model that trains in moments, its survey, the log and the checkpoints of a run, and a run in the
background that can be stopped and killed."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np

from harness import MPIRUN, PROGRAM, CommandLineTest

TINY = """
data: {window: 30, validation_windows: 2, validation: 0.2}
model: {blocks: 2, heads: 2, width: 16, ffn: 24}
train: {batch: 16, microbatch: 5, epochs: 0, steps: 50, learning_rate: 1e-3, warmup_steps: 5, patience: 0, log_every_steps: 1,
        seed: 3}
checkpoint: {every_seconds: 0, every_epochs: 0, keep: 2}
device: cpu
threads: 1
"""


def parameters(path):
    with h5py.File(path) as file:
        return {name: file["parameters"][name][:] for name in file["parameters"]}


def newest(run):
    return sorted((run / "checkpoints").glob("step-*.h5"))[-1]


class Training(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.write("tiny.yaml", TINY)
        self.expect(0, "synth", "--out", "survey", "--curves", 120, "--shards", 5, "--seed", 4)

    def words(self, run, *more):
        survey = [] if any(word.startswith("data.survey=") for word in more) else ["data.survey=survey"]
        return ["pretrain", "--config", "tiny.yaml", f"run.dir={run}", *survey, *more]

    def train(self, run, *more, status=0, **options):
        return self.expect(status, *self.words(run, *more), **options)

    def log(self, run, event):
        lines = [json.loads(line) for line in (self.folder / run / "log.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def losses(self, run):
        return np.array([line["loss"] for line in self.log(run, "step")])

    def assert_close(self, a, b, bound):
        """Two checkpoints' parameters, tensor by tensor; bound 0: bit for bit."""
        one, other = parameters(a), parameters(b)
        self.assertEqual(one.keys(), other.keys())
        for name in one:
            if bound == 0:
                self.assertEqual(one[name].tobytes(), other[name].tobytes(), name)
            else:
                self.assertLessEqual(np.linalg.norm(one[name] - other[name]), bound * np.linalg.norm(one[name]) + 1e-7, name)


def children(pid):
    """All processes below one."""
    found, listed = [], subprocess.run(["ps", "-eo", "pid=,ppid="], stdout=subprocess.PIPE, text=True, check=True).stdout
    parent = {int(a): int(b) for a, b in (line.split() for line in listed.splitlines())}
    for process in parent:
        above = process
        while above in parent and above != pid:
            above = parent[above]
        if above == pid and process != pid:
            found.append(process)
    return found


def state(pid):
    """The letter of a process's state ("T" stopped), or None when it has ended."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if letter in "ZX" else letter


class Background:
    """A run of its own, alone or under mpirun, that is looked at and killed while it works. What a killed mpirun leaves in the system's
    temporary folders is put under the test's folder."""

    def __init__(self, test, *words, ranks=None):
        self.folder, self.alone, start = test.folder, ranks is None, [MPIRUN, "-n", str(ranks)] if ranks else []
        environment = {**os.environ, "TMPDIR": str(test.folder), "OMPI_MCA_btl_vader_backing_directory": str(test.folder)}
        self.output = open(test.folder / "output", "w+")
        self.process = subprocess.Popen([*start, PROGRAM, *map(str, words)], cwd=test.folder, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=self.output, stderr=subprocess.STDOUT)
        test.addCleanup(self.kill)
        self.ranks = []

    def find_ranks(self):
        """The processes of the program itself, once all are there."""
        if not self.ranks:
            pids = [self.process.pid] if self.alone else children(self.process.pid)
            self.ranks = [pid for pid in pids if os.path.basename(os.path.realpath(f"/proc/{pid}/exe")) == os.path.basename(PROGRAM)]
        return self.ranks

    def wait_until(self, condition, seconds=120, pause=0.002):
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{'ended' if self.process.poll() is not None else 'nothing happened'}\n{self.text()}")
            time.sleep(pause)

    def stop_when(self, condition, pause=0.0):
        """Stops all ranks at a moment at which the condition holds, whatever the machine's speed: looks again when they stand."""
        while True:
            self.wait_until(condition, pause=pause)
            self.signal(signal.SIGSTOP)
            self.wait_until(lambda: all(state(pid) in ("T", None) for pid in self.find_ranks()))
            if condition():
                return
            self.signal(signal.SIGCONT)

    def signal(self, number, ranks=None):
        for pid in self.find_ranks() if ranks is None else ranks:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill(self):
        """SIGKILL for all of it at once."""
        if self.process.poll() is None:
            everyone = [self.process.pid, *children(self.process.pid)]
            self.signal(signal.SIGKILL, everyone)
        self.process.wait()
        self.output.close()

    def wait(self, seconds=120):
        """The exit status; not ending is a failure."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs\n{self.text()}") from None

    def text(self):
        return (self.folder / "output").read_text(errors="replace")
