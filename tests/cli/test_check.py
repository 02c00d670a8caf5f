# SPDX-License-Identifier: MIT
"""Shows that `astromer check` passes the golden files that the repository ships and fails one that was tampered with."""
import re
import shutil

import h5py

from harness import ROOT, CommandLineTest, main

GOLDENS = sorted((ROOT / "tests" / "golden").glob("*.h5"))


class Check(CommandLineTest):
    def test_shipped_goldens_pass(self):
        self.assertTrue(GOLDENS)
        result = self.expect(0, "check", *GOLDENS, "device=cpu")
        for golden in GOLDENS:
            self.assertIn(golden.name, result.out)
        self.assertRegex(result.out, r"(?m)^ +\S+ +\d\.\d+e-\d\d")

    def test_shipped_goldens_pass_at_bf16(self):
        result = self.run_program("check", *GOLDENS, "device=cpu", "precision=bf16")
        if "this CPU does not multiply bfloat16" in result.err:
            self.skipTest(result.err.strip())
        self.assertEqual(result.status, 0, result)

    def test_a_wrong_number_is_found(self):
        for group, name in (("expected", "reconstruction"), ("gradients", "readout.weight"), ("weights", "block0.ffn1.weight")):
            path = shutil.copy(GOLDENS[-1], self.folder / "wrong.h5")
            with h5py.File(path, "r+") as file:
                data = file[group][name]
                data[...] = data[...] * 1.01
            result = self.expect(1, "check", path, "device=cpu")
            self.assertTrue(re.search("wrong.h5", result.message), result)

    def test_wrong_words(self):
        self.assertIn("nosuch.h5", self.expect(1, "check", "nosuch.h5").message)
        self.assertIn("README", self.expect(1, "check", self.write("README", "no golden file\n")).message)
        self.assertIn("device", self.expect(2, "check", GOLDENS[0], "devise=cpu").message)
        self.expect(2, "check")


if __name__ == "__main__":
    main()
