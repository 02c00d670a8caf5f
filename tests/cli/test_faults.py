# SPDX-License-Identifier: MIT
"""Shows what a run survives: SIGKILL of one rank and of all at random moments and inside the write of a checkpoint, damaged and foreign
checkpoints, full disks, read-only folders, shards that are missing, damaged or changed, a second run in its folder, and a config of
another model. Each ends with the run going on from a good checkpoint, or with one line that says what to do; never with a hang."""
import json
import os
import random
import shutil
import signal
import subprocess

import h5py

from harness import main
from runs import Background, Training, newest

KILLS = 20


class Kills(Training):
    """A checkpoint at every step, so that a run is inside the write of one most of the time."""

    def setUp(self):
        super().setUp()
        self.seed = random.SystemRandom().randrange(1 << 32)
        self.random = random.Random(self.seed)
        self.run_folder = self.folder / "run"
        self.checkpoints = self.run_folder / "checkpoints"

    def events(self, event):
        """Whole lines only: a kill may leave a part of one."""
        found, log = [], self.run_folder / "log.jsonl"
        for line in log.read_text().splitlines() if log.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if line["event"] == event]

    def written(self):
        """The step of the last checkpoint that the run has reported as written."""
        steps = [line["step"] for line in self.events("checkpoint")]
        return steps[-1] if steps else 0

    def in_a_write(self):
        try:
            return any(".tmp" in name for name in os.listdir(self.checkpoints))
        except FileNotFoundError:
            return False

    def kill_once(self, run, trial):
        """Kills all ranks, or one, inside a write or at any moment; True when it was inside a write."""
        before, more = self.written(), self.random.randint(0, 3)
        run.wait_until(lambda: self.written() >= before + more and len(run.find_ranks()) == 2)
        if trial % 4 != 3:
            run.stop_when(self.in_a_write)
        inside = self.in_a_write()
        if trial % 2:
            run.signal(signal.SIGKILL, [self.random.choice(run.find_ranks())])
            run.signal(signal.SIGCONT)
            self.assertNotEqual(run.wait(), 0)
        else:
            run.kill()
        return inside

    def test_twenty_kills_in_a_row(self):
        often, inside = ["checkpoint.every_seconds=1e-9", "--resume"], 0
        with self.subTest(seed=self.seed):
            for trial in range(KILLS):
                written = self.written()
                run = Background(self, *self.words("run", "train.steps=1000000", *often), ranks=2)
                run.wait_until(lambda: len(self.events("start")) > trial)
                self.assertGreaterEqual(self.events("start")[-1]["step"], written, run.text())
                inside += self.kill_once(run, trial)
            self.assertGreaterEqual(inside, KILLS // 2)
            last = self.written() + 3
            self.train("run", *often, f"train.steps={last}", ranks=2)
            self.assertEqual([path.name for path in self.checkpoints.iterdir() if "tmp" in path.name], [])
            self.train("whole", f"train.steps={last}", ranks=2)
            self.assert_close(newest(self.run_folder), newest(self.folder / "whole"), 0)
            self.assert_close(self.run_folder / "best.h5", self.folder / "whole" / "best.h5", 0)


class Damage(Training):
    """What is wrong with the newest checkpoint, and the run goes on from the one before and says so."""

    def setUp(self):
        super().setUp()
        self.train("first", "train.steps=6", "checkpoint.every_seconds=1e-9")
        self.train("whole", "train.steps=8")

    def goes_on(self, harm, said):
        """Resumes a run of 6 steps whose checkpoint of step 6 has come to harm."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        shutil.copytree(self.folder / "first", self.folder / "run")
        harm(newest(self.folder / "run"))
        result = self.train("run", "train.steps=8", "--resume")
        for part in ("passing over", "step-00000006.h5", said):
            self.assertIn(part, result.err)
        self.assertEqual(result.err.count("\n"), 1, result.err)
        self.assertEqual(self.log("run", "start")[-1]["step"], 5)
        self.assert_close(newest(self.folder / "run"), newest(self.folder / "whole"), 0)

    def test_a_flipped_byte(self):
        def flip(path):
            data = bytearray(path.read_bytes())
            with h5py.File(path) as file:
                place = data.find(file["adam/v/block1.ffn1.weight"][:].tobytes())
            self.assertGreater(place, 0)
            data[place + 7] ^= 0x20
            path.write_bytes(data)

        self.goes_on(flip, "adam/v/block1.ffn1.weight is damaged")

    def test_cut_short(self):
        for left, said in ((0, "not an HDF5 file"), (100, ""), (0.5, ""), (0.999, "")):
            self.goes_on(lambda path: os.truncate(path, int(left if left > 1 else left * path.stat().st_size)), said)

    def test_a_tensor_is_missing(self):
        for name in ("parameters/block0.query.weight", "adam/m/token", "adam"):
            def remove(path):
                with h5py.File(path, "r+", libver="latest") as file:
                    del file[name]

            self.goes_on(remove, name if "/" in name else "weights only")

    def test_a_tensor_of_another_shape(self):
        def reshape(path):
            with h5py.File(path, "r+", libver="latest") as file:
                values = file["parameters/block0.query.weight"][:4]
                del file["parameters/block0.query.weight"]
                file["parameters/block0.query.weight"] = values

        self.goes_on(reshape, "has the shape 4 x 16")

    def test_a_foreign_file(self):
        shard = sorted((self.folder / "survey").glob("*.h5"))[0]
        self.goes_on(lambda path: path.write_bytes(b"not a checkpoint\n" * 1000), "not an HDF5 file")
        self.goes_on(lambda path: shutil.copy(shard, path), "not a checkpoint")
        self.goes_on(lambda path: shutil.copy(self.folder / "whole" / "best.h5", path), "weights only")
        self.goes_on(lambda path: shutil.copy(path.with_name("step-00000005.h5"), path), "of step 5 by its content")

    def test_none_is_left(self):
        for path in (self.folder / "first" / "checkpoints").glob("*.h5"):
            os.truncate(path, 1000)
        result = self.run_program(*self.words("first", "--resume"))
        self.assertEqual((result.status, result.err.count("\n")), (1, 3), result)
        self.assertIn("move them away", result.err.splitlines()[-1])


class AnotherModel(Training):
    def test_a_resume_with_another_model(self):
        self.train("run", "train.steps=2")
        kept = newest(self.folder / "run").read_bytes()
        for word in ("model.blocks=1", "model.heads=4", "model.width=32", "model.ffn=8", "model.leak=false", "model.mask=QK", "model.alpha=1",
                     "model.token=false", "model.pe_base=1000", "data.window=40"):
            message = self.train("run", "train.steps=4", word, "--resume", status=2, ranks=2 if word == "model.width=32" else None).message
            self.assertIn(word.partition("=")[0], message)
            self.assertIn("resumes with the model it had", message)
        self.train("run", "train.steps=4", "model.dropout=0.1", "train.learning_rate=1e-4", "--resume")
        self.assertFalse((self.folder / "run" / "checkpoints" / "step-00000003.h5").exists())
        self.assertEqual((self.folder / "run" / "checkpoints" / "step-00000002.h5").read_bytes(), kept)


if __name__ == "__main__":
    main()
