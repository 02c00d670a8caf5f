# SPDX-License-Identifier: MIT
"""Shows on a GPU what the emulator shows without one: the golden files pass at every precision, training is the CPU's with and
without a graph, a run that was killed goes on, and every command that computes says what the CPU says."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "cli"))
from harness import PROGRAM, TIMEOUT_SECONDS, CommandLineTest, main  # noqa: E402

GOLDENS = [*sorted((ROOT / "tests" / "golden").glob("*.h5")), *sorted((ROOT.parent / "shared" / "golden").glob("*.h5"))]
MODEL = ("model.blocks=2", "model.heads=2", "model.width=64", "model.ffn=96")
TRAIN = ("--config", ROOT / "configs" / "astromer2.yaml", *MODEL, "data.survey=survey", "data.window=50", "data.validation=0.2",
         "data.validation_windows=1", "train.batch=32", "train.learning_rate=1e-3", "train.log_every_steps=1")


class Gpu(CommandLineTest):
    def synth(self, curves=300):
        self.expect(0, "synth", "--out", "survey", "--curves", curves, "--shards", 4)

    def pretrain(self, run, *more, epochs=4):
        self.expect(0, "pretrain", f"run.dir={run}", *TRAIN, f"train.epochs={epochs}", *more)
        return self.losses(run)

    def losses(self, run):
        lines = [json.loads(line) for line in (self.folder / run / "log.jsonl").read_text().splitlines()]
        return np.array([line["loss"] for line in lines if line["event"] == "step"])

    def test_goldens_pass(self):
        for precision in ("fp32", "tf32", "bf16"):
            result = self.expect(0, "check", *GOLDENS, "device=cuda", f"precision={precision}")
            self.assertGreaterEqual(result.out.count(f", {precision}"), len(GOLDENS), result)

    def test_training_is_the_cpus(self):
        self.synth()
        cpu = self.pretrain("cpu", "device=cpu")
        self.assertGreater(len(cpu), 20)
        graph = self.pretrain("graph", "device=cuda", "precision=fp32")
        single = self.pretrain("single", "device=cuda", "precision=fp32", "train.graph=false")
        np.testing.assert_allclose(graph, cpu, rtol=2e-4)
        np.testing.assert_allclose(single, graph, rtol=1e-5, err_msg="the graph")
        for precision in ("tf32", "bf16"):
            np.testing.assert_allclose(self.pretrain(precision, "device=cuda", f"precision={precision}"), cpu, rtol=0.03, err_msg=precision)

    def test_a_killed_run_goes_on(self):
        self.synth()
        words = ("device=cuda", "train.patience=0", "checkpoint.every_epochs=5")
        whole = self.pretrain("whole", *words, epochs=40)
        command = [PROGRAM, "pretrain", "run.dir=killed", *map(str, TRAIN), *words, "train.epochs=40"]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while len(list(self.folder.glob("killed/checkpoints/*.h5"))) < 2 and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
        self.expect(0, "pretrain", "--resume", "run.dir=killed")
        np.testing.assert_allclose(self.losses("killed")[-20:], whole[-20:], rtol=1e-3)

    def test_every_command_says_what_the_cpu_says(self):
        self.synth(60)
        self.pretrain("run", "device=cpu", epochs=1)
        survey = ("--checkpoint", "run/best.h5", "--survey", "survey")
        for device in ("cpu", "cuda"):
            self.expect(0, "embed", *survey, "--out", f"{device}.h5", f"device={device}", "--attention", "synth-0000000002")
        with h5py.File(self.folder / "cuda.h5") as cuda, h5py.File(self.folder / "cpu.h5") as cpu:
            for name in ("embedding", "attention/weights"):
                np.testing.assert_allclose(cuda[name][:], cpu[name][:], rtol=1e-3, atol=1e-5, err_msg=name)
        near = [self.expect(0, "neighbours", "--embedding", "cpu.h5", "--ids", "synth-0000000002", "--json", f"device={device}").out
                for device in ("cpu", "cuda")]
        self.assertEqual(*near)
        said = [self.expect(0, "evaluate", *survey, "--json", f"device={device}").out for device in ("cpu", "cuda")]
        np.testing.assert_allclose(*(json.loads(line)["rmse"] for line in said), rtol=1e-4)

    def test_classifiers_are_the_cpus(self):
        """Each head, its encoder training along where it has one."""
        self.synth(200)
        self.pretrain("run", "device=cpu", epochs=1)
        self.expect(0, "folds", "--survey", "survey", "--out", "folds.h5", "--folds", 1, "--samples", 10, "--test", 10, "--validation", 8,
                    "--least", 20)
        for head in ("skip", "avg", "max", "att_avg", "att_cls", "base_gru", "raw_gru"):
            found = []
            for device in ("cpu", "cuda"):
                words = ["classify", "--survey", "survey", "--folds", "folds.h5", "--samples", 10, "--head", head,
                         "--out", f"{device}-{head}.h5", f"device={device}", "classify.epochs=3", "classify.batch=16"]
                words += [] if head.endswith("gru") else ["--checkpoint", "run/best.h5", "--train-encoder"]
                self.expect(0, *words)
                with h5py.File(self.folder / f"{device}-{head}.h5") as file:
                    found.append(file["window/probability"][:])
            np.testing.assert_allclose(*found, atol=5e-3, err_msg=head)


if __name__ == "__main__":
    main()
