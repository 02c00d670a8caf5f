# SPDX-License-Identifier: MIT
"""Shows that info says what surveys, shards, checkpoints and runs hold, and names each one that is damaged or no such thing."""
import shutil
import zlib

import h5py
import numpy as np

from harness import CommandLineTest, main

TINY = """
data: {survey: survey, validation: 0.2, window: 30}
model: {blocks: 1, heads: 2, width: 8, ffn: 12}
train: {batch: 16, epochs: 2, learning_rate: 1e-3}
run: {dir: run}
device: cpu
threads: 1
"""


class Info(CommandLineTest):
    def damage(self, path, new=None):
        """The same file with one of its last bytes changed, or cut in half."""
        path = self.folder / path
        data = bytearray(path.read_bytes())
        if new == "cut":
            del data[len(data) // 2:]
        else:
            data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def synth(self):
        self.expect(0, "synth", "--out", "survey", "--curves", 90, "--shards", 4, "--seed", 4)

    def run_tiny(self):
        self.synth()
        self.write("tiny.yaml", TINY)
        self.expect(0, "pretrain", "--config", "tiny.yaml")
        return sorted((self.folder / "run" / "checkpoints").glob("step-*.h5"))[-1]

    def test_survey_and_shard(self):
        self.synth()
        lengths, times, labels = [], [], []
        for shard in sorted((self.folder / "survey").glob("shard-*")):
            with h5py.File(shard) as file:
                lengths += list(np.diff(file["offset"][:].astype(int)))
                times += list(file["time"][:])
                labels += list(file["label"][:])
                identity = file.attrs["survey_id"]
        identity = identity.decode() if isinstance(identity, bytes) else identity
        out = self.expect(0, "info", "survey", ranks=2).out
        lengths.sort()
        for part in ("survey survey", "light curves  90", f"observations  {sum(lengths)}", identity,
                     f"shortest {lengths[0]}, median {lengths[45]}, longest {lengths[-1]}",
                     f"MJD {min(times):.3f} to {max(times):.3f}", "4, all whole"):
            self.assertIn(part, out)
        for label, name in enumerate(("Cep_0", "Cep_1", "EC", "LPV", "RRab", "RRc")):
            self.assertRegex(out, rf"{name} +{labels.count(label)}\n")
        out = self.expect(0, "info", "survey/shard-00002-of-00004.h5").out
        for part in ("shard survey/shard-00002-of-00004.h5", "number 2 of 4", identity):
            self.assertIn(part, out)

    def test_damaged_survey(self):
        self.synth()
        self.damage("survey/shard-00003-of-00004.h5")
        for path in ("survey", "survey/shard-00003-of-00004.h5"):
            self.assertIn("shard-00003-of-00004.h5", self.expect(1, "info", path, ranks=2).message)
        (self.folder / "survey/shard-00003-of-00004.h5").unlink()
        self.assertIn("shard-00003-of-00004.h5: is missing", self.expect(1, "info", "survey").message)

    def test_checkpoint_and_run(self):
        checkpoint = self.run_tiny()
        out = self.expect(0, "info", checkpoint, "run/best.h5").out
        for part in (f"checkpoint {checkpoint}", "1 blocks, 2 heads, width 8, FFN 12", "10 steps", "2 done", "a run can go on",
                     "validation RMSE", "verified", "learning_rate: 0.001", "checkpoint run/best.h5", "holds         weights\n"):
            self.assertIn(part, out)
        out = self.expect(0, "info", "run").out
        for part in ("run run", f"checkpoint run/checkpoints/{checkpoint.name}", "checkpoint run/best.h5", '"event":"end"', "0 damaged"):
            self.assertIn(part, out.replace('"event": "', '"event":"'))

    def test_damaged_checkpoints(self):
        checkpoint = self.run_tiny()
        later = checkpoint.with_name("step-00099999.h5")
        shutil.copy(checkpoint, later)
        self.damage(later, "cut")
        result = self.expect(1, "info", "run")
        self.assertIn(later.name, result.message)
        self.assertIn(f"checkpoint run/checkpoints/{checkpoint.name}", result.out)
        self.assertIn(later.name, self.expect(1, "info", later).message)
        later.unlink()
        with h5py.File(checkpoint, "r+") as file:
            file["parameters/token"][...] += 1
        self.assertIn("parameters/token", self.expect(1, "info", checkpoint).message)

    def test_checkpoint_by_others(self):
        checkpoint = self.run_tiny()
        with h5py.File(checkpoint) as ours, h5py.File(self.folder / "theirs.h5", "w") as theirs:
            for name, tensor in ours["parameters"].items():
                theirs[f"parameters/{name}"] = tensor[...].astype("f8")
            theirs["config"] = ours["config"][()].decode()
            theirs.attrs["format_version"] = 1
        out = self.expect(0, "info", "theirs.h5").out
        for part in ("1 blocks", "0 verified", "datasets have none", "holds         weights\n"):
            self.assertIn(part, out)
        with h5py.File(self.folder / "theirs.h5", "r+") as theirs:
            del theirs["parameters/block0.query.bias"]
        self.assertIn("parameters/block0.query.bias is missing", self.expect(1, "info", "theirs.h5").message)
        with h5py.File(self.folder / "theirs.h5", "r+") as theirs:
            theirs["parameters/block0.query.bias"] = np.zeros(8, "f4")
            theirs["parameters/block0.query.bias"].attrs["crc32"] = np.uint32(zlib.crc32(bytes(32)))
            del theirs["config"]
            theirs["config"] = "model: {blokcs: 1}\n"
        self.assertIn("blokcs", self.expect(1, "info", "theirs.h5").message)

    def test_what_is_none_of_them(self):
        self.write("text.txt", "hello\n")
        self.write("empty.h5", "")
        (self.folder / "folder").mkdir()
        with h5py.File(self.folder / "other.h5", "w") as file:
            file["x"] = 1
        with h5py.File(self.folder / "golden.h5", "w") as file:
            file["weights/x"] = file["expected/x"] = 1
        for name, reason in (("text.txt", "not an HDF5 file"), ("empty.h5", "not an HDF5 file"), ("folder", "holds no shards"),
                             ("other.h5", "neither a shard nor folds nor a checkpoint"),
                             ("golden.h5", "astromer check"), ("nosuch", "No such file")):
            message = self.expect(1, "info", name).message
            self.assertIn(name, message)
            self.assertIn(reason, message)


if __name__ == "__main__":
    main()
