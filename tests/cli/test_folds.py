# SPDX-License-Identifier: MIT
"""Shows that folds makes one file, the same on any number of ranks and for any number of shards, that holds what the table says and
keeps stars apart, also those that a pretraining never saw; that info explains it; and that what cannot be is refused in one line."""
import zlib

import h5py
import numpy as np

from harness import CommandLineTest, main

CLASSES = ["Cep_0", "Cep_1", "EC", "LPV", "RRab", "RRc"]
SMALL = ["--samples", "20,5", "--test", "12", "--validation", "4", "--least", "10"]
RUN = """
data: {survey: survey, validation: 0.2, test: 0.5, window: 20}
model: {blocks: 1, heads: 1, width: 4, ffn: 4}
train: {batch: 64, epochs: 1}
run: {dir: run}
device: cpu
threads: 1
"""


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class FoldsFile:
    def __init__(self, path):
        with h5py.File(path) as file:
            self.attributes = dict(file.attrs)
            self.curve, self.label = file["curve"][:], file["label"][:]
            self.id = np.array([text(name) for name in file["id"][:]])
            self.folds = [{name: rows[:] for name, rows in file[f"fold{k}"].items()} for k in range(file.attrs["folds"])]

            def check(_, item):
                if isinstance(item, h5py.Dataset):
                    assert item.attrs["crc32"] == zlib.crc32(item[:].tobytes())
            file.visititems(check)

    def ids(self, fold, name):
        return list(self.id[self.folds[fold][name]])


class Folds(CommandLineTest):
    def synth(self, out="survey", shards=3, curves=240):
        self.expect(0, "synth", "--out", out, "--curves", curves, "--shards", shards, "--seed", 3)

    def folds(self, out, *words, survey="survey", **options):
        result = self.expect(0, "folds", "--survey", survey, "--out", out, *words, **options)
        return FoldsFile(self.folder / out), result.out

    def test_the_file_and_what_is_said(self):
        self.synth()
        folds, out = self.folds("folds.h5", *SMALL)
        self.assertEqual([text(name) for name in folds.attributes["classes"]], CLASSES)
        self.assertEqual((text(folds.attributes["kind"]), text(folds.attributes["survey"])), ("folds", "survey"))
        self.assertEqual((folds.attributes["folds"], list(folds.attributes["samples"])), (3, [5, 20]))
        for fold in range(3):
            sizes = {name: [int(sum(folds.label[rows] == c)) for c in range(6)] for name, rows in folds.folds[fold].items()}
            self.assertEqual(sizes, {"test": [12] * 6, "validation": [4] * 6, "training-5": [5] * 6, "training-20": [20] * 6})
            sides = [set(folds.ids(fold, name)) for name in ("test", "validation", "training-20")]
            self.assertEqual([len(side) for side in sides], [72, 24, 120])
            self.assertEqual(len(set.union(*sides)), 72 + 24 + 120)
            self.assertLess(set(folds.ids(fold, "training-5")), sides[2])
        self.assertNotEqual(set(folds.ids(0, "test")), set(folds.ids(1, "test")))
        for name in CLASSES:
            self.assertRegex(out, rf"{name} +40 +24 +4 +12 +5 +20 \n")
        self.assertNotIn("replacement", out)
        self.check_survey(folds)

        described = self.expect(0, "info", "folds.h5").out
        for part in ("folds folds.h5", "of the survey survey", "3, drawn with seed 0", f"{len(folds.id)} that any fold uses"):
            self.assertIn(part, described)
        self.assertRegex(described, r"RRab +4 +12 +5 +20 \n")
        self.assertIn("is there already", self.expect(1, "folds", "--survey", "survey", "--out", "folds.h5").message)

    def check_survey(self, folds):
        """The table points to the light curves of those ids and labels."""
        ids, labels = [], []
        for shard in sorted((self.folder / "survey").glob("shard-*")):
            with h5py.File(shard) as file:
                ids += [text(name) for name in file["id"][:]]
                labels += list(file["label"][:])
        self.assertEqual([ids[curve] for curve in folds.curve], list(folds.id))
        self.assertEqual([labels[curve] for curve in folds.curve], list(folds.label))

    def test_layout_ranks_and_seed(self):
        self.synth()
        self.synth("wide", 11)
        first, _ = self.folds("a.h5", *SMALL)
        self.folds("b.h5", *SMALL, ranks=2)
        self.assertEqual((self.folder / "a.h5").read_bytes(), (self.folder / "b.h5").read_bytes())
        for name, words, same in (("c.h5", ["--seed", 0], True), ("d.h5", ["--seed", 1], False)):
            other, _ = self.folds(name, *SMALL, *words, survey="wide")
            for fold in range(3):
                for part in first.folds[fold]:
                    self.assertEqual(first.ids(fold, part) == other.ids(fold, part), same)

    def test_stars_that_a_pretraining_has_not_seen(self):
        self.synth(curves=300)
        self.write("run.yaml", RUN)
        self.expect(0, "pretrain", "--config", "run.yaml")
        folds, out = self.folds("folds.h5", *SMALL, "--unseen-by", "run/best.h5")
        self.assertIn("test stars are of the 50 % that run/best.h5 has never seen", out)
        self.assertIn("* drawn with replacement", self.folds("more.h5", "--least", 10)[1])
        mixed, _ = self.folds("mixed.h5", *SMALL)
        tested = {name for fold in range(3) for name in folds.ids(fold, "test")}
        others = {name for fold in range(3) for part in ("validation", "training-20") for name in folds.ids(fold, part)}
        self.assertFalse(tested & others)
        self.assertTrue(set(mixed.ids(0, "test")) & others)
        self.expect(0, "pretrain", "--config", "run.yaml", "data.test=0", "run.dir=all")
        message = self.expect(1, "folds", "--survey", "survey", "--out", "x.h5", "--unseen-by", "all/best.h5").message
        self.assertIn("kept no stars for tests", message)

    def test_classes_that_are_too_small(self):
        stars = {"Mira": 30, "RR\x1b Lyrae": 12, "Beta Cephei": 7}
        rows, labels = [], []
        for name, count in stars.items():
            for i in range(count):
                labels.append(f"{name[:2]}{i:03},{name}")
                rows += [f"{name[:2]}{i:03},{50000 + j},{12 + 0.4 * ((i + j) % 5)},0.02" for j in range(12)]
        self.write("raw.csv", "id,mjd,mag,err\n" + "\n".join(rows) + "\n")
        self.write("labels.csv", "id,class\n" + "\n".join(labels) + "\n")
        self.expect(0, "ingest", "--out", "survey", "--filter", "off", "--shards", 2, "--labels", "labels.csv", "raw.csv")
        folds, out = self.folds("folds.h5", "--least", 10, "--samples", "5,100", "--folds", 2)
        self.assertEqual([text(name) for name in folds.attributes["classes"]], ["Mira", "RR\x1b Lyrae"])
        self.assertIn("left out, with their light curves: Beta Cephei (7)\n", out)
        self.assertRegex(out, r"Mira +30 +18 +3 +9 +5 +18\*\n")  # of 18, 100 times
        self.assertRegex(out, r"RR\? Lyrae +12 +6 +2 +4 +5 +6\*\n")
        self.assertEqual(sum(folds.label[folds.folds[0]["training-100"]] == 1), 100)
        self.assertIn("only one of its 3 classes", self.expect(1, "folds", "--survey", "survey", "--out", "x.h5", "--least", 13).message)
        self.expect(0, "ingest", "--out", "bare", "--filter", "off", "--shards", 2, "raw.csv")
        self.assertIn("no labels", self.expect(1, "folds", "--survey", "bare", "--out", "x.h5").message)
        self.assertFalse((self.folder / "x.h5").exists())

    def test_refused(self):
        self.synth(curves=60)
        for words in (["--samples", "20,,100"], ["--samples", "20,20"], ["--samples", "0"], ["--samples", "many"], ["--folds", 0],
                      ["--test", 0]):
            self.expect(2, "folds", "--survey", "survey", "--out", "x.h5", *words)
        self.assertIn("nowhere", self.expect(1, "folds", "--survey", "survey", "--out", "nowhere/x.h5", "--least", 5, ranks=2).message)
        self.folds("folds.h5", "--least", 5)
        data = (self.folder / "folds.h5").read_bytes()
        self.write("cut.h5", data[:len(data) // 2])
        self.assertIn("cut.h5", self.expect(1, "info", "cut.h5").message)
        with h5py.File(self.folder / "folds.h5", "r+") as file:
            file["fold1/test"][0] += 1
        self.assertIn("fold1/test is damaged", self.expect(1, "info", "folds.h5").message)


if __name__ == "__main__":
    main()
