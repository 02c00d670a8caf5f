# SPDX-License-Identifier: MIT
"""Shows that synth makes the same survey on any number of ranks, another one for another seed, and leaves nothing when it fails."""
import re

import numpy as np
from harness import CommandLineTest, main
from surveys import Survey

CLASSES = ["Cep_0", "Cep_1", "EC", "LPV", "RRab", "RRc"]


class Synth(CommandLineTest):
    def synth(self, out, *words, **options):
        result = self.expect(0, "synth", "--out", out, *words, **options)
        return Survey(self.folder / out), result.out

    def test_ranks_do_not_matter(self):
        first, out = self.synth("a/survey", "--curves", 50, "--shards", 7)
        self.assertEqual((len(first.curves), first.shards, first.classes), (50, 7, CLASSES))
        self.assertEqual(int(re.search(r"(\d+)  observations", out)[1]), sum(len(curve[0]) for curve in first.curves.values()))
        self.assertIn("next: astromer info a/survey", out)
        for ranks in (2, 3):
            again, _ = self.synth(f"{ranks}/survey", "--curves", 50, "--shards", 7, ranks=ranks)
            self.assertEqual(again.bytes, first.bytes)

    def test_seed_and_layout(self):
        first, _ = self.synth("a/survey", "--curves", 12, "--shards", 3)
        seeded, _ = self.synth("b/survey", "--curves", 12, "--shards", 3, "--seed", 1)
        wider, _ = self.synth("c/survey", "--curves", 30)
        self.assertEqual(len({first.id, seeded.id, wider.id}), 3)
        self.assertEqual(wider.shards, 64)
        for name, curve in first.curves.items():
            for column in range(3):
                np.testing.assert_array_equal(curve[column], wider.curves[name][column])
            self.assertFalse(np.array_equal(curve[0], seeded.curves[name][0]))
        self.assertEqual([list(c[3] for c in first.curves.values()).count(name) for name in CLASSES], [2] * 6)

    def test_refused(self):
        self.expect(2, "synth", "--out", "a")
        self.expect(2, "synth", "--out", "a", "--curves", 0)
        self.expect(2, "synth", "--out", "a", "--curves", 5, "word")
        self.write("a/file", "mine")
        self.assertIn("is there already", self.expect(1, "synth", "--out", "a", "--curves", 5, ranks=2).message)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["a"])


if __name__ == "__main__":
    main()
