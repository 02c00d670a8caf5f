# SPDX-License-Identifier: MIT
"""Shows that training does not depend on the number of ranks, that a run killed anywhere goes on as if it had not been, that it
stops when asked to, and that steps which are not finite are skipped and several of them end the run."""
import json
import os
import random
import signal
import subprocess
import time

import h5py
import numpy as np

from harness import MPIRUN, PROGRAM, main
from runs import Background, Training, children, newest, parameters


class Ranks(Training):
    def test_any_number_of_ranks_gives_the_same_losses(self):
        self.train("one")
        expected = self.losses("one")
        self.assertEqual(len(expected), 50)
        self.assertLess(expected[-10:].mean(), 0.8 * expected[:5].mean())
        for ranks in (2, 3, 4):
            self.train(f"run{ranks}", ranks=ranks)
            difference = np.abs(self.losses(f"run{ranks}") / expected - 1).max()
            self.assertLess(difference, 1e-5, f"{ranks} ranks")
            for key in ("val_rmse", "val_r2", "train_rmse"):
                ours, theirs = ([line[key] for line in self.log(run, "epoch")] for run in (f"run{ranks}", "one"))
                np.testing.assert_allclose(ours, theirs, rtol=1e-4)

    def test_ranks_without_light_curves_take_part(self):
        self.expect(0, "synth", "--out", "few", "--curves", 3, "--shards", 8)
        for run, ranks in (("alone", None), ("many", 4)):
            self.train(run, "data.survey=few", "data.validation=0", "train.steps=6", ranks=ranks)
        np.testing.assert_allclose(self.losses("many"), self.losses("alone"), rtol=1e-5)

    def test_more_ranks_than_shards_are_refused(self):
        self.assertIn("5 shards", self.train("run", status=2, ranks=6).message)

    def test_fewer_threads_than_asked_for(self):
        """A system's limit to OpenMP's threads changes the speed, not the gradients."""
        self.train("one", "train.steps=8")
        for name, value in (("OMP_THREAD_LIMIT", "1"), ("OMP_MAX_ACTIVE_LEVELS", "0"), ("OMP_THREAD_LIMIT", "3")):
            self.train(f"{name}{value}", "train.steps=8", "threads=4", **{name: value})
            np.testing.assert_allclose(self.losses(f"{name}{value}"), self.losses("one"), rtol=1e-4)

    def test_the_parts_of_a_batch_do_not_matter(self):
        self.train("parts", "train.steps=10")
        self.train("whole", "train.steps=10", "train.microbatch=16")
        np.testing.assert_allclose(self.losses("whole"), self.losses("parts"), rtol=1e-5)

    def test_dropout_and_other_models_train(self):
        for i, more in enumerate((["model.dropout=0.2"], ["model.preset=astromer1"], ["loss.weighting=inverse", "train.clip_norm=0.5"],
                                  ["train.schedule=warmup", "masking.random_of=probed"], ["train.schedule=cosine", "model.leak=false"])):
            for run, ranks in ((f"a{i}", None), (f"b{i}", 2)):
                self.train(run, "train.steps=8", *more, ranks=ranks)
            # Their first steps are large, and a step magnifies the order of the sums a few times.
            np.testing.assert_allclose(self.losses(f"a{i}")[:3], self.losses(f"b{i}")[:3], rtol=1e-5)
            np.testing.assert_allclose(self.losses(f"a{i}"), self.losses(f"b{i}"), rtol=1e-4)


class Restarts(Training):
    def kill_at(self, run, step, ranks, *more):
        """Starts a run, kills all its processes with SIGKILL once it has logged a step and written a checkpoint; the last step
        logged. On any machine: the run must not be one that ends by itself."""
        words = [MPIRUN, "-n", str(ranks), PROGRAM, *self.words(run, *more)]
        process = subprocess.Popen(words, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        log, end = self.folder / run / "log.jsonl", time.monotonic() + 60

        def reached():
            return log.exists() and f'"step": {step},' in log.read_text() and list(log.parent.glob("checkpoints/step-*.h5"))

        while process.poll() is None and time.monotonic() < end and not reached():
            time.sleep(0.002)
        for child in children(process.pid):
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.kill()
        process.wait()
        self.assertFalse(self.log(run, "end"), f"the run was over before it could be killed at step {step}")
        whole_lines = log.read_text().rpartition("\n")[0].splitlines()
        return max(line["step"] for line in map(json.loads, whole_lines) if line["event"] == "step")

    def test_a_killed_run_goes_on(self):
        often = ["checkpoint.every_seconds=0.02"]
        reached = self.kill_at("killed", random.Random().randint(8, 45), 2, *often, "train.steps=1000000")
        left = sorted((self.folder / "killed" / "checkpoints").glob("step-*.h5"))
        self.assertTrue(left, f"killed at step {reached} without a checkpoint")
        last = reached + 15
        often.append(f"train.steps={last}")
        self.train("whole", *often, ranks=2)
        for ranks, bound in ((2, 0), (3, 1e-4)):
            run = self.folder / f"on{ranks}"
            subprocess.run(["cp", "-r", self.folder / "killed", run], check=True)
            self.train(run.name, *often, "--resume", ranks=ranks)
            self.assertEqual(newest(run).name, f"step-{last:08d}.h5")
            self.assertFalse(list((run / "checkpoints").glob("*tmp*")))
            self.assert_close(newest(run), newest(self.folder / "whole"), bound)
            self.assertEqual([line["epoch"] for line in self.log(run.name, "epoch")][-1],
                             [line["epoch"] for line in self.log("whole", "epoch")][-1])

    def test_a_damaged_checkpoint_is_passed_over(self):
        self.train("whole", "train.steps=20", "checkpoint.every_epochs=1", "checkpoint.keep=10")
        checkpoints = sorted((self.folder / "whole" / "checkpoints").glob("step-*.h5"))
        self.assertGreater(len(checkpoints), 2)
        damaged = bytearray(checkpoints[-1].read_bytes())
        for place in (len(damaged) // 2, len(damaged) // 3, 2 * len(damaged) // 3):
            damaged[place:place + 64] = bytes(64)
        checkpoints[-1].write_bytes(bytes(damaged))
        checkpoints[-2].write_bytes(checkpoints[-2].read_bytes()[:5000])
        result = self.train("whole", "train.steps=24", "--resume", ranks=2)
        self.assertIn(checkpoints[-1].name, result.err)
        self.assertIn(checkpoints[-3].name, result.out)
        self.train("clean", "train.steps=24")
        self.assert_close(newest(self.folder / "whole"), newest(self.folder / "clean"), 1e-4)

    def test_signals_stop_a_run(self):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            run = f"run{int(number)}"
            process = subprocess.Popen([PROGRAM, *self.words(run, "train.steps=100000")], cwd=self.folder,
                                       stdout=subprocess.PIPE, text=True)
            log, end = self.folder / run / "log.jsonl", time.monotonic() + 60
            while time.monotonic() < end and '"event": "step"' not in (log.read_text() if log.exists() else ""):
                time.sleep(0.01)
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, out)
            self.assertIn(f"stopped by {number.name}, go on with --resume", out)
            self.assertEqual(self.log(run, "end")[-1]["step"], int(newest(self.folder / run).stem[5:]))

    def test_the_time_limit_stops_a_run(self):
        out = self.train("run", "train.steps=0", "train.time_limit_seconds=1", ranks=2).out
        self.assertIn("time limit", out)
        steps = self.log("run", "end")[-1]["step"]
        self.train("run", "--resume", f"train.steps={steps + 3}")
        self.assertEqual(self.log("run", "end")[-1]["step"], steps + 3)

    def test_resuming_is_asked_for(self):
        self.assertIn("run.dir", self.expect(2, "pretrain", "--config", "tiny.yaml", "data.survey=survey").message)
        self.train("run", "train.steps=3", "--resume")
        self.assertIn("--resume", self.train("run", status=2).message)
        self.assertIn("model.ffn", self.train("run", "model.ffn=8", "--resume", status=2).message)
        self.expect(0, "pretrain", "--resume", "run.dir=run", "train.steps=5")
        self.assertEqual(newest(self.folder / "run").name, "step-00000005.h5")

    def test_checkpoints_are_pruned(self):
        self.train("run", "checkpoint.every_seconds=1e-9", "train.steps=12")
        names = sorted(path.name for path in (self.folder / "run" / "checkpoints").glob("*"))
        self.assertEqual(names, ["step-00000011.h5", "step-00000012.h5"])


class NotFinite(Training):
    def poison(self, which):
        """Makes the magnitudes of some light curves so large that their squares overflow."""
        for path in sorted((self.folder / "survey").glob("*.h5")):
            with h5py.File(path, "r+") as file:
                offset = file["offset"][:]
                for curve in which(len(offset) - 1):
                    part = slice(int(offset[curve]), int(offset[curve + 1]))
                    file["magnitude"][part] = np.float32(2e38) * np.sign(np.arange(part.stop - part.start) % 2 - 0.5)
                if "crc32" in file["magnitude"].attrs:
                    del file["magnitude"].attrs["crc32"]

    def test_a_bad_step_is_skipped(self):
        self.poison(lambda count: [0] if count else [])
        self.train("run", "train.batch=4", "train.steps=50", "data.validation=0")
        self.assertGreater(len(self.log("run", "skip")), 0)
        self.assertEqual(len(self.log("run", "skip")) + len(self.log("run", "step")), 50)
        for name, values in parameters(newest(self.folder / "run")).items():
            self.assertTrue(np.isfinite(values).all(), name)

    def test_many_bad_steps_end_the_run(self):
        self.train("run", "train.steps=4", "checkpoint.every_epochs=1")
        kept = newest(self.folder / "run").read_bytes()
        self.poison(range)
        (self.folder / "survey").rename(self.folder / "poisoned")
        result = self.train("run", "train.steps=50", "--resume", "data.survey=poisoned", status=1, ranks=2)
        self.assertIn("not finite", result.message)
        self.assertEqual(newest(self.folder / "run").read_bytes(), kept)


class Stopping(Training):
    def test_a_validation_can_be_stopped_too(self):
        """A long one must not cost a run its time to write a checkpoint; the run that goes on begins with it."""
        self.expect(0, "synth", "--out", "large", "--curves", 6000, "--shards", 4, "--seed", 9)
        words = ["data.validation=large", "data.validation_windows=0", "train.batch=40", "train.steps=6"]
        run = Background(self, *self.words("run", *words), ranks=2)
        run.wait_until(lambda: (self.folder / "run/log.jsonl").exists() and len(self.log("run", "step")) == 3)
        run.signal(signal.SIGTERM)
        self.assertEqual(run.process.wait(timeout=60), 0, run.text())
        self.assertEqual(self.log("run", "epoch"), [], "the validation was not short")
        self.assertIn("stopped by SIGTERM", self.log("run", "end")[-1]["reason"])
        self.assertEqual(newest(self.folder / "run").name, "step-00000003.h5")
        self.train("run", *words, "--resume", ranks=2)
        self.train("whole", *words, ranks=2)
        self.assertEqual([(line["epoch"], line["val_rmse"]) for line in self.log("run", "epoch")],
                         [(line["epoch"], line["val_rmse"]) for line in self.log("whole", "epoch")])
        self.assert_close(newest(self.folder / "run"), newest(self.folder / "whole"), 0)

    def test_early_stopping_keeps_the_best(self):
        self.train("run", "train.steps=0", "train.epochs=100", "train.patience=2", "train.learning_rate=0.3", "train.warmup_steps=0")
        epochs = self.log("run", "epoch")
        self.assertLess(len(epochs), 100)
        best = min(epochs, key=lambda line: line["val_rmse"])
        self.assertEqual(len(epochs) - best["epoch"], 2)
        self.assertEqual(self.log("run", "end")[-1]["best_epoch"], best["epoch"])
        result = self.expect(0, "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey", "--subset", "validation",
                             "--windows-per-curve", 2, "--json")
        self.assertAlmostEqual(json.loads(result.out)["rmse"], best["val_rmse"], places=6)

    def test_a_validation_survey(self):
        self.expect(0, "synth", "--out", "other", "--curves", 30, "--shards", 4, "--seed", 9)
        self.train("run", "data.validation=other", "train.steps=8")
        line = self.log("run", "epoch")[-1]
        result = self.expect(0, "evaluate", "--checkpoint", "run/best.h5", "--survey", "other", "--windows-per-curve", 2, "--json", ranks=3)
        both = json.loads(result.out)
        self.assertAlmostEqual(both["rmse"], line["val_rmse"], places=5)
        result = self.expect(0, "evaluate", "--checkpoint", "run/best.h5", "--survey", "other", "--windows-per-curve", 2, "--json",
                             "--probed-only", ranks=3)
        probed = json.loads(result.out)
        self.assertEqual(set(both) - set(probed), {"rmse_unmasked"})
        for key in ("windows", "rmse", "r2", "spread"):
            self.assertEqual(probed[key], both[key], key)
        refused = self.expect(2, "evaluate", "--checkpoint", "run/best.h5", "--survey", "other", "--probed-only", "--reconstructions",
                              "r.csv")
        self.assertIn("leave out --probed-only", refused.message)


if __name__ == "__main__":
    main()
