# SPDX-License-Identifier: MIT
"""Shows that a run of some hundred steps with many checkpoints neither grows nor leaves files open, and that bench/long-run, which
measures it, sees growth."""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "bench"))


def load():
    loader = importlib.machinery.SourceFileLoader("long_run", str(ROOT / "bench" / "long-run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("long_run", loader))
    loader.exec_module(module)
    return module


class LongRun(unittest.TestCase):
    def run_bench(self, *words):
        result = subprocess.run([ROOT / "bench" / "long-run", "--program", os.environ["ASTROMER"], "--ignore-time", *words],
                                capture_output=True, text=True, timeout=250, check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("flat from first to last", result.stdout)

    def test_short(self):
        self.run_bench("--steps", "600", "--every", "10")

    def test_short_on_two_ranks(self):
        self.run_bench("--steps", "300", "--every", "10", "--ranks", "2")

    def judge(self, megabytes=0.0, files=0.0, seconds=0.0):
        """What the bench says of a run that grows by these from each step to the next."""
        log = [{"event": "epoch", "step": step, "windows_per_second": 1 / (1e-4 + seconds * step)} for step in range(0, 1000, 10)]
        samples = [{"step": step, "rss_mb": 40 + megabytes * step, "files": 13 + int(files * step)} for step in range(0, 1000, 5)]
        return load().judge(log, samples, 1000, False)[1]

    def test_growth_is_seen(self):
        self.assertEqual(self.judge(), [])
        self.assertEqual(self.judge(megabytes=0.01), ["memory"])
        self.assertEqual(self.judge(files=0.01), ["open files"])
        self.assertEqual(self.judge(seconds=4e-7), ["the time of a step"])


if __name__ == "__main__":
    unittest.main()
