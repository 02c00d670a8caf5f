# SPDX-License-Identifier: MIT
"""Shows that at precision=bf16 the CPU trains as at fp32 does, to the digits that bfloat16 has, on any number of ranks and threads,
and that a CPU without bfloat16 units refuses."""
import json

import h5py
import numpy as np

from harness import ROOT, CommandLineTest, main

TINY = ("--config", ROOT / "configs" / "astromer2.yaml", "data.survey=survey", "data.window=30", "data.validation=0.2",
        "model.blocks=2", "model.heads=2", "model.width=32", "model.ffn=48", "train.batch=16", "train.epochs=0", "train.learning_rate=2e-3",
        "train.warmup_steps=20", "train.patience=0", "train.log_every_steps=1", "device=cpu")


class Bf16(CommandLineTest):
    def train(self, run, steps, precision, threads=1, ranks=None):
        self.expect(0, "pretrain", f"run.dir={run}", *TINY, f"train.steps={steps}", f"precision={precision}", f"threads={threads}",
                    ranks=ranks)
        lines = [json.loads(line) for line in (self.folder / run / "log.jsonl").read_text().splitlines()]
        return np.array([line["loss"] for line in lines if line["event"] == "step"])

    def synthetic_survey(self):
        """Or a skipped test, where the CPU has no such units."""
        self.expect(0, "synth", "--out", "survey", "--curves", "120", "--shards", "4", "--seed", "9")
        tried = self.run_program("pretrain", "run.dir=tried", *TINY, "train.steps=1", "precision=bf16")
        if "this CPU does not multiply bfloat16" in tried.err:
            self.skipTest(tried.err.strip())

    def test_it_learns_as_fp32_does(self):
        self.synthetic_survey()
        fp32, bf16 = self.train("fp32", 300, "fp32"), self.train("bf16", 300, "bf16")
        self.assertLess(fp32[-50:].mean(), 0.9 * fp32[:10].mean(), "nothing to compare: fp32 learns nothing")
        curves = [losses.reshape(6, 50).mean(axis=1) for losses in (fp32, bf16)]
        np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)
        self.assertTrue((fp32 != bf16).any(), "bf16 was not used")

    def test_ranks_and_threads_change_little(self):
        self.synthetic_survey()
        alone = self.train("alone", 40, "bf16")
        np.testing.assert_allclose(self.train("threads", 40, "bf16", threads=2), alone, rtol=0.01)
        np.testing.assert_allclose(self.train("ranks", 40, "bf16", ranks=3), alone, rtol=0.01)

    def test_inference(self):
        """evaluate and embed at bf16 give fp32's results to the digits that bfloat16 has, on one rank and on two."""
        self.synthetic_survey()
        self.train("run", 40, "fp32")
        read = ("--checkpoint", next((self.folder / "run" / "checkpoints").glob("*.h5")), "--survey", "survey")
        results, vectors = {}, {}
        for name, precision, ranks in (("fp32", "fp32", None), ("bf16", "bf16", None), ("ranks", "bf16", 2)):
            words = (*read, f"precision={precision}", "threads=1", "device=cpu")
            results[name] = json.loads(self.expect(0, "evaluate", "--json", *words, ranks=ranks).out.splitlines()[-1])
            self.expect(0, "embed", "--out", f"{name}.h5", *words, ranks=ranks)
            with h5py.File(self.folder / f"{name}.h5") as file:
                vectors[name] = file["embedding"][:]
                self.assertEqual(file.attrs["precision"].decode(), precision)
        for key in ("rmse", "r2", "spread", "rmse_unmasked"):
            np.testing.assert_allclose(results["bf16"][key], results["fp32"][key], rtol=0.02, atol=0.03, err_msg=key)
            np.testing.assert_allclose(results["ranks"][key], results["bf16"][key], rtol=1e-6, err_msg=key)
        self.assertEqual(vectors["bf16"].shape, vectors["fp32"].shape)
        off = np.linalg.norm(vectors["bf16"] - vectors["fp32"]) / np.linalg.norm(vectors["fp32"])
        self.assertTrue(0 < off < 0.02, off)
        np.testing.assert_allclose(vectors["ranks"], vectors["bf16"], rtol=0, atol=0.02)

    def test_a_cpu_without_it_refuses(self):
        self.expect(0, "synth", "--out", "survey", "--curves", "40", "--shards", "4")
        refused = self.expect(1, "pretrain", "run.dir=run", *TINY, "train.steps=1", "precision=bf16", ONEDNN_MAX_CPU_ISA="AVX512_CORE")
        self.assertIn("bf16", refused.message)
        self.assertIn("precision=fp32", refused.message)
        self.assertIn("tf32", self.expect(1, "pretrain", "run.dir=run", *TINY, "train.steps=1", "precision=tf32").message)


if __name__ == "__main__":
    main()
