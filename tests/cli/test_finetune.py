# SPDX-License-Identifier: MIT
"""Shows that finetune makes a checkpoint better on the fold's test light curves, and says so in numbers that follow from evaluate's table;
that it learns from the fold's training light curves alone and stops by its validation light curves alone; that it goes on after a kill and
comes to the same weights on any number of ranks; and that what cannot be meant is refused."""
import csv
import json
import math
import shutil
import signal
import tempfile

import h5py
import numpy as np

from harness import CommandLineTest, main
from runs import TINY, Background, Training, parameters

SETTINGS = ("train.learning_rate=1e-3", "train.batch=8", "train.epochs=4", "train.seed=3", "train.log_every_steps=1", "device=cpu",
            "threads=1")


class Finetuning(Training):
    """A survey with folds, and a checkpoint that was trained on another survey; made once and copied for each test."""
    made = None

    def setUp(self):
        CommandLineTest.setUp(self)
        if Finetuning.made:
            shutil.copytree(Finetuning.made.name, self.folder, dirs_exist_ok=True)
        else:
            self.make()
            Finetuning.made = tempfile.TemporaryDirectory(prefix="astromer-test-")
            shutil.copytree(self.folder, Finetuning.made.name, dirs_exist_ok=True)

    def make(self):
        self.write("tiny.yaml", TINY)
        self.expect(0, "synth", "--out", "first", "--curves", 40, "--shards", 2, "--seed", 4)
        self.expect(0, "synth", "--out", "survey", "--curves", 150, "--shards", 3, "--seed", 5)
        self.train("start", "data.survey=first", "train.steps=4")
        self.expect(0, "folds", "--survey", "survey", "--out", "folds.h5", "--folds", 2, "--samples", "3,24", "--test", 4,
                    "--validation", 2, "--least", 10)

    def order(self, run, *more, start="start/best.h5", survey="survey", folds="folds.h5", fold=1, samples=24, settings=SETTINGS):
        return ["finetune", "--checkpoint", start, "--survey", survey, "--folds", folds, "--fold", fold, "--samples", samples, "--out", run,
                *settings, *more]

    def finetune(self, run, *more, status=0, ranks=None, **options):
        return self.expect(status, *self.order(run, *more, **options), ranks=ranks)

    def refusal(self, run, *more, status=2, **options):
        return self.finetune(run, *more, status=status, **options).message

    def result(self, run):
        return json.loads((self.folder / run / "finetune.json").read_text())

    def members(self, name, fold=1):
        """The ids of a set of a fold, repeated ones repeated."""
        with h5py.File(self.folder / "folds.h5") as file:
            ids = [i.decode() if isinstance(i, bytes) else i for i in file["id"][:]]
            return [ids[row] for row in file[f"fold{fold}/{name}"][:]]

    def survey_where(self, name, chosen, change):
        """A copy of the survey in which the magnitudes of the chosen ids are others."""
        shutil.copytree(self.folder / "survey", self.folder / name)
        changed = 0
        for path in (self.folder / name).glob("*.h5"):
            with h5py.File(path, "r+") as file:
                offset = file["offset"][:].astype(int)
                for curve, identity in enumerate(file["id"][:]):
                    if (identity.decode() if isinstance(identity, bytes) else identity) in chosen:
                        part = slice(offset[curve], offset[curve + 1])
                        file["magnitude"][part] = change(file["magnitude"][part])
                        changed += 1
                if "crc32" in file["magnitude"].attrs:
                    del file["magnitude"].attrs["crc32"]
        self.assertEqual(changed, len(set(chosen)))
        return name


class Better(Finetuning):
    def measured(self, checkpoint):
        """RMSE, R2 and unmasked RMSE of the fold's test light curves, from the table of every observation."""
        self.expect(0, "evaluate", "--checkpoint", checkpoint, "--survey", "survey", "--reconstructions", "all.csv", "threads=1")
        test, windows, every = set(self.members("test")), {}, []
        with open(self.folder / "all.csv", newline="") as file:
            for row in csv.DictReader(file):
                if row["id"] in test:
                    every.append(float(row["magnitude"]) - float(row["unmasked"]))
                    probed = windows.setdefault((row["id"], row["start"]), [])
                    if row["probed"] == "1":
                        probed.append((float(row["magnitude"]), float(row["magnitude"]) - float(row["reconstruction"])))
        errors, squares, variance = [], 0, 0
        for probed in windows.values():
            magnitude, residual = np.array(probed or [(0, 0)]).T
            errors.append(np.mean(residual**2))
            squares, variance = squares + np.sum(residual**2), variance + np.sum((magnitude - magnitude.mean())**2)
        return math.sqrt(np.mean(errors)), 1 - squares / variance, math.sqrt(np.mean(np.square(every)))

    def test_it_gets_better_and_says_what_evaluate_says(self):
        out = self.finetune("run").out
        result = self.result("run")
        self.assertLess(result["rmse_after"], result["rmse_before"])
        self.assertLess(result["unmasked_after"], result["unmasked_before"])
        self.assertGreater(result["r2_after"], result["r2_before"])
        for when, checkpoint in (("before", "start/best.h5"), ("after", "run/best.h5")):
            for name, value in zip(("rmse", "r2", "unmasked"), self.measured(checkpoint)):
                self.assertAlmostEqual(result[f"{name}_{when}"], value, delta=2e-4, msg=f"{name} {when}")
                self.assertIn(f"{result[f'{name}_{when}']:.4f}", out)
        training = self.members("training-24")
        self.assertLess(len(set(training)), len(training), "a class must be short, so that light curves repeat")
        self.assertEqual(result["curves"], len(set(training)))
        self.assertEqual(result["windows_seen"], 4 * len(set(training)))
        self.assertEqual((result["epochs"], result["test_curves"]), (4, len(self.members("test"))))
        epochs = self.log("run", "epoch")
        self.assertEqual(result["best_epoch"], min(epochs, key=lambda line: line["val_rmse"])["epoch"])
        seconds = sum(line["seconds"] + line["validation_seconds"] for line in epochs)
        self.assertAlmostEqual(result["minutes"], seconds / 60, delta=1e-6)
        self.assertEqual(sorted(path.name for path in (self.folder / "run").iterdir()),
                         ["best.h5", "config.yaml", "finetune.json", "log.jsonl"])
        with h5py.File(self.folder / "run" / "best.h5") as file:
            text = file["config"][()]
            self.assertIn("blocks: 2", text.decode() if isinstance(text, bytes) else str(text))

    def test_what_is_finished_is_left_alone(self):
        first = self.finetune("run", "--json").out
        self.assertEqual(first, (self.folder / "run" / "finetune.json").read_text())
        before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (self.folder / "run").iterdir()}
        self.assertEqual(self.finetune("run", "--json", ranks=2).out, first)
        self.assertIn("finished already", self.finetune("run", "checkpoint.keep=2").out)
        self.assertEqual(before, {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (self.folder / "run").iterdir()})
        self.assertIn("train.learning_rate=0.001, not 0.01", self.refusal("run", settings=["train.learning_rate=1e-2", *SETTINGS[1:]]))
        self.assertIn("data.fold=1, not 0", self.refusal("run", fold=0))
        self.assertIn("windows of a light curve", self.refusal("run", "--windows-per-curve", 1))
        self.train("other", "data.survey=first", "train.steps=4", "train.seed=9")
        shutil.copy(self.folder / "other" / "best.h5", self.folder / "start" / "best.h5")
        self.assertIn("has other weights", self.refusal("run", status=1))
        changed = self.survey_where("changed", self.members("test")[:1], lambda magnitude: magnitude + 1)
        self.assertIn("other light curves", self.refusal("run", survey=changed, status=1))


class OnlyTheFold(Finetuning):
    def test_other_light_curves_play_no_part(self):
        """Magnitudes that no sum survives, in all light curves but the fold's; then in its test light curves alone."""
        sets = {name: set(self.members(name)) for name in ("training-24", "validation", "test")}
        with_all = set().union(*sets.values())
        everyone = set()
        for path in (self.folder / "survey").glob("*.h5"):
            with h5py.File(path) as file:
                everyone |= {i.decode() if isinstance(i, bytes) else i for i in file["id"][:]}
        self.assertGreater(len(everyone - with_all), 20)
        burst = lambda magnitude: np.where(np.arange(len(magnitude)) % 2, np.float32(2e38), np.float32(-2e38))
        self.finetune("clean")
        self.finetune("others", survey=self.survey_where("no others", everyone - with_all, burst))
        self.finetune("tests", survey=self.survey_where("other tests", sets["test"], lambda magnitude: magnitude * 2))
        for run in ("others", "tests"):
            self.assert_close(self.folder / run / "best.h5", self.folder / "clean" / "best.h5", 0)
            np.testing.assert_array_equal(self.losses(run), self.losses("clean"))
            self.assertEqual(*([line["val_rmse"] for line in self.log(name, "epoch")] for name in (run, "clean")))
        same = {"rmse_before", "rmse_after", "r2_before", "r2_after", "unmasked_before", "unmasked_after", "best_epoch"}
        clean, others = self.result("clean"), self.result("others")
        self.assertEqual({key: clean[key] for key in same}, {key: others[key] for key in same})
        self.assertNotAlmostEqual(clean["rmse_after"], self.result("tests")["rmse_after"], places=3)
        one = self.survey_where("one other", sorted(sets["training-24"])[:1], lambda magnitude: magnitude * 2)
        self.finetune("one", survey=one)
        self.assertGreater(np.abs(self.losses("one") - self.losses("clean")).max(), 1e-4)
        self.assertEqual(self.result("one")["rmse_before"], clean["rmse_before"])

    def test_ranks_change_nothing(self):
        for ranks in (1, 2, 3):
            self.finetune(f"on{ranks}", ranks=ranks)
            np.testing.assert_allclose(self.losses(f"on{ranks}"), self.losses("on1"), rtol=1e-5)
            for key, value in self.result(f"on{ranks}").items():
                if isinstance(value, float) and key != "minutes":
                    self.assertAlmostEqual(value, self.result("on1")[key], delta=1e-4, msg=key)
                elif key != "minutes":
                    self.assertEqual(value, self.result("on1")[key], key)


class Restarts(Finetuning):
    LONG = ("train.batch=1", "train.epochs=10")

    def test_a_killed_one_goes_on(self):
        settings = [word for word in SETTINGS if not word.startswith(("train.batch", "train.epochs"))] + list(self.LONG)
        run = Background(self, *self.order("run", "checkpoint.every_seconds=1e-9", settings=settings))
        checkpoints = self.folder / "run" / "checkpoints"
        run.stop_when(lambda: any(int(path.stem[5:]) > 60 for path in checkpoints.glob("step-????????.h5")))
        run.kill()
        self.assertFalse((self.folder / "run" / "finetune.json").exists(), "it was over before it could be killed")
        self.assertIn("train.batch=1, not 2", self.refusal("run", settings=[*settings[:-2], "train.batch=2", settings[-1]]))
        self.train("other", "data.survey=first", "train.steps=4", "train.seed=9")
        shutil.copytree(self.folder / "start", self.folder / "kept")
        shutil.copy(self.folder / "other" / "best.h5", self.folder / "start" / "best.h5")
        self.assertIn("has other weights", self.refusal("run", settings=settings, status=1))
        shutil.copy(self.folder / "kept" / "best.h5", self.folder / "start" / "best.h5")
        self.finetune("run", settings=settings)
        self.assertGreater(self.log("run", "start")[-1]["step"], 60)
        self.finetune("whole", settings=settings)
        self.assert_close(self.folder / "run" / "best.h5", self.folder / "whole" / "best.h5", 0)
        ended, whole = self.result("run"), self.result("whole")
        self.assertEqual({**ended, "minutes": 0}, {**whole, "minutes": 0})

    def test_a_signal_stops_it_and_the_same_command_goes_on(self):
        settings = ["train.batch=1", "train.epochs=100000", *SETTINGS[3:], "train.patience=0"]
        run = Background(self, *self.order("run", settings=settings))
        log = self.folder / "run" / "log.jsonl"
        run.wait_until(lambda: log.exists() and '"event": "step"' in log.read_text())
        run.signal(signal.SIGTERM)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertIn("stopped by SIGTERM, start the same command again", run.text())
        self.assertFalse((self.folder / "run" / "finetune.json").exists())
        step = self.log("run", "end")[-1]["step"]
        self.finetune("run", "train.time_limit_seconds=0.01", settings=settings)
        self.assertEqual(self.log("run", "start")[-1]["step"], step)


class Refused(Finetuning):
    def test_mistakes(self):
        for word in ("model.blocks=3", "masking.probed=0.3", "loss.weighted=false", "data.window=20", "data.survey=first", "run.dir=x",
                     "data.validation=0.3", "data.samples=3"):
            self.assertIn(f"{word.partition('=')[0]} cannot be given here", self.refusal("run", word))
        self.assertIn("--checkpoint", self.refusal("run", "train.start=first"))
        self.assertIn("train.epochs", self.refusal("run", "train.epoch=3"))
        self.write("model.yaml", "train: {batch: 4}\nmodel: {width: 32}\n")
        self.assertIn("model.yaml:2: model.width cannot be given here", self.refusal("run", "--config", "model.yaml"))
        self.assertIn("there is no fold 2", self.refusal("run", fold=2))
        self.assertIn("5 samples", self.refusal("run", samples=5, status=1))
        self.assertIn("another survey", self.refusal("run", survey="first", status=1, ranks=2))
        self.assertIn("nosuch.h5", self.refusal("run", folds="nosuch.h5", status=1))
        self.assertIn("nosuch.h5", self.refusal("run", start="nosuch.h5", status=1))
        self.assertIn("survey/shard-00000", self.refusal("run", start="survey/shard-00000-of-00003.h5", status=1))
        self.assertIn("was made with", self.refusal("start"))
        self.assertFalse((self.folder / "run" / "finetune.json").exists())
        self.write("good.yaml", "train: {epochs: 1}\n")
        settings = [word for word in SETTINGS if not word.startswith("train.epochs")]
        self.finetune("run", "--config", "good.yaml", settings=settings)
        self.assertEqual(self.result("run")["epochs"], 1)

    def test_pretrain_takes_folds_and_a_start_as_well(self):
        words = ("data.survey=survey", "data.folds=folds.h5", "data.fold=0", "data.samples=3", "train.start=start/best.h5")
        self.train("run", *words, "train.steps=2", "train.learning_rate=1e-20")
        self.assertEqual(self.log("run", "start")[0]["training_curves"], len(set(self.members("training-3", 0))))
        one, other = (parameters(self.folder / name / "best.h5") for name in ("run", "start"))
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=1e-12)
        self.assertIn("model.ffn", self.train("model", *words, "model.ffn=8", status=2).message)
        self.assertIn("data.samples", self.train("none", *words[:3], status=2).message)
        self.assertIn("was trained on fold 0 of folds.h5",
                      self.expect(2, "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey", "--subset", "validation").message)


if __name__ == "__main__":
    main()
