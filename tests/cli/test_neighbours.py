# SPDX-License-Identifier: MIT
"""Shows that `astromer neighbours` finds what numpy finds in float64, in the same order on any number of ranks, in memory that does
not grow with the file, and that a file that is not as it should be is refused with one line."""
import csv
import json
import shutil

import h5py
import numpy as np

from harness import CommandLineTest, main

WINDOW = 50
CLASSES = [b"RRab", b"Mira, with a comma", b"EC"]


class Embeddings:
    """A made file of embeddings: light curve c has counts[c] windows, and its vectors lie around one of three points."""

    def __init__(self, curves, width, seed=1, spread=0.5, most=4, labels=True):
        rng = np.random.RandomState(seed)
        self.counts = rng.randint(0, most + 1, curves)
        self.ids = [f"étoile-{c:04d}" + "x" * (c % 3) for c in range(curves)]
        self.first = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self.curve = np.repeat(np.arange(curves), self.counts)
        self.length = rng.randint(1, WINDOW + 1, self.first[-1]).astype(np.int32)
        self.label = rng.randint(-1, 3, curves).astype(np.int32) if labels else None
        middle = rng.standard_normal((3, width))
        self.rows = (middle[self.curve % 3] + spread * rng.standard_normal((len(self.curve), width))).astype(np.float32)

    def write(self, path):
        with h5py.File(path, "w") as file:
            file.attrs.update({"format_version": 1, "survey": np.bytes_("made up"), "pool": np.bytes_("mean"), "window": WINDOW})
            file["embedding"], file["curve"], file["length"] = self.rows, self.curve, self.length
            file["start"], file["first_window"] = np.zeros(len(self.curve), np.int32), self.first
            names = [name.encode() for name in self.ids]
            file["id"] = np.array(names, dtype=f"S{max(map(len, names))}")
            if self.label is not None:
                file.attrs["classes"] = np.array(CLASSES)
                file["label"] = self.label
        return path

    def vectors(self, by):
        """Unit vectors in float64 and whose they are; without those of length 0."""
        rows = self.rows.astype(np.float64)
        if by == "curve":
            weighted = np.zeros((len(self.ids), rows.shape[1]))
            np.add.at(weighted, self.curve, rows * self.length[:, None])
            rows, whose = weighted / np.maximum(np.bincount(self.curve, self.length, len(self.ids)), 1)[:, None], np.arange(len(self.ids))
        else:
            whose = self.curve
        norm = np.linalg.norm(rows, axis=1)
        return rows[norm > 0] / norm[norm > 0, None], whose[norm > 0]

    def nearest(self, query, k, by):
        """[(light curve, cosine)] of the k nearest, by plain numpy."""
        unit, whose = self.vectors(by)
        cosine = np.full(len(self.ids), -np.inf)
        np.maximum.at(cosine, whose, (unit @ unit[whose == query].T).max(axis=1))
        cosine[query] = -np.inf
        order = [c for c in np.lexsort((np.arange(len(cosine)), -cosine)) if cosine[c] > -np.inf]
        return [(c, cosine[c]) for c in order[:k]]


class Neighbours(CommandLineTest):
    def neighbours(self, *words, status=0, file="e.h5", **options):
        return self.expect(status, "neighbours", "--embedding", file, *words, "threads=1", **options)

    def json(self, *words, **options):
        return [json.loads(line) for line in self.neighbours(*words, "--json", **options).out.splitlines()]

    def check(self, made, queries, k, by, **options):
        rows = self.json("--ids", ",".join(made.ids[q] for q in queries), "--k", k, "--by", by, **options)
        for q in queries:
            mine = [row for row in rows if row["id"] == made.ids[q]]
            wanted = made.nearest(q, k, by)
            self.assertEqual([row["rank"] for row in mine], list(range(1, len(wanted) + 1)))
            self.assertEqual([row["neighbour"] for row in mine], [made.ids[c] for c, _ in wanted], (q, by, options))
            np.testing.assert_allclose([row["cosine"] for row in mine], [cosine for _, cosine in wanted], rtol=0, atol=1e-12)
        self.assertEqual(len(rows), sum(min(k, len(made.nearest(q, k, by))) for q in queries))
        return rows


class Found(Neighbours):
    def test_what_numpy_finds_on_any_number_of_ranks(self):
        made = Embeddings(70, 13)
        made.rows[made.curve == 11] = 0  # without a direction
        made.write(self.folder / "e.h5")
        queries = [c for c in (69, 0, 3, 20, 4, 5) if made.counts[c]]
        for by in ("curve", "window"):
            rows = self.check(made, queries, 7, by)
            for ranks in (1, 2, 3):
                self.assertEqual(self.json("--ids", ",".join(made.ids[q] for q in queries), "--k", 7, "--by", by, ranks=ranks), rows)
            self.check(made, queries[:1], 1, by)
            self.check(made, queries[:2], 500, by, ranks=2)  # more than there are

    def test_equally_near_ones_come_in_the_order_of_the_survey(self):
        made = Embeddings(40, 8, most=1)
        made.counts[:], made.length = 1, np.ones(40, np.int32)
        made.first, made.curve = np.arange(41), np.arange(40)
        made.rows = np.ones((40, 8), np.float32)
        made.rows[::2, 0] = 2
        made.write(self.folder / "e.h5")
        for ranks in (None, 3):
            rows = self.json("--ids", made.ids[6], "--k", 39, "--by", "window", ranks=ranks)
            wanted = (*range(0, 6, 2), *range(8, 40, 2), *range(1, 40, 2))
            self.assertEqual([row["neighbour"] for row in rows], [made.ids[c] for c in wanted])

    def test_many_that_float32_cannot_tell_apart(self):
        """More light curves, windows and queries than go through at once, and cosines that differ in the tenth digit."""
        made = Embeddings(5000, 20, spread=1e-5)
        made.write(self.folder / "e.h5")
        queries = [c for c in range(17, 5000, 9) if made.counts[c]][:300]
        self.write("ids.txt", "\r\n".join(made.ids[q] for q in queries) + "\n\n")
        out = self.neighbours("--ids", "@ids.txt", "--k", 5, "--out", "n.csv", "--json", ranks=2).out
        rows = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(rows), 5 * len(queries))
        for i, q in enumerate(queries[::25]):
            wanted = made.nearest(q, 5, "curve")
            found = [row["cosine"] for row in rows[125 * i:125 * i + 5]]
            np.testing.assert_allclose(found, [cosine for _, cosine in wanted], rtol=0, atol=1e-14)
        by_id = {name: c for c, name in enumerate(made.ids)}
        unit, whose = made.vectors("curve")
        unit = dict(zip(whose, unit))
        for row in rows[::7]:
            self.assertAlmostEqual(row["cosine"], unit[by_id[row["id"]]] @ unit[by_id[row["neighbour"]]], delta=1e-14)
        with open(self.folder / "n.csv", newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        self.assertEqual([(row["id"], row["class"], int(row["rank"]), row["neighbour"], row["neighbour_class"]) for row in table],
                         [(row["id"], row["class"], row["rank"], row["neighbour"], row["neighbour_class"]) for row in rows])

    def test_the_table(self):
        made = Embeddings(30, 6, most=3)
        made.write(self.folder / "e.h5")
        q = int(np.argmax(made.counts > 0))
        text = self.neighbours("--ids", f" {made.ids[q]} ,,{made.ids[q]}", "--k", 4).out.splitlines()
        self.assertIn(f"e.h5 (survey made up): {(made.counts > 0).sum()} light curves compared by the means of their windows", text[0])
        self.assertEqual(text[1].split(), ["id", "class", "rank", "neighbour", "cosine", "class"])
        wanted = made.nearest(q, 4, "curve")
        names = [*(name.decode() for name in CLASSES), "-"]
        same = sum(made.label[c] == made.label[q] for c, _ in wanted if made.label[c] >= 0)
        for i, (c, cosine) in enumerate(wanted):
            cells = [made.ids[q], names[made.label[q]], str(i + 1), made.ids[c], f"{cosine:.9f}", names[made.label[c]]]
            self.assertEqual(text[2 + i].split(), " ".join(cells).split())
        self.assertEqual(len(text), 6 + (made.label[q] >= 0))
        if made.label[q] >= 0:
            self.assertTrue(text[6].startswith(f"{same} of {sum(made.label[c] >= 0 for c, _ in wanted)} neighbours"), text[6])

    def test_without_labels(self):
        made = Embeddings(9, 4, labels=False)
        made.write(self.folder / "e.h5")
        q = int(np.argmax(made.counts > 0))
        self.assertEqual({row["neighbour_class"] for row in self.json("--ids", made.ids[q])}, {""})
        self.assertNotIn("neighbours with a class", self.neighbours("--ids", made.ids[q]).out)

    def test_what_embed_writes(self):
        self.write("tiny.yaml", "data: {window: 20, validation: 0.2}\nmodel: {blocks: 1, heads: 1, width: 4, ffn: 4}\n"
                                "train: {batch: 8, steps: 2, epochs: 0}\n")
        self.expect(0, "synth", "--out", "survey", "--curves", 12, "--shards", 3)
        self.expect(0, "pretrain", "--config", "tiny.yaml", "data.survey=survey", "run.dir=run", "threads=1")
        self.expect(0, "embed", "--checkpoint", "run/best.h5", "--survey", "survey", "--out", "e.h5", "threads=1")
        rows = self.json("--ids", "synth-0000000003,synth-0000000007", "--k", 11)
        self.assertEqual(len({row["neighbour"] for row in rows if row["id"] == "synth-0000000003"}), 11)

    def test_memory_does_not_grow_with_the_file(self):
        peaks = []
        for curves in (4000, 32000):
            made = Embeddings(curves, 64, most=8)
            made.write(self.folder / "e.h5")
            q = int(np.argmax(made.counts > 0))
            peaks.append(self.peak_bytes("neighbours", "--embedding", "e.h5", "--ids", made.ids[q], "threads=1"))
        self.assertLess(peaks[1], peaks[0] + 6e6, peaks)  # the file has 29 MB more


class Refused(Neighbours):
    def setUp(self):
        super().setUp()
        self.made = Embeddings(30, 6)
        self.made.write(self.folder / "e.h5")
        self.there = self.made.ids[int(np.argmax(self.made.counts > 0))]

    def refused(self, status, part, *words, **options):
        self.assertIn(part, self.neighbours(*words, status=status, **options).message)

    def test_ids(self):
        for ranks in (None, 2, 3):
            self.refused(2, "no light curve 'étoile-0012y', did you mean étoile-0012", "--ids", "étoile-0012y", ranks=ranks)
            self.refused(2, "no light curve 'Mira' (nor 1 more of the list); its ids look like étoile-0000", "--ids", "Mira,SN",
                         ranks=ranks)
        self.refused(2, "names no light curve", "--ids", " , ")
        self.refused(1, "nowhere.txt", "--ids", "@nowhere.txt")
        none = self.made.ids[int(np.argmax(self.made.counts == 0))]
        self.refused(1, "has no window there", "--ids", none, ranks=2)
        with h5py.File(self.folder / "e.h5", "r+") as file:
            file["id"][29] = file["id"][28]
        self.refused(1, f"has 2 light curves with the id {self.made.ids[28]}", "--ids", self.made.ids[28], ranks=2)
        with h5py.File(self.folder / "e.h5", "r+") as file:
            file["embedding"][...] = 0
        self.refused(1, "only zeros", "--ids", self.there)

    def test_words(self):
        self.refused(2, "--k is '0'", "--ids", self.there, "--k", 0)
        self.refused(2, "curve or window", "--ids", self.there, "--by", "star")
        self.refused(2, "devise", "--ids", self.there, "devise=cpu")
        self.refused(2, "overwrite", "--ids", self.there, "--out", "./e.h5")
        self.refused(1, "nowhere", "--ids", self.there, "--out", "nowhere/n.csv", ranks=2)
        self.refused(1, "take its name", "--ids", self.there, "--out", ".")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["e.h5"])

    def test_files_that_are_not_as_they_should_be(self):
        def replaced(name, values, **how):
            def change(file):
                del file[name]
                if values is not None:
                    file.create_dataset(name, data=values, **how)
            return change

        def element(name, at, value):
            return lambda file: file[name].__setitem__(at, value)

        made, n = self.made, len(self.made.curve)
        changes = {
            "no dataset embedding": replaced("embedding", None),
            "not a table": replaced("embedding", made.rows.ravel()),
            "is not a table": replaced("embedding", np.zeros((n, 6), np.int32)),
            "embedding does not lie in one piece": replaced("embedding", made.rows, chunks=(2, 6)),
            "not finite": element("embedding", (3, 2), np.nan),
            "format version 7": lambda file: file.attrs.__setitem__("format_version", 7),
            "attribute format_version is missing": lambda file: file.attrs.__delitem__("format_version"),
            "window has 0": lambda file: file.attrs.__setitem__("window", 0),
            "attribute survey is missing": lambda file: file.attrs.__delitem__("survey"),
            "first_window has 30 elements": replaced("first_window", made.first[:-1]),
            "first_window of light curve 4": element("first_window", 4, -1),
            "first_window goes from": element("first_window", 30, n - 1 if made.counts[29] else n + 0),
            "dataset id is missing": replaced("id", None),
            "id does not lie in one piece": replaced("id", np.array(made.ids, dtype=object), dtype=h5py.string_dtype()),
            "light curve 7 has no id": element("id", 7, b""),
            f"length has {n - 2} elements": replaced("length", made.length[2:]),
            "window 5 has 0 observations": element("length", 5, 0),
            f"window 5 has {WINDOW + 1} observations": element("length", 5, WINDOW + 1),
            "has the label 3": lambda file: file["label"].__setitem__(slice(None), 3),
            "does not hold integers": replaced("label", np.zeros(30)),
        }
        for part, change in changes.items():
            if part.startswith("first_window goes") and not made.counts[29]:
                continue
            shutil.copy(self.folder / "e.h5", self.folder / "b.h5")
            with h5py.File(self.folder / "b.h5", "r+") as file:
                change(file)
            self.refused(1, part, "--ids", self.there, file="b.h5")
        whole = (self.folder / "e.h5").read_bytes()
        for bytes_left in (0, 100, 2000, len(whole) - 100):
            self.write("b.h5", whole[:bytes_left])
            self.refused(1, "b.h5: ", "--ids", self.there, file="b.h5", ranks=2 if bytes_left == 100 else None)
        self.refused(1, "nothing.h5", "--ids", self.there, file="nothing.h5")


if __name__ == "__main__":
    main()
