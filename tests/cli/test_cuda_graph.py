# SPDX-License-Identifier: MIT
"""Shows that the training step, recorded as a CUDA graph and launched as a whole on the emulator of tests/cuda, computes to the last
bit what its single launches compute, while learning rate, epoch and the number of windows change."""
import json
import re

import h5py
import numpy as np

from harness import ROOT, CommandLineTest, main

# 39 light curves to train on: batches of 16, 16 and 7 windows, whose shares differ between ranks.
SMALL = ("--config", ROOT / "configs" / "astromer2.yaml", "data.survey=survey", "data.window=8", "data.validation=0.2",
         "data.validation_windows=1", "model.blocks=2", "model.heads=2", "model.width=8", "model.ffn=8",
         "model.dropout=0.1", "train.batch=16", "train.epochs=3",
         "train.learning_rate=1e-3", "train.warmup_steps=6", "train.log_every_steps=1", "threads=1")
TRAINING = {"embed backward", "linear backward", "attention backward", "add_norm backward", "readout backward", "step finish", "adam"}


class Run:
    """What a run left: its log, the last checkpoint's parameters, what the program said, and the launches of each rank's steps."""

    def __init__(self, folder, said, traces):
        self.log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        self.loss = np.array([line["loss"] for line in self.log if line["event"] == "step"])
        self.said = said
        with h5py.File(sorted((folder / "checkpoints").iterdir())[-1]) as file:
            self.parameters = {name: values[:] for name, values in file["parameters"].items()}
        self.ranks = [self.steps_of(trace) for trace in traces]

    @staticmethod
    def steps_of(trace):
        """By step, the launches that only training makes: (operation, number of the graph's launch or 0)."""
        steps = [[]]
        for line in sorted((json.loads(line) for line in trace.read_text().splitlines()), key=lambda line: line["order"]):
            if line["range"] in TRAINING:
                steps[-1].append((line["range"], line["graph"]))
            if line["range"] == "adam":
                steps.append([])
        return steps[:-1]


class CudaGraph(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.expect(0, "synth", "--out", "survey", "--curves", "48", "--shards", "4")

    def train(self, name, *more, **options):
        said = self.expect(0, "pretrain", f"run.dir={name}", *SMALL, *more, CUDA_ON_HOST_DEVICES="4",
                           CUDA_ON_HOST_TRACE=self.folder / f"trace-{name}", **options)
        return Run(self.folder / name, said.out + said.err, sorted(self.folder.glob(f"trace-{name}.*")))

    def assert_same_bits(self, a, b, what):
        self.assertEqual(a.loss.tobytes(), b.loss.tobytes(), what)
        for name, values in a.parameters.items():
            self.assertEqual(values.tobytes(), b.parameters[name].tobytes(), f"{what}: {name}")

    def assert_recorded(self, run, launches_of_a_step):
        for steps in run.ranks:
            self.assertEqual(len(steps), len(run.loss))
            self.assertEqual({graph for _, graph in steps[0]} - {0} == set(), launches_of_a_step == 1, "the first step is single launches")
            for step in steps[1:]:
                graphs = {graph for _, graph in step}
                self.assertNotIn(0, graphs, "a single launch in a recorded step")
                self.assertEqual(len(graphs), launches_of_a_step)
            numbers = [graph for step in steps[1:] for _, graph in step]
            self.assertEqual(len(set(numbers)), launches_of_a_step * (len(steps) - 1), "each step is a launch of its own")

    def test_the_graph_changes_nothing(self):
        cpu = self.train("cpu", "device=cpu")
        self.assertEqual(len(cpu.loss), 9)
        for ranks in (None, 2, 4):
            run = self.train(f"graph{ranks}", "device=cuda", ranks=ranks)
            single = self.train(f"single{ranks}", "device=cuda", "train.graph=false", ranks=ranks)
            self.assert_same_bits(run, single, f"{ranks} ranks")
            np.testing.assert_allclose(run.loss, cpu.loss, rtol=1e-4, err_msg=f"{ranks} ranks")
            self.assertEqual(len(run.ranks), ranks or 1)
            self.assert_recorded(run, 1)
            self.assertEqual({graph for steps in single.ranks for step in steps for _, graph in step}, {0})

    def test_parts_of_a_batch(self):
        whole = self.train("whole", "device=cpu")
        for ranks in (None, 2):
            words = ("device=cuda", "train.microbatch=3", "precision=fp32")
            run = self.train(f"parts{ranks}", *words, ranks=ranks)
            self.assert_same_bits(run, self.train(f"single{ranks}", *words, "train.graph=false", ranks=ranks), f"{ranks} ranks")
            np.testing.assert_allclose(run.loss, whole.loss, rtol=1e-4)
        wire = ("device=cuda", "train.reduce_precision=bf16")
        single = self.train("wire-single", *wire, "train.graph=false", ranks=2)
        self.assert_same_bits(self.train("wire", *wire, ranks=2), single, "bf16 on the wire")
        bf16 = self.train("bf16", "device=cuda", "precision=bf16")
        self.assert_same_bits(bf16, self.train("bf16-single", "device=cuda", "precision=bf16", "train.graph=false"), "bf16")
        self.assert_recorded(bf16, 1)

    def test_ranks_with_different_numbers_of_parts(self):
        """NCCL wants a sum from a graph on all ranks or on none: the stand-in ends a job where they differ."""
        words = ("device=cuda", "train.microbatch=5", "precision=fp32", "train.steps=6")
        run = self.train("parts", *words, ranks=2)
        self.assert_same_bits(run, self.train("single", *words, "train.graph=false", ranks=2), "2 ranks")
        parts = [[sum(name == "embed backward" for name, _ in step) for step in steps] for steps in run.ranks]
        self.assertNotEqual(*parts, "the ranks' parts must differ for this to show something")
        for steps in run.ranks:
            self.assertEqual([step[-1][1] > 0 for step in steps], [False] + [True] * 5, "the end of a step, by step: from a graph")

    def test_without_graphs_it_says_so_and_goes_on(self):
        single = self.train("single", "device=cuda", "train.graph=false")
        self.assertNotIn("CUDA graph", single.said)
        for step in ("begin", "end", "instantiate"):
            run = self.train(step, "device=cuda", CUDA_ON_HOST_REFUSES_GRAPHS=step)
            self.assert_same_bits(run, single, step)
            self.assertEqual(run.said.count("not recorded as a CUDA graph"), 1, run.said)

    def test_a_restart_keeps_the_algorithms(self):
        words = ("device=cuda", "train.schedule=constant")
        whole = self.train("whole", *words, "train.steps=7", CUBLASLT_ON_HOST_FASTEST="1")
        other = self.train("other", *words, "train.steps=7", CUBLASLT_ON_HOST_FASTEST="0")
        self.assertNotEqual(whole.loss[:4].tobytes(), other.loss[:4].tobytes(), "another algorithm gives other bits")
        for name in ("kept", "lost", "foreign", "damaged", "empty"):
            self.train(name, *words, "train.steps=4", CUBLASLT_ON_HOST_FASTEST="1")
            file = self.folder / name / "products-0000.txt"
            text = file.read_text()
            if name == "lost":
                file.unlink()
            elif name == "foreign":
                file.write_text(text.replace("cuBLASLt 130000", "cuBLASLt 120900"))
            elif name == "damaged":
                file.write_text(text[:-20])
            elif name == "empty":
                file.write_text("")
            run = self.train(name, *words, "train.steps=7", "--resume", CUBLASLT_ON_HOST_FASTEST="0")
            if name == "kept":
                self.assert_same_bits(whole, run, name)
                self.assertEqual(text.splitlines()[:2], file.read_text().splitlines()[:2])
            else:
                self.assertEqual(whole.loss[:4].tobytes(), run.loss[:4].tobytes(), name)
                self.assertNotEqual(whole.loss[4:].tobytes(), run.loss[4:].tobytes(), name)
            self.assertEqual(name != "kept", "choice of algorithms" in run.said, run.said)

    def test_memory_that_is_short(self):
        wide = ("device=cuda", "data.window=16", "model.width=64", "model.ffn=64", "train.steps=2")
        card = {"CUDA_ON_HOST_MEMORY": "36300000"}
        words = [word for word in SMALL if str(word).partition("=")[0] not in {w.partition("=")[0] for w in wide}] + list(wide)
        short = self.expect(1, "pretrain", "run.dir=run", *words, "train.microbatch=16", **card)
        said = re.search(r"16 windows of 16 steps need [0-9.]+ GB, [0-9.]+ GB are free: at most (\d+) would fit; "
                         r"set train.microbatch=(\d+) or less", short.message)
        self.assertTrue(said, short.message)
        self.assertEqual(said[1], said[2])
        self.expect(0, "pretrain", "run.dir=run", *words, f"train.microbatch={said[1]}", **card)
        self.expect(0, "pretrain", "run.dir=auto", *words, **card)
        start = json.loads((self.folder / "auto" / "log.jsonl").read_text().splitlines()[0])
        self.assertEqual(start["windows_at_once"], 8, "two equal parts")


if __name__ == "__main__":
    main()
