# SPDX-License-Identifier: MIT
"""Shows that the float64 results of ../shared/golden come out, and that the published Astromer 1 weights, converted, fill in real
MACHO light curves as well as its authors' code does. Needs ../shared; says so and is skipped where it is not."""
import json
import subprocess
import sys

from harness import ROOT, CommandLineTest, main

SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "data" / "macho" / "astromer1-weights.zip"
GOLDENS = sorted((SHARED / "golden").glob("*.h5"))


class Published(CommandLineTest):
    def test_the_goldens_pass(self):
        self.assertEqual(len(GOLDENS), 4)
        self.expect(0, "check", *GOLDENS)

    def test_astromer1_fills_in_macho_stars(self):
        subprocess.run([sys.executable, ROOT / "tools" / "convert-tensorflow", WEIGHTS, "--out", self.folder / "published.h5"],
                       stdout=subprocess.DEVNULL, check=True)
        files = sorted((SHARED / "data" / "macho").glob("*.mjd"))
        self.assertEqual(len(files), 19)
        self.expect(0, "ingest", "--out", "macho", "--filter", "off", *files)
        words = ["evaluate", "--checkpoint", "published.h5", "--survey", "macho", "--full-windows", "--json"]
        result = json.loads(self.expect(0, *words).out)
        self.assertEqual(result["windows"], 66)
        self.assertAlmostEqual(result["rmse"], 0.085, delta=0.005)
        self.assertAlmostEqual(result["spread"], 0.167, delta=0.005)
        again = json.loads(self.expect(0, *words, ranks=2).out)
        self.assertAlmostEqual(again["rmse"], result["rmse"], places=5)


if __name__ == "__main__":
    if not WEIGHTS.exists() or not GOLDENS:
        print(f"skipped: {SHARED} with the published weights and golden files is not there")
        sys.exit(77)
    main()
