# SPDX-License-Identifier: MIT
"""Shows that the CUDA device, its kernels run on the host by the emulator of tests/cuda, passes the golden files, trains as the CPU
device does on one and on several ranks, reads its checkpoints, and says what it cannot do."""
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np

from harness import MPIRUN, PROGRAM, ROOT, TIMEOUT_SECONDS, CommandLineTest, main
from ranks import RunningRanks, errors_of

GOLDENS = sorted((ROOT / "tests" / "golden").glob("*.h5"))
SHARED = ROOT.parent / "shared" / "golden"
SMALL = ("--config", ROOT / "configs" / "astromer2.yaml", "model.blocks=2", "model.heads=2", "model.width=16", "model.ffn=24",
         "data.validation_windows=1", "train.batch=16", "train.epochs=1", "train.learning_rate=1e-3",
         "data.validation=0.2", "train.log_every_steps=1", "threads=1")
# A model so small that starting is most of the time; and an endless training of it.
TINY = ("--config", ROOT / "configs" / "astromer2.yaml", "model.blocks=1", "model.heads=1", "model.width=8", "model.ffn=8", "train.batch=4",
        "data.survey=survey", "data.validation=0.2", "data.window=8", "device=cuda")
ENDLESS = (*TINY, "train.epochs=0", "train.steps=1000000000", "train.patience=0", "train.log_every_steps=1", "checkpoint.every_epochs=0")


class Cuda(CommandLineTest):
    def test_goldens_pass(self):
        result = self.expect(0, "check", *GOLDENS, "device=cuda")
        self.assertGreaterEqual(result.out.count("CUDA on the host, 4 GB, sm_86, fp32"), len(GOLDENS), result)

    def test_goldens_pass_at_every_precision(self):
        """Within the bounds, or with what random rounding of the products' operands does to the model."""
        shared = [path for path in (SHARED / "small1.h5", SHARED / "small2.h5") if path.exists()]
        if not shared:
            print(f"{SHARED} is not there: checked without its files", file=sys.stderr)
        for precision in ("tf32", "bf16"):
            result = self.expect(0, "check", *GOLDENS, *shared, "device=cuda", f"precision={precision}")
            self.assertEqual(result.out.count(f"CUDA on the host, 4 GB, sm_86, {precision}"), len(GOLDENS) + len(shared))

    def test_rounding_is_no_excuse(self):
        """Errors of a few times the bound, which rounding does not make."""
        for precision, group, name, factor in (("tf32", "gradients", "block0.query.weight", 1.02), ("tf32", "expected", "X1", 1.01),
                                               ("bf16", "gradients", "block0.ffn2.weight", 1.3), ("bf16", "expected", "X1", 1.1)):
            path = shutil.copy(ROOT / "tests" / "golden" / "astromer2.h5", self.folder / "wrong.h5")
            with h5py.File(path, "r+") as file:
                file[group][name][...] *= factor
            result = self.expect(1, "check", path, "device=cuda", f"precision={precision}")
            self.assertIn(f"1 of 145 tensors are over the bound of {precision}; worst {group}/{name}", result.message)

    def train(self, run, *more, **options):
        self.expect(0, "pretrain", "data.survey=survey", f"run.dir={run}", "data.window=16", *SMALL, *more, **options)
        lines = [json.loads(line) for line in (self.folder / run / "log.jsonl").read_text().splitlines()]
        return np.array([line["loss"] for line in lines if line["event"] == "step"])

    def test_training_is_the_cpus_on_any_number_of_ranks(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "48", "--shards", "4")
        cpu = self.train("cpu", "device=cpu")
        self.assertGreater(len(cpu), 1)
        for ranks in (None, 2, 4):
            cuda = self.train(f"cuda{ranks}", "device=cuda", ranks=ranks, CUDA_ON_HOST_DEVICES="4",
                              CUDA_ON_HOST_TRACE=self.folder / f"trace{ranks}")
            np.testing.assert_allclose(cuda, cpu, rtol=1e-4, err_msg=f"{ranks} ranks")
            traces = list(self.folder.glob(f"trace{ranks}.*"))
            self.assertEqual(len(traces), ranks or 1)
            for trace in traces:
                self.assertEqual('"ncclAllReduce"' in trace.read_text(), ranks is not None, "GPUs sum their gradients with NCCL")
        bf16 = self.train("bf16", "device=cuda", "precision=bf16")
        np.testing.assert_allclose(bf16, cpu, rtol=0.02)
        self.expect(0, "synth", "--out", "few", "--curves", "4", "--shards", "2")
        self.expect(0, "embed", "--checkpoint", "cpu/best.h5", "--survey", "few", "--out", "e.h5", "device=cuda",
                    "--attention", "synth-0000000002", "--attention-block", "2")
        self.expect(0, "embed", "--checkpoint", "cpu/best.h5", "--survey", "few", "--out", "c.h5", "device=cpu", "--attention",
                    "synth-0000000002", "--attention-block", "2")
        with h5py.File(self.folder / "e.h5") as cuda, h5py.File(self.folder / "c.h5") as cpu:
            for name in ("embedding", "attention/weights", "attention/time"):
                np.testing.assert_allclose(cuda[name][:], cpu[name][:], rtol=1e-4, atol=1e-5, err_msg=name)

    def test_neighbours_are_the_cpus_at_every_precision(self):
        """Vectors so close that their order by the device's products alone would be another."""
        rng = np.random.RandomState(4)
        with h5py.File(self.folder / "e.h5", "w") as file:
            file.attrs.update({"format_version": 1, "survey": np.bytes_("made up"), "pool": np.bytes_("mean"), "window": 9})
            file["embedding"] = (rng.standard_normal(20) + 1e-4 * rng.standard_normal((90, 20))).astype(np.float32)
            file["length"], file["first_window"] = np.full(90, 9, np.int32), np.arange(91)
            file["id"] = np.array([f"c{i:02d}".encode() for i in range(90)])
        words = ("neighbours", "--embedding", "e.h5", "--ids", "c00,c07,c89", "--k", 5, "--json", "threads=1")
        cpu = self.expect(0, *words, "device=cpu").out
        self.assertEqual(cpu.count("cosine"), 15)
        for precision in ("fp32", "tf32", "bf16"):
            self.assertEqual(self.expect(0, *words, "device=cuda", f"precision={precision}").out, cpu, precision)
        self.assertEqual(self.expect(0, *words, "device=cuda", ranks=2, CUDA_ON_HOST_DEVICES="2").out, cpu)

    def test_gradients_may_travel_in_bfloat16(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "48", "--shards", "4")
        runs = {}
        for wire in ("fp32", "bf16"):
            trace = self.folder / f"trace-{wire}"
            runs[wire] = self.train(wire, "device=cuda", f"train.reduce_precision={wire}", ranks=2, CUDA_ON_HOST_DEVICES="2",
                                    CUDA_ON_HOST_TRACE=trace)
            widened = "from the wire" in next(self.folder.glob(f"trace-{wire}.*")).read_text()
            self.assertEqual(widened, wire == "bf16")
        self.assertEqual(runs["bf16"][0], runs["fp32"][0], "the sum of errors is exact")
        self.assertFalse((runs["bf16"] == runs["fp32"]).all())
        np.testing.assert_allclose(runs["bf16"], runs["fp32"], rtol=2e-3)
        alone = self.train("alone", "device=cuda", "train.reduce_precision=bf16")
        np.testing.assert_allclose(alone, runs["fp32"], rtol=1e-4, err_msg="nothing travels from one rank")
        refused = self.expect(1, "pretrain", "data.survey=survey", "run.dir=no", *SMALL, "data.window=16", "device=cpu",
                              "train.reduce_precision=bf16", ranks=2)
        self.assertIn("train.reduce_precision=bf16", refused.message)

    def test_each_rank_has_a_gpu_of_its_own(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "48", "--shards", "4")
        words = (PROGRAM, "pretrain", *TINY, "train.steps=1")
        for cards, status in (("0,1", 0), ("1,0", 0), ("1,1", 1)):
            # What srun --gpus-per-task=1 gives: every rank sees one GPU, and calls it the first.
            line = f"{shlex.join(map(str, words))} run.dir=run{cards}"
            own = " : ".join(f"-n 1 -x CUDA_VISIBLE_DEVICES={card} {line}" for card in cards.split(","))
            done = subprocess.run(shlex.split(f"{MPIRUN} {own}"), cwd=self.folder, env={**os.environ, "CUDA_ON_HOST_DEVICES": "2"},
                                  capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertEqual("ranks 0 and 1 of 2 ranks would share one GPU" in done.stderr, status == 1, done.stderr)

    def start(self, run, *words, program=PROGRAM, **environment):
        self.expect(0, "synth", "--out", "survey", "--curves", "48", "--shards", "4")
        return RunningRanks(self, run, 2, *ENDLESS, "train.rank_timeout_seconds=3", *words, program=program, CUDA_ON_HOST_DEVICES="2",
                            **environment)

    def check_end(self, running, *expected):
        result = running.result()
        self.assertNotEqual(result.status, 0, result)
        self.assertEqual(len(errors_of(result)), 1, result)
        for part in expected:
            self.assertIn(part, errors_of(result)[0])

    def test_a_gpu_that_hangs_ends_the_run(self):
        hangs = self.write("hangs", "#!/bin/sh\n[ $OMPI_COMM_WORLD_RANK = 1 ] && export CUDA_ON_HOST_HANGS_AT=400\n"
                           f"exec {shlex.quote(PROGRAM)} \"$@\"\n")
        hangs.chmod(0o755)
        self.check_end(self.start("run", program=hangs), "rank 1 of 2", "this rank's GPU hangs")

    def test_a_sum_that_hangs_ends_the_run(self):
        self.check_end(self.start("run", NCCL_ON_HOST_HANGS_AT="9"), "rank 0 of 2: the sum of the gradient is not done after 3 s",
                       "all ranks take part")

    def test_an_error_of_nccl_ends_the_run(self):
        self.check_end(self.start("run", NCCL_ON_HOST_FAILS_AT="9"), "ncclAllReduce of the gradient: remote process exited")

    def test_a_stopped_rank_ends_the_run_and_a_slow_one_does_not(self):
        running = self.start("run", NCCL_ON_HOST_SLOW="4")
        running.wait_for_steps(5)
        running.signal(signal.SIGSTOP, 1)
        self.check_end(running, "rank 1", "has not answered for 3 s")

    def test_what_it_cannot_do(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "40", "--shards", "4")
        words = ("pretrain", "data.survey=survey", "run.dir=run", *SMALL, "device=cuda")
        few = self.expect(1, *words, "data.window=16", ranks=2, CUDA_ON_HOST_DEVICES="1")
        self.assertIn("GPU", few.message)
        self.assertIn("2 ranks", few.message)
        self.assertIn("GPU", self.expect(1, *words, "data.window=16", CUDA_ON_HOST_DEVICES="0").message)
        small = self.expect(1, *words, "data.window=16", CUDA_ON_HOST_MEMORY="300000")
        self.assertIn("not enough GPU memory", small.message)
        long = self.expect(1, *words, "data.window=300")
        self.assertIn("256", long.message)
        self.assertNotIn("microbatch", long.message, "fewer windows would not help")
        self.expect(0, "folds", "--survey", "survey", "--out", "f.h5", "--folds", "1", "--samples", "2", "--test", "2", "--validation", "1",
                    "--least", "4")
        words = ("classify", "--survey", "survey", "--folds", "f.h5", "--samples", "2", "classify.epochs=1", "device=cuda")
        for head in ("base_gru", "base_avgpool"):
            longer = self.expect(1, *words, "--head", head, "data.window=1025", "model.width=16")
            self.assertIn("windows of up to 1024 steps", longer.message)


if __name__ == "__main__":
    main()
