# SPDX-License-Identifier: MIT
"""Shows that every head and baseline tells apart stars that can be told apart, and that none does when the
labels are shuffled; that an experiment gives the same cells on any number of ranks, goes on where it stopped and refuses another
experiment's folder; that classify says the same on one rank and on two, with an encoder that trains along too."""
import json
import random
import unittest

import h5py
import numpy as np

from harness import CommandLineTest, main

HEADS = ["skip", "avg", "max", "att_avg", "att_cls", "base_avgpool", "base_gru", "raw_gru"]
CLASSES = {"fast": (0.3, 0.05), "slow": (6.0, 0.5), "rare": (90.0, 2.0)}  # days between observations, amplitude
RUN = """
data: {survey: survey, validation: 0, test: 0.5, window: 24}
model: {blocks: 2, heads: 2, width: 16, ffn: 16}
train: {batch: 16, epochs: 6, learning_rate: 1e-3}
run: {dir: run}
device: cpu
threads: 1
"""
EXPERIMENT = """
experiment:
  dir: deep/results
  checkpoint: run/best.h5
  surveys: survey
  samples: 24
  folds: 2
  test: 30
  validation: 10
  least: 20
  unseen: true
  heads: %s
train: {batch: 16, epochs: 1, learning_rate: 1e-4}
classify: {epochs: 40, patience: 25, batch: 12}
device: cpu
threads: 1
"""
MEMBERS = {"survey", "samples", "fold", "head", "encoder", "macro_f1", "accuracy", "star_macro_f1", "star_accuracy", "epochs",
           "best_epoch", "seconds", "windows_test", "stars_test"}


class Classify(CommandLineTest):
    def make_survey(self, stars=360, shuffled=False):
        draw = random.Random(5)
        lines, labels = ["id,mjd,mag,err"], ["id,class"]
        for star in range(stars):
            name = list(CLASSES)[star % 3]
            step, amplitude = CLASSES[name]
            period, phase, time = draw.uniform(3, 6) * step, draw.random(), 50000.0
            for _ in range(draw.randint(18, 24)):
                time += step * draw.uniform(0.5, 1.5)
                magnitude = 15 + amplitude * np.sin(2 * np.pi * (time / period + phase)) + draw.gauss(0, 0.01)
                lines.append(f"s{star},{time:.4f},{magnitude:.4f},0.02")
            labels.append(f"s{star},{draw.choice(list(CLASSES)) if shuffled else name}")
        self.write("curves.csv", "\n".join(lines) + "\n")
        self.write("labels.csv", "\n".join(labels) + "\n")
        self.expect(0, "ingest", "--out", "survey", "--filter", "off", "--labels", "labels.csv", "--shards", 4, "curves.csv")
        self.write("run.yaml", RUN)
        self.expect(0, "pretrain", "--config", "run.yaml")

    def lines(self, path="deep/results/results.jsonl"):
        return {(line["fold"], line["head"]): line for line in map(json.loads, (self.folder / path).read_text().splitlines())}

    def test_what_can_be_told_apart_is(self):
        self.make_survey()
        self.write("experiment.yaml", EXPERIMENT % ", ".join(HEADS))
        result = self.expect(0, "experiment", "experiment.yaml", ranks=2)
        lines = self.lines()
        self.assertEqual(set(lines), {(fold, head) for fold in range(2) for head in HEADS})
        for (fold, head), line in lines.items():
            self.assertEqual(set(line), MEMBERS)
            self.assertGreater(line["macro_f1"], 0.9, f"{head} in fold {fold}: {line}")
        table = (self.folder / "deep/results/table.txt").read_text()
        self.assert_in(table.strip(), result.out)
        mean = np.mean([lines[fold, "skip"]["macro_f1"] for fold in range(2)])
        self.assertRegex(table, rf"skip +{mean:.3f} \+- ")
        self.check_cell("deep/results/survey/fold1-n24/skip.h5", lines[1, "skip"])
        said = self.expect(0, "info", "deep/results/survey/fold1-n24/skip.h5").out
        self.assert_in("skip, encoder: frozen", said)
        self.assert_in(f"{lines[1, 'skip']['macro_f1']:.4f} over windows", said)
        self.goes_on_where_it_stopped()

    def check_cell(self, path, line):
        with h5py.File(self.folder / path) as file, h5py.File(self.folder / "deep/results/survey/folds.h5") as folds:
            probability, label = file["window/probability"][:], file["window/label"][:]
            np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
            np.testing.assert_array_equal(probability.argmax(1), file["window/prediction"][:])
            star = file["window/star"][:]
            means = np.array([probability[star == s].mean(0) for s in range(star.max() + 1)])
            np.testing.assert_allclose(means, file["star/probability"][:], atol=1e-5)
            np.testing.assert_array_equal(file["star/label"][:][star], label)
            truth = [(label == c) for c in range(3)]
            said = [(probability.argmax(1) == c) for c in range(3)]
            f1 = [2 * np.sum(t & p) / (t.sum() + p.sum()) for t, p in zip(truth, said)]
            self.assertAlmostEqual(np.mean(f1), line["macro_f1"], places=6)
            np.testing.assert_array_equal(file["confusion"][:], [[np.sum(t & p) for p in said] for t in truth])
            self.assertAlmostEqual(float(file["gamma"][:].sum()), 1, places=5)
            self.assertEqual(len(file["gamma"]), 3)
            test = [name for name in folds["id"][:][folds["fold1/test"][:]]]
            self.assertEqual(sorted(file["star/id"][:]), sorted(test))

    def goes_on_where_it_stopped(self):
        folder = self.folder / "deep/results/survey"
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.h5")}
        gone = folder / "fold0-n24/skip.h5"
        losses = h5py.File(gone)["history/validation_loss"][:]
        gone.unlink()
        (folder / "fold1-n24/max.h5").write_bytes(b"half a file")
        result = self.expect(0, "experiment", "experiment.yaml")
        self.assertEqual(len([line for line in result.out.splitlines() if " macro F1 0." in line or " macro F1 1." in line]), 2)
        np.testing.assert_allclose(h5py.File(gone)["history/validation_loss"][:][:5], losses[:5], rtol=1e-3)
        same = [path for path, time in before.items() if path.stat().st_mtime_ns == time]
        self.assertEqual(len(before) - len(same), 2)
        refused = self.expect(2, "experiment", "experiment.yaml", "classify.learning_rate=1e-2")
        self.assert_in("was begun with classify.learning_rate=0.001, not 0.01", refused.message)
        self.expect(0, "experiment", "experiment.yaml", "experiment.heads=raw_gru")
        self.assertEqual({head for _, head in self.lines("deep/results/results.jsonl")}, set(HEADS))
        table = (self.folder / "deep/results/table.txt").read_text()
        self.assertRegex(table, r"\nskip +0\.9|\nskip +1\.0")
        (self.folder / "run/best.h5").rename(self.folder / "run/better.h5")
        self.expect(0, "pretrain", "--config", "run.yaml", "run.dir=other", "train.seed=3")
        (self.folder / "other/best.h5").rename(self.folder / "run/best.h5")
        self.assert_in("has other weights", self.expect(1, "experiment", "experiment.yaml").message)

    def test_shuffled_labels_teach_nothing(self):
        self.make_survey(shuffled=True)
        self.write("experiment.yaml", EXPERIMENT % ", ".join(HEADS))
        self.expect(0, "experiment", "experiment.yaml", "experiment.finetune=false", "experiment.folds=1", "classify.epochs=15", ranks=2)
        for (fold, head), line in self.lines().items():
            chance = 1 / 3
            self.assertLess(line["star_accuracy"], chance + 4 * (chance * (1 - chance) / line["stars_test"]) ** 0.5, f"{head}: {line}")

    def classify(self, *words, ranks=None):
        result = self.expect(0, "classify", "--survey", "survey", "--folds", "folds.h5", "--samples", 12, "--json", *words,
                             "classify.epochs=4", "classify.batch=20", "device=cpu", "threads=1", ranks=ranks)
        return json.loads(result.out)

    def test_ranks_make_no_difference(self):
        self.make_survey(stars=150)
        self.expect(0, "folds", "--survey", "survey", "--out", "folds.h5", "--folds", 1, "--samples", 12, "--test", 8, "--validation", 8,
                    "--least", 9)
        for head, *words in (["skip", "--train-encoder"], ["att_cls"], ["att_avg", "--train-encoder"], ["raw_gru"]):
            history = []
            for ranks in (None, 2, 3):
                encoder = [] if head == "raw_gru" else ["--checkpoint", "run/best.h5"]
                line = self.classify("--head", head, *words, *encoder, "--out", f"{head}.h5", ranks=ranks)
                self.assertEqual(line["encoder"], "none" if head == "raw_gru" else "trained" if words else "frozen")
                with h5py.File(self.folder / f"{head}.h5") as file:
                    history.append(np.concatenate([file["history/training_loss"][:], file["history/validation_loss"][:]]))
            for other in history[1:]:
                np.testing.assert_allclose(other, history[0], rtol=1e-3, err_msg=head)

    def test_what_cannot_be_is_refused(self):
        self.make_survey(stars=90)
        self.expect(0, "folds", "--survey", "survey", "--out", "folds.h5", "--folds", 1, "--samples", 5, "--test", 5, "--validation", 5,
                    "--least", 9)
        words = ["classify", "--survey", "survey", "--folds", "folds.h5"]
        self.assert_in("give --checkpoint", self.expect(2, *words, "--samples", 5, "--head", "skip").message)
        self.assert_in("no encoder to train", self.expect(2, *words, "--samples", 5, "--head", "raw_gru", "--train-encoder").message)
        self.assert_in("samples", self.expect(1, *words, "--samples", 6, "--head", "raw_gru").message)
        self.assert_in("counted from 0", self.expect(2, *words, "--samples", 5, "--fold", 1, "--head", "raw_gru").message)
        skip = [*words, "--samples", 5, "--head", "skip", "--checkpoint", "run/best.h5", "classify.epochs=2"]
        for path in ("run/best.h5", "folds.h5", "survey/shard-00001-of-00004.h5"):
            kept = (self.folder / path).read_bytes()
            self.assert_in(f"--out {path} would overwrite {path}", self.expect(2, *skip, "--out", path, ranks=2).message)
            self.assertEqual((self.folder / path).read_bytes(), kept)
        self.assert_in("nosuch/p.h5.partial: cannot be written", self.expect(1, *skip, "--out", "nosuch/p.h5", ranks=2).message)
        with open("/dev/full", "w") as full:
            self.assert_in("standard output", self.expect(1, *skip, "--json", stdout=full).message)
        refused = self.expect(2, *words, "--samples", 5, "--head", "skip", "--checkpoint", "run/best.h5", "model.width=8")
        self.assert_in("the rest is the checkpoint's", refused.message)
        self.write("experiment.yaml", EXPERIMENT % "skip, raw_gur")
        self.assert_in("did you mean raw_gru?", self.expect(2, "experiment", "experiment.yaml").message)
        self.write("experiment.yaml", EXPERIMENT % "skip")
        self.assert_in("experiment.surveys", self.expect(2, "experiment", "experiment.yaml", "experiment.surveys=").message)
        for word, message in (("train.time_limit_seconds=9", "stop an experiment with Ctrl-C"), ("train.start=x", "train.start"),
                              ("model.width=8", "model.width cannot be given here: it is what experiment.checkpoint has"),
                              ("data.survey=survey", "data.survey cannot be given here")):
            self.assert_in(message, self.expect(2, "experiment", "experiment.yaml", word).message)
        self.assertFalse((self.folder / "deep").exists())

    def test_what_an_experiment_cannot_do_is_said_first(self):
        self.make_survey(stars=90)
        self.write("experiment.yaml", EXPERIMENT % "skip, att_cls")
        words = ["experiment", "experiment.yaml", "experiment.samples=5", "experiment.test=5", "experiment.validation=5",
                 "experiment.least=9", "experiment.unseen=false"]
        refused = self.expect(1, *words, "data.memory_gb=1e-5")
        self.assert_in("head att_cls keeps every step of", refused.message)
        self.assertEqual(list((self.folder / "deep/results/survey").glob("fold*-n*")), [])
        self.assert_in("folds.h5: is not of experiment.folds", self.replaced_folds(words).message)
        self.expect(0, *words, "experiment.dir=limited", "experiment.heads=skip", "train.steps=2", "train.batch=4", "experiment.folds=1")
        self.assertEqual(json.loads((self.folder / "limited/survey/fold0-n5/finetune/finetune.json").read_text())["windows_seen"], 8)

    def replaced_folds(self, words):
        path = self.folder / "deep/results/survey/folds.h5"
        path.unlink()
        self.expect(0, "folds", "--survey", "survey", "--out", path, "--folds", 3, "--samples", 5, "--test", 5, "--validation", 5,
                    "--least", 9)
        return self.expect(2, *words)


if __name__ == "__main__":
    main()
