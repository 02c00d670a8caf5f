# SPDX-License-Identifier: MIT
"""Shows that `astromer embed` writes what the float64 reference computes, the same rows on any number of ranks, and that whatever
goes wrong leaves one line, the right exit status and no file."""
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from harness import MPIRUN, PROGRAM, CommandLineTest, main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import golden  # noqa: E402
import reference  # noqa: E402

ASTROMER2 = reference.Model(blocks=3, heads=3, width=12, ffn=20, leak=True, mask="K", alpha=-1e9, token=True, pe_base=1000.0,
                            weighted=True, window=16)
ASTROMER1 = reference.Model(blocks=1, heads=2, width=8, ffn=5, leak=False, mask="QK", alpha=1.0, token=False, pe_base=10000.0,
                            weighted=False, window=7)
# Observations of the light curves of each shard, around the window of 16: shorter, equal, a multiple, one more; an empty shard.
LENGTHS = ((5, 16, 33, 1), (), (48, 15, 200), (17,), (160, 6, 32))


def draw_curves(lengths=LENGTHS):
    """For each shard a list of light curves: (id, time, magnitude, error)."""
    rng = np.random.RandomState(5)
    shards = []
    for s, shard in enumerate(lengths):
        shards.append([])
        for c, n in enumerate(shard):
            time = 48800.0 + np.sort(rng.uniform(0.0, 2000.0, n))
            magnitude = (18.0 + rng.standard_normal(n)).astype(np.float32)
            name = f"étoile-{s}-{c}" + "x" * (10 * c)
            shards[s].append((name, time, magnitude, rng.uniform(0.01, 0.5, n).astype(np.float32)))
    return shards


def write_survey(folder, shards, labels=True):
    folder.mkdir()
    for s, curves in enumerate(shards):
        with h5py.File(folder / f"shard-{s:05d}-of-{len(shards):05d}.h5", "w") as file:
            file.attrs.update({"survey_id": "0123", "name": "made up", "band": "V", "cuts": "", "shard": s, "shards": len(shards),
                               "format_version": 1})
            for i, name in enumerate(("time", "magnitude", "error"), 1):
                file[name] = np.concatenate([curve[i] for curve in curves] or [np.zeros(0, np.float64 if i == 1 else np.float32)])
            file["offset"] = np.cumsum([0] + [len(curve[1]) for curve in curves]).astype(np.uint64)
            ids = [curve[0].encode() for curve in curves]
            file["id"] = np.array(ids, dtype=f"S{max(map(len, ids), default=1)}")
            if labels:
                file.attrs["classes"] = np.array([b"RRab", b"none of them"])
                file["label"] = np.array([c % 3 - 1 for c in range(len(curves))], dtype=np.int32)
    return folder


def write_checkpoint(path, model, change=None):
    """A checkpoint with weights away from their starting values; returns them."""
    weights = golden.draw_weights(np.random.RandomState(3), model)
    if change:
        change(weights)
    shape = {"blocks": model.blocks, "heads": model.heads, "width": model.width, "ffn": model.ffn, "leak": str(model.leak).lower(),
             "mask": model.mask, "alpha": model.alpha, "token": str(model.token).lower(), "pe_base": model.pe_base}
    with h5py.File(path, "w") as file:
        file.attrs["format_version"] = 1
        file["config"] = f"data.window: {model.window}\nmodel:\n" + "".join(f"  {key}: {value}\n" for key, value in shape.items())
        for name, value in weights.items():
            file["parameters/" + name] = value.astype(np.float32)
        file.create_group("progress").attrs["step"] = 1234
    return weights


def cut(shards, model, full_only=False):
    """The windows in the order of the file: (curve, start, length, time, magnitude), the last two padded."""
    windows, curve = [], -1
    for _, time, magnitude, _ in [curve for shard in shards for curve in shard]:
        curve += 1
        for start in range(0, len(time), model.window):
            t, m = time[start:start + model.window], magnitude[start:start + model.window].astype(np.float64)
            if full_only and len(t) < model.window:
                continue
            padding = (0, model.window - len(t))
            windows.append((curve, start, len(t), np.pad(t - t.mean(), padding), np.pad(m - m.mean(), padding)))
    return windows


def expected(shards, model, weights, pool, full_only=False):
    """windows x (M + 1) x D by the reference, nothing probed."""
    windows = cut(shards, model, full_only)
    length = np.array([w[2] for w in windows])
    time, magnitude = np.array([w[3] for w in windows]), np.array([w[4] for w in windows])
    real = (np.arange(model.window) < length[:, None]).astype(np.float64)
    batch = {"time": time, "magnitude": magnitude, "modified": magnitude, "hidden": 1.0 - real, "probed": 0.0 * real,
             "error_weight": real}
    X = np.stack(reference.forward(model, weights, batch)["X"], axis=1)
    real = real[:, None, :, None]
    return (X * real).sum(axis=2) / real.sum(axis=2) if pool == "mean" else np.where(real == 1.0, X, -np.inf).max(axis=2)


class Embed(CommandLineTest):
    def make(self, model=ASTROMER2, labels=True, change=None):
        self.shards = draw_curves()
        self.survey = write_survey(self.folder / "survey", self.shards, labels)
        self.weights = write_checkpoint(self.folder / "c.h5", model, change)

    def embed(self, out, *words, status=0, checkpoint="c.h5", survey="survey", **options):
        return self.expect(status, "embed", "--checkpoint", checkpoint, "--survey", survey, "--out", out, *words, **options)

    def refused(self, status, part, *words, out="e.h5", **options):
        """Fails with this status and a line with `part` in it, and leaves nothing behind."""
        before = {path: path.stat().st_mtime_ns for path in self.folder.rglob("*") if not path.is_dir()}
        result = self.embed(out, *words, status=status, **options)
        self.assertIn(part, result.message)
        after = {path: path.stat().st_mtime_ns for path in self.folder.rglob("*") if not path.is_dir()}
        self.assertEqual(after, before, "files were made or changed")
        return result.message


class Content(Embed):
    def check_against_reference(self, file, model, pool, full_only=False):
        windows = cut(self.shards, model, full_only)
        for i, name in enumerate(("curve", "start", "length")):
            np.testing.assert_array_equal(file[name][:], [w[i] for w in windows], name)
        values = expected(self.shards, model, self.weights, pool, full_only)
        self.assertEqual((file["embedding"].dtype, file["embedding"].shape), (np.float32, (len(windows), model.width)))
        np.testing.assert_allclose(file["embedding"][:], values[:, -1], rtol=0, atol=1e-4)
        if "blocks" in file:
            self.assertEqual(file["blocks"].shape, (len(windows), model.blocks + 1, model.width))
            np.testing.assert_allclose(file["blocks"][:], values, rtol=0, atol=1e-4)
            np.testing.assert_array_equal(file["blocks"][:, -1], file["embedding"][:])

    def test_embeddings_are_the_references(self):
        self.make()
        for pool in ("mean", "max"):
            self.embed("e.h5", "--pool", pool, "--blocks")
            with h5py.File(self.folder / "e.h5") as file:
                self.check_against_reference(file, ASTROMER2, pool)
                self.assertEqual(file.attrs["pool"].decode(), pool)

    def test_astromer1_without_options(self):
        self.make(ASTROMER1)
        result = self.embed("e.h5")
        with h5py.File(self.folder / "e.h5") as file:
            self.check_against_reference(file, ASTROMER1, "mean")
            self.assertNotIn("blocks", file)
            self.assertEqual(result.err, "")
            self.assertIn("made e.h5 in ", result.out)
            self.assertIn(f": {len(file['curve'])} windows of 11 light curves", result.out)
            self.assertIn("next: ", result.out)

    def test_what_the_file_says_about_the_light_curves(self):
        self.make()
        self.embed("e.h5", ranks=2)
        curves = [curve for shard in self.shards for curve in shard]
        with h5py.File(self.folder / "e.h5") as file:
            self.assertEqual([name.decode() for name in file["id"][:]], [curve[0] for curve in curves])
            self.assertEqual(list(file["label"][:]), [c % 3 - 1 for shard in self.shards for c in range(len(shard))])
            first = file["first_window"][:]
            self.assertEqual(len(first), len(curves) + 1)
            self.assertEqual(first[0], 0)
            np.testing.assert_array_equal(np.diff(first), [-(-len(curve[1]) // 16) for curve in curves])
            np.testing.assert_array_equal(np.repeat(np.arange(len(curves)), np.diff(first)), file["curve"][:])
            attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in file.attrs.items()}
        wanted = {"format_version": 1, "survey_id": "0123", "survey": "made up", "band": "V", "checkpoint": "c.h5", "step": 1234,
                  "pool": "mean", "window": 16, "full_windows": 0, "precision": "fp32"}
        self.assertEqual({name: attributes[name] for name in wanted}, wanted)
        self.assertEqual([name.decode() for name in attributes["classes"]], ["RRab", "none of them"])
        self.assertIn("width: 12\n", attributes["config"])
        self.assertEqual(set(attributes), set(wanted) | {"classes", "config"})

    def test_survey_without_labels(self):
        self.make(labels=False)
        self.embed("e.h5")
        with h5py.File(self.folder / "e.h5") as file:
            self.assertNotIn("label", file)
            self.assertNotIn("classes", file.attrs)

    def test_full_windows_only(self):
        self.make()
        self.embed("e.h5", "--full-windows", ranks=3)
        with h5py.File(self.folder / "e.h5") as file:
            self.assertEqual(set(file["length"][:]), {16})
            self.check_against_reference(file, ASTROMER2, "mean", full_only=True)
            np.testing.assert_array_equal(np.diff(file["first_window"][:]), [len(c[1]) // 16 for s in self.shards for c in s])
            self.assertEqual(file.attrs["full_windows"], 1)


class Ranks(Embed):
    def check_same(self, name, other):
        """Two files with the same structure, attributes and data; embeddings but for the last digits."""
        with h5py.File(self.folder / name) as a, h5py.File(self.folder / other) as b:
            self.assertEqual(list(a), list(b))
            self.assertEqual({k: str(v) for k, v in a.attrs.items()}, {k: str(v) for k, v in b.attrs.items()})
            for key in a:
                self.assertEqual((a[key].shape, a[key].dtype), (b[key].shape, b[key].dtype), key)
                if key in ("embedding", "blocks"):
                    np.testing.assert_allclose(a[key][()], b[key][()], rtol=0, atol=3e-6, err_msg=f"{key} of {name}")
                else:
                    np.testing.assert_array_equal(a[key][()], b[key][()], err_msg=f"{key} of {name}")

    def test_the_same_rows_on_any_number_of_ranks(self):
        self.make()
        self.embed("alone.h5", "--blocks", "threads=1")
        for ranks in (1, 2, 3, 5):
            result = self.embed(f"{ranks}.h5", "--blocks", "threads=1", ranks=ranks)
            self.assertEqual(result.out.count("made "), 1, result)
            self.check_same(f"{ranks}.h5", "alone.h5")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()),
                         ["1.h5", "2.h5", "3.h5", "5.h5", "alone.h5", "c.h5", "survey"])

    def test_many_batches_of_a_made_survey(self):
        self.make()
        self.expect(0, "synth", "--out", "made", "--curves", "41", "--shards", "4")
        files = []
        for ranks, words in ((None, ["threads=2"]), (2, ["threads=1"]), (3, ["threads=1", "data.memory_gb=0"])):
            self.embed(f"{ranks}.h5", *words, survey="made", ranks=ranks)
            files.append(h5py.File(self.folder / f"{ranks}.h5"))
        windows = sum(len(h5py.File(path)["time"]) // 16 for path in (self.folder / "made").iterdir())
        self.assertGreater(len(files[0]["curve"]), max(windows, 1000))
        for file in files[1:]:
            np.testing.assert_allclose(file["embedding"][:], files[0]["embedding"][:], rtol=0, atol=1e-6)
            for name in ("curve", "start", "length", "id", "label", "first_window"):
                np.testing.assert_array_equal(file[name][:], files[0][name][:], name)

    def peak(self, command, survey, *words):
        """The most memory that a command had on a survey of which nothing may stay in memory."""
        return self.peak_bytes(command, "--checkpoint", "c.h5", "--survey", survey, *words, "data.memory_gb=0", "threads=1")

    def test_memory_does_not_grow_with_the_survey(self):
        """Eight times the observations, 32 MB more of them; rows, windows and all."""
        self.make(ASTROMER1)
        peaks = {"embed": [], "evaluate": []}
        for name, length in (("small", 8750), ("large", 70000)):
            write_survey(self.folder / name, draw_curves([[length] * 4] * 8))
            peaks["embed"].append(self.peak("embed", name, "--out", "e.h5", "--full-windows"))
            peaks["evaluate"].append(self.peak("evaluate", name, "--full-windows", "--windows-per-curve", 50))
        for command, (small, large) in peaks.items():
            self.assertLess(large, small + 8e6, (command, peaks))

    def test_more_ranks_than_shards(self):
        self.make()
        self.refused(2, "5 shards", ranks=6)

    def test_one_rank_that_fails_stops_all(self):
        self.make()
        with h5py.File(self.folder / "survey" / "shard-00003-of-00005.h5", "r+") as file:
            file["magnitude"][3] = 3e38  # the model's first products overflow
        for ranks in (None, 2, 3):
            message = self.refused(1, "c.h5: ", ranks=ranks)
            self.assertIn("étoile-3-0 in survey (observations 0 to 15) is not finite", message)


class Attention(Embed):
    def reference(self, model, block):
        """(curve, start, length, time, magnitude, weights) of every window by the reference, in the order of the file."""
        windows = cut(self.shards, model)
        length = np.array([w[2] for w in windows])
        time, magnitude = np.array([w[3] for w in windows]), np.array([w[4] for w in windows])
        real = (np.arange(model.window) < length[:, None]).astype(np.float64)
        batch = {"time": time, "magnitude": magnitude, "modified": magnitude, "hidden": 1.0 - real, "probed": 0.0 * real,
                 "error_weight": real}
        weights = reference.forward(model, self.weights, batch)["blocks"][block]["A"] * real[:, None, :, None]
        curves = [curve for shard in self.shards for curve in shard]
        for (c, start, n, _, _), w in zip(windows, weights):
            pad = (0, model.window - n)
            yield c, start, n, np.pad(curves[c][1][start:start + n], pad), np.pad(curves[c][2][start:start + n], pad), w

    def check(self, path, model, block, curves):
        wanted = [w for w in self.reference(model, block) if w[0] in curves]
        with h5py.File(self.folder / path) as file:
            group = file["attention"]
            self.assertEqual(group.attrs["block"], block + 1)
            self.assertEqual((group["weights"].dtype, group["time"].dtype, group["magnitude"].dtype), (np.float32, np.float64, np.float32))
            for i, name in enumerate(("curve", "start", "length", "time", "magnitude")):
                np.testing.assert_array_equal(group[name][:], [w[i] for w in wanted], name)
            np.testing.assert_allclose(group["weights"][:], [w[5] for w in wanted], rtol=0, atol=2e-5)
            return file["embedding"][:]

    def test_weights_are_the_references(self):
        self.make()
        ids = [curve[0] for shard in self.shards for curve in shard]
        self.embed("none.h5")
        with h5py.File(self.folder / "none.h5") as file:
            embedding = file["embedding"][:]
            self.assertNotIn("attention", file)
        self.write("ids.txt", f"{ids[8]}\n{ids[4]}\n{ids[0]}\n{ids[6]}\n")
        # 0 and 4 lie in two shards and one batch; 6 has 13 windows, more than go through at once.
        for block in (0, 1, 2):
            for ranks in (None, 2):
                text = self.embed("a.h5", "--attention", "@ids.txt", "--attention-block", block + 1, "threads=1", ranks=ranks).out
                np.testing.assert_allclose(self.check("a.h5", ASTROMER2, block, (0, 4, 6, 8)), embedding, rtol=0, atol=3e-6)
        self.assertIn("attention  27 windows of 4 light curves, the weights of the 3 heads of block 3", text)

    def test_where_padding_is_seen(self):
        self.make(ASTROMER1)
        ids = [curve[0] for shard in self.shards for curve in shard]
        self.embed("a.h5", "--attention", f"{ids[0]},{ids[3]}")
        self.check("a.h5", ASTROMER1, 0, (0, 3))

    def test_refused(self):
        self.make()
        for ranks in (None, 3):
            self.refused(2, "no light curve 'étoile-3-1', did you mean étoile-3-0?", "--attention", "étoile-3-1", ranks=ranks)
        self.refused(2, "no light curve 'M31'; its ids look like étoile-0-0", "--attention", "M31")
        self.refused(2, "block 4: the checkpoint's model has 3 blocks", "--attention", "étoile-3-0", "--attention-block", "4", ranks=2)
        self.refused(2, "give --attention", "--attention-block", "1")
        self.refused(1, "full window", "--attention", "étoile-0-0", "--full-windows", ranks=2)


class Failures(Embed):
    def test_command_line(self):
        self.make()
        self.refused(2, "did you mean --blocks?", "--block")
        self.refused(2, "mean or max", "--pool", "median")
        self.refused(2, "--pool", "--pool")
        self.refused(2, "device", "devise=cpu")
        self.refused(2, "data.window=8", "data.window=8")
        self.refused(2, "data.window=8", "data.window=8", ranks=2)
        self.refused(2, "precision", "precision=fp23")
        self.refused(2, "word", "word")
        for missing in ("--checkpoint", "--survey", "--out"):
            words = [f"{name}=x" for name in ("--checkpoint", "--survey", "--out") if name != missing]
            self.assertIn(f"{missing} is missing", self.expect(2, "embed", *words).message)

    def test_checkpoints(self):
        self.make()
        self.refused(1, "nothing.h5", checkpoint="nothing.h5")
        self.refused(1, "nothing.h5", checkpoint="nothing.h5", ranks=2)
        self.refused(1, "survey", checkpoint="survey")
        shard = "survey/shard-00000-of-00005.h5"
        self.refused(1, shard, checkpoint=shard)
        (self.folder / "cut.h5").write_bytes((self.folder / "c.h5").read_bytes()[:9000])
        self.refused(1, "cut.h5", checkpoint="cut.h5")

        def poison(weights):
            weights["block1.ffn1.weight"][3, 2] = np.inf

        write_checkpoint(self.folder / "poisoned.h5", ASTROMER2, poison)
        self.assertIn("block1.ffn1.weight", self.refused(1, "poisoned.h5", checkpoint="poisoned.h5", ranks=2))

        def blow_up(weights):
            weights["block2.norm2.gain"][:] = 3e38

        write_checkpoint(self.folder / "huge.h5", ASTROMER2, blow_up)
        for pool in ("mean", "max"):
            self.assertIn("not finite", self.refused(1, "huge.h5", "--pool", pool, checkpoint="huge.h5"))

    def test_surveys(self):
        self.make()
        (self.folder / "empty").mkdir()
        for survey in ("nowhere", "empty", "c.h5"):
            self.refused(1, survey, survey=survey)
        write_survey(self.folder / "hollow", [[], []])
        self.refused(1, "no light curves", survey="hollow")
        write_survey(self.folder / "short", draw_curves([(5, 6), (15,)]))
        self.refused(1, "--full-windows", "--full-windows", survey="short", ranks=2)
        os.remove(self.survey / "shard-00002-of-00005.h5")
        self.refused(1, "shard-00002-of-00005.h5", ranks=2)

    def test_output(self):
        self.make()
        self.refused(1, "nowhere/e.h5", out="nowhere/e.h5")
        self.refused(1, "nowhere/e.h5", out="nowhere/e.h5", ranks=2)
        self.refused(1, "c.h5/e.h5", out="c.h5/e.h5")
        self.refused(1, "a folder", out="survey")
        self.refused(1, "e" * 300, out="e" * 300)
        os.mkfifo(self.folder / "pipe")
        self.refused(1, "no ordinary file", out="pipe")
        self.refused(2, "overwrite", out="c.h5")
        self.refused(2, "overwrite", out="./survey/../c.h5", ranks=2)
        self.refused(2, "overwrite", out="survey/shard-00004-of-00005.h5", ranks=3)
        (self.folder / "e.h5.partial").mkdir()
        self.refused(1, "in the way")

    def test_disk_too_small(self):
        self.make()
        words = [PROGRAM, "embed", "--checkpoint", "c.h5", "--survey", "survey", "--out", "e.h5"]
        shell = ["sh", "-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]
        done = subprocess.run(shell + words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1, done)
        self.assertRegex(done.stderr, r"^astromer: e\.h5\.partial: no room for [0-9.]+ MB of embeddings: .*\n$")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["c.h5", "survey"])

    def test_disk_that_fails(self):
        """From some write on every write of one rank fails: all ranks end, nothing is left."""
        self.make()
        if subprocess.run(["strace", "-o", "/dev/null", "true"], stderr=subprocess.DEVNULL, check=False).returncode \
                if shutil.which("strace") else True:
            self.skipTest("strace is not there or may not trace")
        script = self.write("rank.sh", 'failing=$1 from=$2; shift 2\n[ "${OMPI_COMM_WORLD_RANK-0}" = $failing ] || exec "$@"\n'
                            'exec strace -f -o trace -e trace=pwrite64 -e inject=pwrite64:error=EIO:when=$from+ "$@"\n')
        words = [PROGRAM, "embed", "--checkpoint", "c.h5", "--survey", "survey", "--out", "e.h5", "threads=1"]
        for ranks, failing, first in ((0, 0, 3), (0, 0, 14), (2, 0, 3), (2, 0, 14), (2, 1, 4)):
            start = [MPIRUN, "--quiet", "-n", str(ranks)] if ranks else []
            done = subprocess.run(start + ["sh", script, str(failing), str(first)] + words, cwd=self.folder, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1, done)
            lines = [line for line in done.stderr.splitlines() if line.startswith("astromer: ")]
            self.assertEqual(len(lines), 1, done)
            self.assertRegex(lines[0], r"^astromer: e\.h5\.partial: .*cannot be ")
            self.assertFalse(list(self.folder.glob("e.h5*")))

    def test_two_at_work_on_one_file(self):
        self.make()
        partial = self.write("e.h5.partial", "half of it")
        with open(self.write("e.h5.partial-lock", "")) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for ranks in (None, 2):
                self.assertIn("another embed is writing it", self.embed("e.h5", status=1, ranks=ranks).message)
                self.assertEqual(partial.read_text(), "half of it")
        self.embed("e.h5", ranks=2)
        self.assertEqual(sorted(path.name for path in self.folder.glob("e.h5*")), ["e.h5"])

    def test_an_old_file_stays_until_the_new_one_is_whole(self):
        self.make()
        self.write("e.h5", "an old file")
        self.write("e.h5.partial", "left by a run that was killed")
        with h5py.File(self.survey / "shard-00004-of-00005.h5", "r+") as file:
            magnitude = file["magnitude"][1]
            file["magnitude"][1] = 3e38
        self.embed("e.h5", status=1, ranks=2)
        self.assertEqual((self.folder / "e.h5").read_text(), "an old file")
        self.assertFalse((self.folder / "e.h5.partial").exists())
        with h5py.File(self.survey / "shard-00004-of-00005.h5", "r+") as file:
            file["magnitude"][1] = magnitude
        self.embed("e.h5", ranks=2)
        with h5py.File(self.folder / "e.h5") as file:
            self.assertEqual(len(file["id"]), 11)


if __name__ == "__main__":
    main()
