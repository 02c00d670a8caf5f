# SPDX-License-Identifier: MIT
"""Shows the whole way that the README describes, on a survey that trains in seconds: make it, pretrain, evaluate, embed, ask what
each file is; and that each mistake on the way is one line that says what to do."""
import json
import re

import h5py
import numpy as np

from harness import CommandLineTest, main

CONFIG = """run:
  dir: run
data:
  survey: survey
  validation: 0.2
  window: 50
model:
  blocks: 2
  width: 32
  heads: 2
  ffn: 32
train:
  batch: 32
  epochs: 6
  learning_rate: 3e-3
device: cpu
"""


class Journey(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.write("run.yaml", CONFIG)

    def synth(self):
        self.expect(0, "synth", "--out", "survey", "--curves", 200, "--shards", 4)

    def test_from_nothing_to_vectors(self):
        self.synth()
        out = self.expect(0, "pretrain", "--config", "run.yaml", ranks=2).out
        self.assertNotIn("\r", out, "no line is rewritten where the output is no terminal")
        self.assertRegex(out, r"epoch 6 ")

        log = [json.loads(line) for line in (self.folder / "run" / "log.jsonl").read_text().splitlines()]
        self.assertEqual((log[0]["event"], log[-1]["event"]), ("start", "end"))
        epochs = [line for line in log if line["event"] == "epoch"]
        self.assertEqual([line["epoch"] for line in epochs], [1, 2, 3, 4, 5, 6])
        for key in ("train_loss", "train_rmse", "val_rmse", "val_r2", "lr", "windows_per_second", "flops_per_second", "seconds"):
            self.assertIn(key, epochs[0])
        self.assertLess(epochs[-1]["train_loss"], epochs[0]["train_loss"])
        self.assertTrue(list((self.folder / "run" / "checkpoints").glob("step-*.h5")))

        evaluated = self.expect(0, "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey").out
        for word in ("RMSE", "R2", "spread"):
            self.assertRegex(evaluated, re.compile(word, re.IGNORECASE))
        self.assertEqual(self.numbers(evaluated), self.numbers(self.expect(
            0, "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey", ranks=3).out))

        self.expect(0, "embed", "--checkpoint", "run/best.h5", "--survey", "survey", "--out", "vectors.h5", ranks=2)
        with h5py.File(self.folder / "vectors.h5") as file:
            wide = [d for d in file.values() if isinstance(d, h5py.Dataset) and d.ndim == 2 and d.shape[1] == 32]
            self.assertTrue(wide and np.isfinite(wide[0][:]).all() and wide[0].shape[0] >= 200)

        checkpoint = sorted((self.folder / "run" / "checkpoints").glob("step-*.h5"))[-1]
        for path, words in (("survey", ("200", "survey")), ("survey/shard-00001-of-00004.h5", ("shard",)), ("run", ("epoch",)),
                            ("run/best.h5", ("32",)), (checkpoint, ("step",))):
            out = self.expect(0, "info", path).out
            for word in words:
                self.assertRegex(out, re.compile(word, re.IGNORECASE), path)

    def numbers(self, text):
        """The numbers of a report to four digits, without those that measure time."""
        lines = [line for line in text.splitlines() if not re.search(r"second|/s|\bs\b|ranks?|thread", line)]
        return [f"{float(n):.4g}" for n in re.findall(r"-?\d+\.\d+", "\n".join(lines))]

    def test_info_of_what_it_does_not_know(self):
        self.write("poem.txt", "Twinkle, twinkle, little star\n")
        (self.folder / "empty").mkdir()
        for name in ("poem.txt", "empty", "nosuch"):
            self.assertIn(name, self.expect(1, "info", name).message)
        self.expect(2, "info")

    def test_a_wrong_config_names_line_and_key(self):
        for old, new, said in (("  batch: 32", "  bacth: 32", ["run.yaml:13: ", "bacth", "did you mean", "batch"]),
                               ("  blocks: 2", "  blocks: two", ["run.yaml:8: ", "blocks"]),
                               ("  blocks: 2", "  blocks: -2", ["run.yaml:8: ", "blocks"]),
                               ("  heads: 2", "  heads: 5", ["heads", "width"]),
                               ("device: cpu", "device: gpu", ["run.yaml:16: ", "cuda"]),
                               ("device: cpu", "device: cpu\ndevice: cpu", ["run.yaml:17: ", "device"]),
                               ("model:", "model: [", ["run.yaml:"])):
            self.write("run.yaml", CONFIG.replace(old, new))
            message = self.expect(2, "pretrain", "--config", "run.yaml").message
            for part in said:
                self.assertIn(part, message)
            self.assertFalse((self.folder / "run").exists())

    def test_a_wrong_word_names_the_nearest_key(self):
        message = self.expect(2, "pretrain", "--config", "run.yaml", "train.lerning_rate=1", ranks=2).message
        self.assertIn('did you mean "train.learning_rate"?', message)
        self.assertIn("precision", self.expect(2, "pretrain", "--config", "run.yaml", "precision=fp8").message)
        self.expect(2, "pretrain", "--config", "run.yaml", "nonsense")

    def test_what_is_not_there(self):
        self.assertIn("nosuch.yaml", self.expect(2, "pretrain", "--config", "nosuch.yaml").message)
        self.assertIn("survey", self.expect(1, "pretrain", "--config", "run.yaml").message)
        self.synth()
        self.assertIn("nosuch.h5", self.expect(1, "evaluate", "--checkpoint", "nosuch.h5", "--survey", "survey").message)
        (self.folder / "survey" / "shard-00002-of-00004.h5").unlink()
        self.assertIn("shard-00002-of-00004.h5", self.expect(1, "pretrain", "--config", "run.yaml", ranks=2).message)
        self.assertFalse(list(self.folder.glob("run/checkpoints/*")))

    def test_a_finished_run_is_not_overwritten(self):
        self.synth()
        self.expect(0, "pretrain", "--config", "run.yaml", "train.epochs=1")
        best = (self.folder / "run" / "best.h5").read_bytes()
        self.assertIn("--resume", self.expect(2, "pretrain", "--config", "run.yaml", "train.epochs=1").message)
        self.expect(0, "pretrain", "--config", "run.yaml", "train.epochs=1", "--resume")
        self.assertEqual((self.folder / "run" / "best.h5").read_bytes(), best)


if __name__ == "__main__":
    main()
