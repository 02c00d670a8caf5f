# SPDX-License-Identifier: MIT
"""Shows that tools/outside-baselines finds known periods in spite of gaps and day aliases, that its classifiers learn what can be
learned and nothing else, and that what they do on a test star depends on no other test star. Exit status 77: a library is missing."""
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import subprocess
import sys
import unittest.mock

import h5py
import numpy as np
from harness import ROOT, CommandLineTest, main

if missing := [name for name in ("astropy", "sklearn") if importlib.util.find_spec(name) is None]:
    print(f"not here: {', '.join(missing)}")
    sys.exit(77)
sys.path.insert(0, str(ROOT / "tools"))
import outsideclassifiers  # noqa: E402
import starfeatures  # noqa: E402
import surveyfiles  # noqa: E402
from outsideclassifiers import HEADS, Cell, input_of  # noqa: E402

TOOL = ROOT / "tools" / "outside-baselines"
NAMES = starfeatures.NAMES
CLASSES = ["Cep_0", "Cep_1", "EC", "LPV", "RRab", "RRc"]


def load_tool():
    loader = importlib.machinery.SourceFileLoader("outside_baselines", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def nights(random, count, days=2000):
    """Times of a star that one site sees at most once a night, two thirds of each year."""
    night = np.sort(random.choice(np.flatnonzero(np.arange(days) % 365 < 240), count, replace=False))
    return 52000.7 + night + random.normal(0, 0.04, count)


def found(*curve):
    return dict(zip(NAMES, starfeatures.features(*curve)))


class Features(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.random = np.random.default_rng(3)

    def curve(self, period, harmonics=(1.0,), noise=0.1, count=300):
        time = nights(self.random, count)
        turns = 2 * np.pi * (time / period + self.random.uniform())
        signal = sum(weight * np.sin((k + 1) * turns) for k, weight in enumerate(harmonics))
        return time, 14 + signal + self.random.normal(0, noise, len(time)), np.full(len(time), noise)

    def test_periods_are_found(self):
        periods = (0.0731, 0.2913, 0.5701, 0.9331, 1.0731, 3.377, 29.77)
        # With the last shape a sine alone finds half the period; a slow star of it is left out, whose many aliases hide the whole one.
        for harmonics, also in (((0.3,), (331.0,)), ((0.3, 0.15, 0.1, 0.07), (331.0,)), ((0.25, 0.3, 0.12), ())):
            for period in periods + also:
                time, magnitude, error = self.curve(period, harmonics)
                got = found(time, magnitude, error)
                off = abs(10 ** -got["log_period"] - 1 / period)
                self.assertLess(off, 0.2 / (time[-1] - time[0]), f"{period} d, not {10 ** got['log_period']} d")
                self.assertGreater(got["power"], 0.2)

    def test_slow_variation_is_not_taken_for_its_alias(self):
        """Seen at nearly the same hour of every night, 1 / 250 and 1 + 1 / 250 cycles a day are all but the same."""
        for period, slow in ((1 / 1.004, 250), (1 / 1.996, 250), (1 / 1.03, 1 / 1.03)):
            time, magnitude, error = self.curve(period)
            got = 10 ** -found(time, magnitude, error)["log_period"]
            self.assertLess(abs(got - 1 / slow), 0.2 / (time[-1] - time[0]) + 0.0002 * (slow > 1), f"{period} d became {1 / got} d")

    def test_the_shape_is_that_of_the_curve(self):
        time, magnitude, error = self.curve(0.61, (0.4, 0.2, 0.1), noise=0.005)
        got = found(time, magnitude, error)
        for name, value in (("harmonic_amplitude", 0.4), ("harmonic_ratio_2", 0.5), ("harmonic_ratio_3", 0.25), ("harmonic_ratio_4", 0),
                            ("mean", 14), ("unexplained_share", 0), ("folded_eta", 0)):
            self.assertAlmostEqual(got[name], value, delta=0.03, msg=name)
        # Two eclipses of different depth come out at half their period or at the whole, and then say so.
        phase = time / 2.83 % 1
        eclipses = 0.8 * np.exp(-((phase - 0.3) / 0.05) ** 2) + 0.4 * np.exp(-((phase - 0.8) / 0.05) ** 2)
        got = found(time, 12 + eclipses + self.random.normal(0, 0.01, len(time)), error)
        half = abs(10 ** got["log_period"] / 1.415 - 1) < 1e-3
        self.assertTrue(half or abs(10 ** got["log_period"] / 2.83 - 1) < 1e-3, 10 ** got["log_period"])
        self.assertTrue(not half or got["double_gain"] > 0.3)

    def test_what_noise_and_lines_give(self):
        time, error = nights(self.random, 500), np.full(500, 0.1)
        slow = len(np.unique((time - time[0]) // 30)) / len(time)
        got = found(time, 15 + self.random.normal(0, 0.1, len(time)), error)
        for name, value, within in (("skewness", 0, 0.4), ("kurtosis", 0, 0.7), ("stetson_k", 0.798, 0.05), ("log_chi2", 0, 0.1),
                                    ("beyond_1_std", 0.317, 0.08), ("von_neumann_eta", 2, 0.3), ("standard_deviation", 0.1, 0.02),
                                    ("median_absolute_deviation", 0.0674, 0.015), ("amplitude", 0.164, 0.03), ("slow_share", slow, slow)):
            self.assertAlmostEqual(got[name], value, delta=within, msg=name)
        self.assertLess(got["power"], 0.15)
        got = found(time, 15 + 0.001 * (time - time[0]), error)
        self.assertAlmostEqual(got["linear_trend"], 0.001, delta=1e-6)
        self.assertAlmostEqual(got["linear_trend_share"], 1, delta=1e-6)
        self.assertGreater(got["slow_share"], 0.99)

    def test_zero_points_do_not_matter(self):
        time, magnitude, error = self.curve(2.345, (0.3, 0.1))
        first = starfeatures.features(time, magnitude, error)
        np.testing.assert_allclose(starfeatures.features(time + 1234.5, magnitude, error), first, rtol=1e-4, atol=1e-6)
        fainter = starfeatures.features(time, magnitude + 2.5, error)
        moved = {name for name, one, other in zip(NAMES, first, fainter) if abs(one - other) > 1e-6 * max(1, abs(one))}
        self.assertEqual(moved, {"mean", "weighted_mean"})

    def test_poor_light_curves(self):
        time, error = np.arange(40.0), np.full(40, 0.1)
        for what, curve in (("one", (time[:1], error[:1], error[:1])), ("few", (time[:5], np.arange(5.0), error[:5])),
                            ("no variation", (time, error, error)), ("no span", (np.zeros(40), np.arange(40.0), error)),
                            ("doubled times", (np.repeat(time[:20], 2), np.sin(time), error))):
            vector = starfeatures.features(*curve)
            self.assertEqual(vector.shape, (len(NAMES),), what)
            self.assertFalse(np.isinf(vector).any(), what)
            self.assertTrue(np.isfinite(vector[0]), what)


def write_folds(path, survey_id, ids, labels, samples, folds=2, planted=None):
    """A folds file as src/survey/folds.h has it: of each class 5 stars to validate with, as many to learn from, the rest to test."""
    random = np.random.default_rng(5)
    with h5py.File(path, "w") as file:
        file.attrs.update({"format_version": 1, "kind": "folds", "survey_id": survey_id, "survey": "made", "seed": 0, "folds": folds,
                           "samples": np.array(samples), "classes": np.array(CLASSES, dtype="S5")})
        kept = random.permutation(len(ids))  # the table is in an order of its own
        label = np.asarray(labels)[kept].astype(np.int32)
        file["curve"], file["label"] = kept.astype(np.int64), label
        file["id"] = np.array([ids[c].encode() for c in kept])
        for k in range(folds):
            rows = [random.permutation(np.flatnonzero(label == c)) for c in range(len(CLASSES))]
            test = np.concatenate([r[5 + max(samples):] for r in rows])
            file[f"fold{k}/test"], file[f"fold{k}/validation"] = test, np.concatenate([r[:5] for r in rows])
            for n in samples:
                training = np.concatenate([r[5:5 + n] for r in rows])
                if planted == (k, n):
                    training[0] = test[-1]
                file[f"fold{k}/training-{n}"] = training


def write_embedding(path, survey_id, ids, vectors, spoiled=None):
    """Of one to three windows a star, whose mean is the star's vector; vectors: stars x blocks x width."""
    random, rows, first = np.random.default_rng(6), [], [0]
    for c, vector in enumerate(vectors):
        windows = c % 3 + 1 if c != spoiled else 0
        noise = random.normal(0, 3, (windows, *vector.shape))
        rows.append(vector + noise - noise.mean(axis=0) if windows else noise)
        first.append(first[-1] + windows)
    with h5py.File(path, "w") as file:
        file.attrs.update({"format_version": 1, "survey_id": survey_id, "survey": "made"})
        file["blocks"] = np.concatenate(rows).astype(np.float32)
        file["embedding"], file["first_window"] = file["blocks"][:, -1], np.array(first)
        file["id"] = np.array([i.encode() for i in ids])


class Classifiers(CommandLineTest):
    """On made stars whose classes only the input of the first block tells apart, or on those of synth."""

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(8)
        self.ids, self.labels = [f"s{i}" for i in range(240)], np.arange(240) % 6
        self.vectors = random.normal(0, 1, (240, 3, 8))
        self.vectors[:, 0] += 4 * random.normal(0, 1, (6, 8))[self.labels]
        write_embedding(self.folder / "e.h5", "one", self.ids, self.vectors)
        write_folds(self.folder / "folds.h5", "one", self.ids, self.labels, (5, 15))

    def tool(self, status, *words):
        """Runs the tool within this process, which has the libraries loaded; returns what it prints, or its message."""
        out, err, program = io.StringIO(), io.StringIO(), load_tool()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(self.folder), \
                unittest.mock.patch.object(sys, "argv", [str(TOOL), *map(str, words)]):
            try:
                program.main()
                code = 0
            except surveyfiles.FileError as failure:
                code, message = 1, str(failure)
            except SystemExit as failure:
                code, message = failure.code, err.getvalue()
        self.assertEqual(code, status, message if code else out.getvalue())
        return message if status else out.getvalue()

    def process(self, status, *words):
        done = subprocess.run(["/usr/bin/python3", str(TOOL), *map(str, words)], cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), status, done.stderr)

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def few_trees(self, trees=30):
        self.addCleanup(setattr, outsideclassifiers, "TREES", outsideclassifiers.TREES)
        outsideclassifiers.TREES = trees

    def tables(self, folds, head):
        if input_of(head) == "features":
            table = self.vectors[folds.curve].reshape(len(folds.curve), -1)
            table[::7, 3] = np.nan
            return {"features": table}
        return {part: surveyfiles.star_embeddings(self.folder / "e.h5", folds, part) for part in ("last", "blocks")}

    def test_a_star_is_the_mean_of_its_windows(self):
        folds = surveyfiles.Folds(self.folder / "folds.h5")
        last, blocks = (surveyfiles.star_embeddings(self.folder / "e.h5", folds, part) for part in ("last", "blocks"))
        np.testing.assert_allclose(blocks, self.vectors[folds.curve].reshape(240, -1), atol=1e-5)
        np.testing.assert_allclose(last, self.vectors[folds.curve, 2], atol=1e-5)

    def test_each_learns_what_is_there_and_nothing_else(self):
        self.few_trees()
        random = np.random.default_rng(1)
        write_folds(self.folder / "shuffled.h5", "one", self.ids, random.permutation(self.labels), (15,))
        folds, shuffled = (surveyfiles.Folds(self.folder / name) for name in ("folds.h5", "shuffled.h5"))
        for head in HEADS:
            cell = Cell(head, self.tables(folds, head), folds, 0, 15)
            self.assertGreater(cell.macro_f1, 0.9, head)
            self.assertEqual(cell.chosen["input"], "features" if head == "forest_features" else "blocks")
            chance = [Cell(head, self.tables(shuffled, head), shuffled, k, 15) for k in range(2)]
            for wrong in ("macro_f1", "accuracy"):
                self.assertLess(np.mean([getattr(cell, wrong) for cell in chance]), 1 / 6 + 0.12, f"{head}: {wrong}")

    def test_no_test_star_has_a_say(self):
        """Half of the test stars become others, with other labels: what is said of the other half must not change."""
        self.few_trees()
        folds, spoiled = surveyfiles.Folds(self.folder / "folds.h5"), surveyfiles.Folds(self.folder / "folds.h5")
        changed, same = folds.test[0][::2], np.arange(len(folds.test[0])) % 2 == 1
        spoiled.label[changed] = (spoiled.label[changed] + 1) % 6
        for head in HEADS:
            tables = self.tables(folds, head)
            others = {name: table.copy() for name, table in tables.items()}
            for table in others.values():
                table[changed] = np.random.default_rng(2).normal(0, 50, table[changed].shape)
            one, other = Cell(head, tables, folds, 0, 5), Cell(head, others, spoiled, 0, 5)
            self.assertEqual(one.chosen, other.chosen, head)
            np.testing.assert_array_equal(one.probability[same], other.probability[same], head)
            self.assertLess(other.macro_f1, one.macro_f1, head)

    def test_classify_writes_lines_results_and_a_table(self):
        words = ("classify", "--folds", "folds.h5", "--embedding", "e.h5", "--heads", "knn_embedding", "logistic_embedding", "--out")
        out = self.tool(0, *words, "r.jsonl", "--results", "kept")
        lines = self.lines("r.jsonl")
        self.assertEqual([(line["fold"], line["samples"], line["head"]) for line in lines],
                         [(k, n, head) for k in range(2) for n in (5, 15) for head in ("knn_embedding", "logistic_embedding")])
        for line in lines:
            with h5py.File(self.folder / f"kept/fold{line['fold']}-n{line['samples']}/{line['head']}.h5") as file:
                confusion, labels = file["star_confusion"][:], [self.labels[int(i[1:])] for i in file["star/id"][:]]
                np.testing.assert_array_equal(file["star/label"][:], labels)
                np.testing.assert_array_equal(file["star/prediction"][:], file["star/probability"][:].argmax(axis=1))
            f1 = np.mean(2 * np.diag(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1)))
            self.assertAlmostEqual(line["star_macro_f1"], f1, delta=1e-9)
            self.assertAlmostEqual(line["star_accuracy"], np.trace(confusion) / confusion.sum(), delta=1e-9)
            self.assertEqual((line["stars_test"], line["encoder"], line["macro_f1"]), (confusion.sum(), "frozen", None))
        f1 = [line["star_macro_f1"] for line in lines if line["samples"] == 15 and line["head"] == "knn_embedding"]
        self.assert_in(f"{np.mean(f1):.3f} ± {np.std(f1, ddof=1):.3f}", out)
        self.assertEqual(self.tool(0, "table", "r.jsonl"), out)
        self.tool(0, *words, "again.jsonl", "--jobs", "1")
        again = self.lines("again.jsonl")
        self.assertEqual([{**line, "seconds": 0} for line in lines], [{**line, "seconds": 0} for line in again])

    def test_wrong_files_are_refused(self):
        classify = ("classify", "--heads", "knn_embedding", "--out", "r.jsonl")
        for k, n in ((0, 15), (1, 5)):
            write_folds(self.folder / "planted.h5", "one", self.ids, self.labels, (5, 15), planted=(k, n))
            error = self.tool(1, *classify, "--folds", "planted.h5", "--embedding", "e.h5")
            self.assert_in(f"is in fold{k}/test and in fold{k}/training-{n}", error)
        write_embedding(self.folder / "foreign.h5", "another", self.ids, self.vectors)
        write_embedding(self.folder / "order.h5", "one", self.ids[::-1], self.vectors)
        write_embedding(self.folder / "none.h5", "one", self.ids, self.vectors, spoiled=7)
        self.write("text.h5", "words")
        with h5py.File(self.folder / "bare.h5", "w"):
            pass
        for path, message in (("foreign.h5", "of another survey"), ("order.h5", "are not those"), ("none.h5", "star s7 has no window"),
                              ("nothing.h5", "no such file"), ("text.h5", "no whole HDF5 file"), ("bare.h5", "not as it should be")):
            self.assert_in(message, self.tool(1, *classify, "--folds", "folds.h5", "--embedding", path))
        self.assert_in("is no folds file", self.tool(1, *classify, "--folds", "e.h5", "--embedding", "e.h5"))
        self.tool(2, *classify, "--folds", "folds.h5", "--features", "e.h5")
        self.process(1, *classify, "--folds", "nothing.h5", "--embedding", "e.h5")

    def test_the_whole_way_on_made_stars(self):
        self.expect(0, "synth", "--out", "survey", "--curves", 120, "--shards", 3, "--seed", 4)
        self.process(0, "features", "--survey", "survey", "--out", "f.h5", "--jobs", "2")
        with h5py.File(self.folder / "f.h5") as file:
            table, labels, names = file["features"][:], file["label"][:], [name.decode() for name in file.attrs["names"]]
        last = [*surveyfiles.curves_of_shard(self.folder / "survey" / "shard-00002-of-00003.h5", 0, 40)][-1]
        np.testing.assert_array_equal(table[-1], starfeatures.features(*last))
        for name, low, high in (("RRab", 0.45, 0.8), ("RRc", 0.25, 0.4), ("Cep_0", 1.5, 32), ("LPV", 80, 600)):
            period = 10 ** table[labels == CLASSES.index(name), names.index("log_period")]
            self.assertGreater(np.mean((period > low) & (period < high)), 0.7, f"{name}: {np.sort(period)}")
        self.expect(0, "folds", "--survey", "survey", "--out", "f-folds.h5", "--folds", 1, "--samples", 8, "--test", 8,
                    "--validation", 4, "--least", 12)
        self.few_trees(100)
        self.tool(0, "classify", "--folds", "f-folds.h5", "--features", "f.h5", "--out", "r.jsonl")
        with h5py.File(self.folder / "f-folds.h5") as file:
            stars = len(file["fold0/test"])
        line = json.loads((self.folder / "r.jsonl").read_text())
        self.assertEqual((line["head"], line["encoder"], line["stars_test"]), ("forest_features", "none", stars))
        self.assertGreater(line["star_macro_f1"], 0.7)


if __name__ == "__main__":
    main()
