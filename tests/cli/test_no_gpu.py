# SPDX-License-Identifier: MIT
"""Shows that the program, whether or not it is built with the cuda device, works on a machine without a GPU: it starts, device=auto
takes the CPU, and device=cuda is refused in one line before anything is done. CUDA is told to hide a GPU that is there."""
from harness import ROOT, CommandLineTest, main

GOLDEN = ROOT / "tests" / "golden" / "mixed.h5"
HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}
SMALL = ("--config", ROOT / "configs" / "quickstart.yaml", "model.blocks=1", "model.heads=1", "model.width=8", "model.ffn=8",
         "data.window=16", "train.batch=8", "train.epochs=1", "train.schedule=constant", "threads=1")


class NoGpu(CommandLineTest):
    def test_it_starts(self):
        self.assertRegex(self.expect(0, "--version", **HIDDEN).out, r"^astromer \d")
        self.assertIn("usage: astromer COMMAND", self.expect(0, "help", **HIDDEN).out)

    def test_auto_takes_the_cpu(self):
        auto, cpu = (self.expect(0, "check", GOLDEN, device, **HIDDEN).out for device in ("device=auto", "device=cpu"))
        self.assertEqual(auto, cpu)
        self.assertEqual(self.expect(0, "check", GOLDEN, **HIDDEN).out, cpu, "auto is the default")

    def test_cuda_is_refused(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "20", "--shards", "2")
        for words in (("check", GOLDEN), ("pretrain", "data.survey=survey", "run.dir=run", *SMALL)):
            message = self.expect(1, *words, "device=cuda", **HIDDEN).message
            self.assertRegex(message, "device=cuda: this (machine has no usable NVIDIA GPU|build has no CUDA device).*; use device=cpu")
        self.assertFalse((self.folder / "run" / "checkpoints").exists(), "a refused run leaves no checkpoint")
        self.expect(1, "pretrain", "data.survey=survey", "run.dir=run", *SMALL, "device=cuda", ranks=2, **HIDDEN)

    def test_training_goes_on_the_cpu(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "20", "--shards", "2")
        for ranks in (None, 2):
            self.expect(0, "pretrain", "data.survey=survey", f"run.dir=run{ranks}", *SMALL, ranks=ranks, **HIDDEN)


if __name__ == "__main__":
    main()
