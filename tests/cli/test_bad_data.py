# SPDX-License-Identifier: MIT
"""Shows what training does with data that no survey should have: values that are not numbers or out of all bounds, light curves of one
observation or of equal magnitudes, and surveys smaller than a batch or than the number of ranks. src/train/pretrain.h defines it."""
import json

import h5py
import numpy as np

from harness import main
from runs import Training, newest, parameters


def curve(length, seed, **columns):
    """A made light curve; columns replaces some of time, magnitude, error."""
    random = np.random.default_rng(seed)
    made = {"time": np.sort(random.uniform(50000, 52000, length)),
            "magnitude": 15 + np.sin(np.arange(length)) + random.normal(0, 0.1, length),
            "error": random.uniform(0.05, 0.2, length)}
    return {**made, **{name: np.broadcast_to(value, length) for name, value in columns.items()}}


class BadData(Training):
    def survey(self, curves, shards=5, name="made"):
        """A survey of these light curves, dealt out to the shards in turn."""
        (self.folder / name).mkdir()
        for s in range(shards):
            own = curves[s::shards]
            with h5py.File(self.folder / name / f"shard-{s:05d}-of-{shards:05d}.h5", "w") as file:
                for column, kind in (("time", "f8"), ("magnitude", "f4"), ("error", "f4")):
                    file[column] = np.concatenate([c[column] for c in own] + [[]]).astype(kind)
                file["offset"] = np.cumsum([0] + [len(c["time"]) for c in own]).astype("u8")
                file["id"] = np.array([f"star{s + shards * i:04d}" for i in range(len(own))], dtype="S12")
                file.attrs.update({"format_version": 1, "shard": s, "shards": shards, "survey_id": "0123456789abcdef", "name": name,
                                   "band": "R", "cuts": ""})
        return [f"data.survey={name}"]

    def both(self, words, *more):
        """Trains alone and on 4 ranks: the same losses, finite weights; the lines of steps."""
        for run, ranks in (("alone", None), ("many", 4)):
            self.train(run, *words, *more, ranks=ranks)
            for name, values in parameters(newest(self.folder / run)).items():
                self.assertTrue(np.isfinite(values).all(), name)
        np.testing.assert_allclose(self.losses("many"), self.losses("alone"), rtol=1e-5, atol=1e-7)
        skipped = [[line["step"] for line in self.log(run, "skip")] for run in ("alone", "many")]
        self.assertEqual(*skipped)
        return skipped[0]

    def test_what_is_no_number(self):
        """Refused before the first step, by file, dataset and light curve."""
        for column, value in (("magnitude", np.nan), ("magnitude", np.inf), ("error", np.nan), ("error", 0), ("time", np.nan)):
            name = f"{column}{value}"
            words = self.survey([curve(40, i, **({column: value} if i == 7 else {})) for i in range(20)], name=name)
            message = self.train(f"run{name}", *words, status=1, ranks=2).message
            for part in (f"{name}/shard-00002-of-00005.h5", column, "star0007"):
                self.assertIn(part, message)

    def test_a_magnitude_out_of_all_bounds(self):
        """Its batch is skipped; where it is held out its window is left out of the metrics. Both are said."""
        bad = [curve(40, i) for i in range(40)]
        bad[11] = curve(40, 11, magnitude=np.where(np.arange(40) == 20, 1e30, 15))
        words = self.survey(bad)
        skipped = self.both(words, "data.validation=0", "train.batch=8", "train.steps=10")
        self.assertEqual(len(skipped), 2, "one step of the five of each epoch")

    def test_a_magnitude_out_of_all_bounds_is_held_out(self):
        held_out = [curve(40, i) for i in range(9)]
        good = self.survey(held_out, name="good")[0].partition("=")[2]
        bad = self.survey([*held_out, curve(30, 9, magnitude=np.where(np.arange(30) == 20, 1e30, 15))], name="bad")[0].partition("=")[2]
        words = self.survey([curve(40, 20 + i) for i in range(16)])
        for run, validation, ranks in (("good", good, None), ("bad", bad, 2)):
            out = self.train(run, *words, f"data.validation={validation}", "train.steps=3", ranks=ranks).out
            self.assertEqual("1 of 19 windows left out of the validation" in out, run == "bad", out)
        ours, theirs = (self.log(run, "epoch") for run in ("bad", "good"))
        for key in ("val_rmse", "val_r2", "spread"):
            np.testing.assert_allclose([line[key] for line in ours], [line[key] for line in theirs], rtol=1e-4)
        self.assertEqual([line["windows_left_out"] for line in ours], [1] * 3)
        out = self.expect(0, "evaluate", "--checkpoint", "bad/best.h5", "--survey", bad, "--json").out
        self.assertEqual(json.loads(out)["windows_left_out"], 1)
        self.assertIn("1 of 19 windows left out", self.expect(0, "evaluate", "--checkpoint", "bad/best.h5", "--survey", bad).out)

    def test_curves_of_one_observation(self):
        """Nothing can be probed: such a window counts in the batch with an error of 0."""
        self.assertEqual(self.both(self.survey([curve(1 if i % 3 == 0 else 40, i) for i in range(30)]), "train.steps=6"), [])

    def test_nothing_but_curves_of_one_observation(self):
        self.assertEqual(self.both(self.survey([curve(1, i) for i in range(30)]), "train.steps=6"), [])
        self.assertEqual(self.losses("alone").tolist(), [0] * 6)
        self.train("start", "data.survey=made", "train.steps=1")
        self.assert_close(newest(self.folder / "alone"), newest(self.folder / "start"), 0)

    def test_equal_magnitudes_times_and_errors(self):
        """A window of equal magnitudes is one of zeros; equal errors give equal weights."""
        for i, equal in enumerate(({"error": 0.1, "time": 51000.0}, {"magnitude": 15.0, "error": 0.1, "time": 51000.0})):
            words = self.survey([curve(40, i, **equal) for i in range(30)], name=f"equal{i}")
            self.assertEqual(self.both([*words], "train.steps=6"), [])
            for run in ("alone", "many"):
                (self.folder / run).rename(self.folder / f"{run}{i}")
            if "magnitude" in equal:
                line = self.log(f"alone{i}", "epoch")[-1]
                self.assertEqual((line["spread"], line["val_r2"]), (0, None), "there is nothing to explain")

    def test_fewer_curves_than_a_batch_and_than_ranks(self):
        """Every batch is the whole epoch, and short; ranks without a light curve take part."""
        for count in (1, 7):
            words = self.survey([curve(40, i) for i in range(count)], name=f"few{count}")
            self.assertEqual(self.both(words, "data.validation=0", "train.batch=64", "train.steps=5"), [])
            self.assertEqual([line["windows"] for line in self.log("many", "step")], [count * step for step in range(1, 6)])
            self.assertEqual(self.log("many", "end")[-1]["epochs_done"], 5)
            for run in ("alone", "many"):
                (self.folder / run).rename(self.folder / f"{run}{count}")

    def test_none_to_train_on(self):
        self.assertIn("no light curves", self.train("run", *self.survey([], name="none"), "data.validation=0", status=1, ranks=2).message)
        words = self.survey([curve(40, 1)], name="one")
        self.assertRegex(self.train("run", *words, "data.validation=0.999", status=1).message, "no light curves to train on|holds out")
        self.assertIn("holds out none", self.train("run", *words, "data.validation=0.001", status=1, ranks=2).message)


if __name__ == "__main__":
    main()
