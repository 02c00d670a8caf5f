# SPDX-License-Identifier: MIT
"""Shows what a run that goes on takes over from before and what not: the best weights of another run or another validation are never
replaced, a cosine goes on from where it was with another batch, a refused change leaves no trace, and what a kill has left half written
makes room."""
import json
import os
import subprocess

import h5py
import numpy as np

from harness import PROGRAM, main
from runs import Training, newest, parameters


class Resume(Training):
    def best(self, run, name="best.h5"):
        return (self.folder / run / name).read_bytes()

    def forget_checkpoints(self, run):
        for path in (self.folder / run / "checkpoints").iterdir():
            path.unlink()

    def test_best_weights_of_another_run_stay(self):
        self.train("run", "train.steps=12")
        best = self.best("run")
        self.forget_checkpoints("run")
        self.assert_in("run/best.h5: there are weights of a run; go on", self.train("run", status=2, ranks=2).message)
        said = self.train("run", "train.steps=12", "train.seed=8", "--resume", ranks=2).out
        self.assert_in("is run/best-1.h5 now", said)
        self.assertEqual(self.best("run", "best-1.h5"), best)
        self.assertNotEqual(self.best("run"), best)
        self.forget_checkpoints("run")
        self.train("run", "train.steps=12", "--resume")
        self.assertEqual(self.best("run", "best-1.h5"), best)
        self.assertTrue((self.folder / "run/best-2.h5").exists())

    def test_finetuning_spares_them_too(self):
        self.train("run", "train.steps=12")
        best = self.best("run")
        self.forget_checkpoints("run")
        (self.folder / "run/checkpoints").rmdir()
        self.expect(0, "folds", "--survey", "survey", "--out", "folds.h5", "--folds", 1, "--samples", 3, "--test", 4, "--validation", 2,
                    "--least", 8)
        words = ["finetune", "--survey", "survey", "--folds", "folds.h5", "--fold", 0, "--samples", 3, "--checkpoint", "run/best.h5",
                 "train.batch=4", "device=cpu", "threads=1"]
        self.assert_in("there are weights of another run", self.expect(2, *words, "--out", "run", "train.steps=2").message)
        self.assertEqual(self.best("run"), best)
        self.expect(0, *words, "--out", "fine", "train.steps=2")
        self.assertEqual(json.loads((self.folder / "fine/finetune.json").read_text())["windows_seen"], 8)
        fine = self.best("fine")
        self.assert_in("there are weights of a run", self.train("fine", status=2).message)
        self.assertEqual(self.best("fine"), fine)
        for part in ("training", "validation", "test"):
            refused = self.expect(2, "evaluate", "--checkpoint", "fine/best.h5", "--survey", "survey", "--subset", part)
            self.assert_in("was trained on fold 0 of folds.h5", refused.message)

    def test_a_run_that_ends_in_its_first_epoch_has_weights(self):
        self.train("run", "train.steps=2")
        for name, values in parameters(newest(self.folder / "run")).items():
            np.testing.assert_array_equal(values, parameters(self.folder / "run/best.h5")[name])
        self.expect(0, "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey")
        self.train("run", "train.steps=4", "--resume")
        for name, values in parameters(newest(self.folder / "run")).items():
            np.testing.assert_array_equal(values, parameters(self.folder / "run/best.h5")[name])
        self.train("run", "train.steps=14", "--resume")
        self.assertEqual(self.log("run", "epoch")[0]["best"], True)

    def test_a_cosine_goes_on_with_another_batch(self):
        """Half of the epochs with one batch, half with another: the rate goes on where it was and ends at nothing, once."""
        words = ["train.epochs=8", "train.schedule=cosine", "train.warmup_steps=0", "train.microbatch=0"]
        self.train("whole", *words, "train.steps=0", "train.batch=12")
        whole = {line["step"]: line["lr"] for line in self.log("whole", "step")}
        for run, batch in (("larger", 32), ("smaller", 6)):
            self.train(run, *words, "train.batch=12", "train.steps=35")  # in the fifth epoch
            rest = self.train(run, *words, "train.steps=0", f"train.batch={batch}", "--resume")
            self.assert_in("train.batch was 12 and is", rest.out)
            lines = self.log(run, "step")
            rates = np.array([line["lr"] for line in lines])
            again = next(i for i, line in enumerate(lines) if line["step"] == 36)
            self.assertAlmostEqual(rates[again], whole[36], delta=1e-4)
            self.assertTrue((np.diff(rates[again:]) < 0).all(), rates)
            self.assertGreater(rates[-1], 0)
            self.assertLess(rates[-1], 2e-5)
        words.append("train.steps=0")
        self.train("parts", *words, "train.batch=12", "train.time_limit_seconds=0.05")
        self.train("parts", *words, "train.batch=12", "--resume")
        for line in self.log("parts", "step"):
            self.assertEqual(line["lr"], whole[line["step"]])

    def test_the_best_is_judged_by_one_validation(self):
        self.train("run", "train.steps=18", "checkpoint.every_epochs=1")
        best, state = self.best("run"), self.log("run", "end")[-1]
        for steps in (18, 20):  # neither of them comes to a validation
            self.train("run", f"train.steps={steps}", "--resume", "data.validation_windows=1")
            self.train("run", "train.steps=20", "--resume", "data.validation=0.20")
            self.assertEqual(self.best("run"), best)
        (self.folder / "run/checkpoints/step-00000020.h5").unlink()
        self.train("run", "train.steps=19", "--resume", "data.validation_windows=1")  # its checkpoint knows of no validation
        self.assertEqual(self.best("run"), best)
        self.train("run", "train.steps=19", "--resume")
        self.train("run", "train.steps=20", "--resume")  # by the old measure again, and still none
        self.assertEqual(self.best("run"), best)
        (self.folder / "run/checkpoints/step-00000020.h5").unlink()
        said = self.train("run", "train.steps=24", "--resume", "data.validation_windows=1", ranks=2).out
        self.assert_in("weights judged by another validation", said)
        self.assertEqual(self.best("run", "best-1.h5"), best)
        self.assertTrue(self.log("run", "epoch")[2]["best"], "the first by the new measure")
        self.assertGreater(self.log("run", "end")[-1]["best_epoch"], state["best_epoch"])
        self.train("run", "train.steps=30", "--resume", "data.validation_windows=1", "train.batch=8", "data.memory_gb=1")
        self.assertFalse((self.folder / "run/best-2.h5").exists(), "what is no other measure changes nothing")

    def test_a_validation_survey_that_is_another_one_now(self):
        self.expect(0, "synth", "--out", "other", "--curves", 30, "--shards", 2, "--seed", 9)
        self.train("run", "data.validation=other", "train.steps=8")
        for path in (self.folder / "other").iterdir():
            path.unlink()
        (self.folder / "other").rmdir()
        self.expect(0, "synth", "--out", "other", "--curves", 30, "--shards", 2, "--seed", 10)
        refused = self.train("run", "data.validation=other", "train.steps=9", "--resume", status=1, ranks=2)
        self.assert_in("other: its light curves have changed since run/checkpoints/step-00000008.h5", refused.message)
        (self.folder / "other").rename(self.folder / "third")
        self.train("run", "data.validation=third", "train.steps=16", "--resume")
        self.assertTrue((self.folder / "run/best-1.h5").exists())

    def test_a_refused_change_leaves_no_trace(self):
        self.expect(0, "synth", "--out", "small", "--curves", 20, "--shards", 2, "--seed", 9)
        self.train("run", "train.steps=5")
        config = (self.folder / "run/config.yaml").read_text()
        refused = self.train("run", "train.steps=9", "--resume", "data.survey=small", status=2, ranks=2)
        self.assert_in("stands at window 80 of an epoch", refused.message)
        self.assertEqual((self.folder / "run/config.yaml").read_text(), config)
        self.expect(0, "pretrain", "--resume", "run.dir=run", "train.steps=9")

    def test_what_a_kill_has_left_half_written_goes_first(self):
        self.train("run", "train.steps=5")
        left = [self.write("run/checkpoints/step-00000006.h5.123-4.tmp", "half"), self.write("run/best.h5.123-4.tmp", "half")]
        self.train("run", "train.steps=5", "--resume")
        self.assertEqual([path.exists() for path in left], [False, False])

    def test_whoever_reads_the_output_may_go(self):
        """The run goes on to its end and says then that its words were lost."""
        words = [PROGRAM, *self.words("run", "train.steps=400", "checkpoint.every_epochs=1")]
        run = subprocess.Popen(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        run.stdout.readline()
        run.stdout.close()
        self.assertIn("standard output", run.stderr.read())
        self.assertEqual(run.wait(timeout=120), 1)
        run.stderr.close()
        self.assertEqual(self.log("run", "end")[-1]["step"], 400)
        self.assertEqual(newest(self.folder / "run").name, "step-00000400.h5")

    def test_best_weights_that_cannot_be_read(self):
        def cut(path):
            path.write_bytes(path.read_bytes()[:3000])

        def change(path):
            with h5py.File(path, "r+") as file:
                tensors = file["parameters"]
                tensors[sorted(tensors)[0]][...] += 1.0

        for name, spoil in (("cut", cut), ("changed", change)):
            self.train(name, "train.steps=18")
            best = self.folder / name / "best.h5"
            spoil(best)
            damaged = best.read_bytes()
            said = self.train(name, "train.steps=22", "--resume", ranks=2).out
            self.assert_in("held what cannot be read", said)
            self.assertEqual(self.best(name, "best-1.h5"), damaged)
            self.expect(0, "evaluate", "--checkpoint", best, "--survey", "survey", "--probed-only")
            best.write_bytes(damaged)  # and where no validation comes any more
            self.train(name, "train.steps=23", "--resume")
            self.expect(0, "evaluate", "--checkpoint", best, "--survey", "survey", "--probed-only")
            best.unlink()
            self.train(name, "train.steps=23", "--resume")
            self.expect(0, "evaluate", "--checkpoint", best, "--survey", "survey", "--probed-only")

    def test_a_run_beside_anothers_best_that_is_stopped_early(self):
        """Its checkpoints know of no validation yet, and still the other's weights are not taken for its own."""
        self.train("run", "train.steps=18")
        best = self.best("run")
        self.forget_checkpoints("run")
        words = ["train.steps=5", "train.seed=8", "--resume"]
        self.train("run", *words, "train.time_limit_seconds=1e-9")
        self.assertEqual(self.best("run", "best-1.h5"), best)
        self.train("run", *words)
        for name, values in parameters(newest(self.folder / "run")).items():
            np.testing.assert_array_equal(values, parameters(self.folder / "run/best.h5")[name])

    def test_pipes_and_links_in_the_place_of_files(self):
        self.train("run", "train.steps=5")
        shard = sorted((self.folder / "survey").iterdir())[1]
        kept = shard.read_bytes()
        for make in (os.mkfifo, os.mkdir):
            shard.unlink()
            make(shard)
            refused = self.train("run", "train.steps=6", "--resume", status=1, ranks=2)
            self.assertRegex(refused.message, shard.name)
            (os.rmdir if make is os.mkdir else os.unlink)(shard)
            shard.write_bytes(kept)
        os.mkfifo(self.folder / "pipe")
        for words in (("info", "pipe"), ("check", "pipe"), ("evaluate", "--checkpoint", "pipe", "--survey", "survey"),
                      ("neighbours", "--embedding", "pipe", "--ids", "a")):
            self.expect(1, *words)
        thesis = self.write("thesis.tex", "precious")
        for name in ("lock", "config.yaml.tmp"):
            (self.folder / "run" / name).symlink_to(thesis)
            self.run_program(*self.words("run", "train.steps=6", "--resume"))
            self.assertEqual(thesis.read_text(), "precious", name)
            (self.folder / "run" / name).unlink(missing_ok=True)
        self.train("run", "train.steps=6", "--resume")

    def test_a_link_into_another_file_is_not_followed(self):
        self.train("run", "train.steps=5")
        for path, name in ((newest(self.folder / "run"), "parameters/token"), (next((self.folder / "survey").iterdir()), "magnitude")):
            with h5py.File(path, "r+") as file, h5py.File(self.folder / "elsewhere.h5", "w") as other:
                file.copy(name, other, "here")
                del file[name]
                file[name] = h5py.ExternalLink(str(self.folder / "elsewhere.h5"), "/here")
            self.expect(1, "info", path)
        refused = self.run_program(*self.words("run", "train.steps=6", "--resume"))
        self.assertEqual(refused.status, 1, refused)
        self.assert_in("passing over a checkpoint: run/checkpoints/step-00000005.h5: parameters/token cannot be read", refused.err)


if __name__ == "__main__":
    main()
