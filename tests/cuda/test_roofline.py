# SPDX-License-Identifier: MIT
"""Shows that bench/roofline counts what a step launches: the products' operations by formula, each parameter's bytes through Adam and
through the all-reduce, the windows' upload; and that its times follow from them."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ["BUILD"])
B, L, D, F, M, RANKS = 96, 48, 64, 32, 2, 4


class Roofline(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out.json"
            words = [ROOT / "bench" / "roofline", "--build", BUILD, "--batch", str(B), "--ranks", str(RANKS), "--out", out,
                     f"data.window={L}", f"model.width={D}", "model.heads=1", f"model.ffn={F}", f"model.blocks={M}"]
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert done.returncode == 0, done.stdout
            cls.table, cls.cards = done.stdout, json.loads(out.read_text())["cards"]

    def kinds(self, name, operation=None):
        return [kind for kind in self.cards[0]["kinds"] if name in kind["name"] and operation in (None, kind["operation"])]

    def test_products(self):
        forward = 2 * B * L * M * (D * 4 * D + D * D + D * (F + D) + F * D) * 1e-9  # query, key, value, leak1; merge; ffn1, leak2; ffn2
        for operation, times in (("linear forward", 1), ("linear backward", 2)):
            kind, = self.kinds("cublasLtMatmul", operation)
            self.assertAlmostEqual(kind["gflop"], times * forward, delta=1e-6 * forward, msg=operation)

    def test_attention_computes_on_tensor_cores(self):
        scores = 2 * 2 * B * L * L * D * M * 1e-9
        forward, backward = (sum(k["gflop"] for k in self.kinds("", f"attention {way}")) for way in ("forward", "backward"))
        self.assertTrue(0.3 * scores < forward < 2 * scores, (forward, scores))
        # Two products forward; backward the scores and d_weights twice, d_Q, d_K, d_V, and at bf16 the balance of d_Q.
        self.assertTrue(2 * forward < backward <= 4.001 * forward, (forward, backward))

    def test_bytes_of_the_parameters(self):
        adam, = self.kinds("adam")
        N = adam["written_mb"] * 1e6 / 12
        self.assertAlmostEqual(adam["read_mb"] * 1e6 / 16, N, delta=0.01 * N)
        self.assertGreater(N, M * (5 * D * D + 2 * D * F))
        summed = self.cards[0]["reduce_seconds"] * 24e9 / (2 * (RANKS - 1) / RANKS) / 4
        self.assertAlmostEqual(summed, N, delta=0.02 * N)

    def test_bytes_of_the_windows(self):
        upload, = self.kinds("cudaMemcpy to the device")
        self.assertAlmostEqual(upload["written_mb"] * 1e6, B * (L * 16 + 16), delta=0.02 * B * L * 16)

    def test_times_follow(self):
        for card in self.cards:
            alone = sum(kind["ms"] for kind in card["kinds"]) * 1e-3
            self.assertAlmostEqual(card["seconds"], alone + card["reduce_exposed_seconds"])
            self.assertAlmostEqual(card["windows_per_second"], B / card["seconds"], delta=1e-6 * B / card["seconds"])
            for kind in card["kinds"]:
                self.assertGreaterEqual(kind["ms"], 2e-3 * kind["launches"] * 0.999)
        self.assertIn("RTX A5000: ", self.table)
        self.assertIn("predicted", self.table)


if __name__ == "__main__":
    unittest.main()
