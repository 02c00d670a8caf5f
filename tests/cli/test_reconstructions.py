# SPDX-License-Identifier: MIT
"""Shows that the table of `evaluate --reconstructions` holds every observation once, with the magnitudes of the survey and of the
model that evaluate's own metrics come from, on any number of ranks; and that tools/reconstructions draws it."""
import csv
import json
import subprocess

import numpy as np

from harness import ROOT, CommandLineTest, main

TINY = ("--config", ROOT / "configs" / "astromer2.yaml", "data.survey=survey", "run.dir=run", "data.window=30", "data.validation=0.3",
        "model.blocks=1", "model.heads=2", "model.width=16", "model.ffn=16", "train.epochs=1", "train.batch=16", "device=cpu", "threads=1")
EVALUATE = ("evaluate", "--checkpoint", "run/best.h5", "--survey", "survey", "--json", "threads=1")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Reconstructions(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.expect(0, "synth", "--out", "survey", "--curves", "40", "--shards", "4", "--seed", "2")
        self.expect(0, "pretrain", *TINY)

    def test_the_table_is_what_the_metrics_are_of(self):
        metrics = json.loads(self.expect(0, *EVALUATE, "--reconstructions", "all.csv").out)
        rows = rows_of(self.folder / "all.csv")
        observed, unmasked = (np.array([float(row[name]) for row in rows]) for name in ("magnitude", "unmasked"))
        self.assertAlmostEqual(np.sqrt(((observed - unmasked) ** 2).mean()), metrics["rmse_unmasked"], delta=1e-4)
        windows = {}
        for row in rows:
            self.assertEqual(row["probed"] == "0", row["reconstruction"] == "")
            self.assertTrue(row["hidden"] == "0" or row["probed"] == "1")
            errors = windows.setdefault((row["id"], row["start"]), [])
            if row["probed"] == "1":
                errors.append((float(row["magnitude"]) - float(row["reconstruction"])) ** 2)
        self.assertEqual(len(windows), metrics["windows"])
        self.assertAlmostEqual(np.sqrt(np.mean([np.mean(errors or [0]) for errors in windows.values()])), metrics["rmse"], delta=1e-4)
        self.assertEqual(len({(row["id"], row["mjd"]) for row in rows}), len(rows), "an observation twice")
        self.expect(0, *EVALUATE, "--reconstructions", "ranks.csv", ranks=3)
        key = ("id", "class", "start", "mjd", "magnitude", "error", "probed", "hidden")
        known = sorted(tuple(row[name] for name in key) for row in rows)
        self.assertEqual(known, sorted(tuple(row[name] for name in key) for row in rows_of(self.folder / "ranks.csv")))
        self.assertEqual(list(self.folder.glob("*.partial*")), [])

    def draw(self, *words):
        command = ["/usr/bin/python3", ROOT / "tools" / "reconstructions", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def test_the_picture_and_wrong_paths(self):
        self.expect(0, *EVALUATE, "--reconstructions", "all.csv")
        done = self.draw("all.csv", "--out", "picture.png")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater((self.folder / "picture.png").stat().st_size, 10000)
        self.assertIn("nosuch/all.csv", self.expect(1, *EVALUATE, "--reconstructions", "nosuch/all.csv").message)
        done = self.draw("run/log.jsonl")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


if __name__ == "__main__":
    main()
