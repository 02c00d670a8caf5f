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
import zlib

import h5py
import numpy as np

from harness import MPIRUN, PROGRAM, main
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

    def test_bytes_are_wrong_or_missing(self):
        def flip(path):
            data = bytearray(path.read_bytes())
            with h5py.File(path) as file:
                place = data.find(file["adam/v/block1.ffn1.weight"][:].tobytes())
            self.assertGreater(place, 0)
            data[place + 7] ^= 0x20
            path.write_bytes(data)

        self.goes_on(flip, "adam/v/block1.ffn1.weight is damaged")
        for left, said in ((0, "not an HDF5 file"), (0.5, "cut short"), (0.999, "cut short")):
            self.goes_on(lambda path: os.truncate(path, int(left * path.stat().st_size)), said)
        for path in (self.folder / "run" / "checkpoints").glob("*.h5"):
            os.truncate(path, 1000)
        result = self.run_program(*self.words("run", "--resume"))
        self.assertEqual((result.status, result.err.count("passing over")), (1, 3), result)
        self.assertEqual(result.err.count("\n"), 4, result)
        self.assertIn("move them away", result.err.splitlines()[-1])

    def test_a_tensor_is_missing_or_has_another_shape(self):
        for name in ("parameters/block0.query.weight", "adam/m/token", "adam"):
            def remove(path):
                with h5py.File(path, "r+", libver="latest") as file:
                    del file[name]

            self.goes_on(remove, name if "/" in name else "weights only")

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


class AnotherModel(Training):
    def test_a_resume_with_another_model(self):
        self.train("run", "train.steps=2")
        kept = newest(self.folder / "run").read_bytes()
        for word in ("model.blocks=1", "model.heads=4", "model.width=32", "model.ffn=8", "model.leak=false", "model.mask=QK",
                     "model.alpha=1", "model.token=false", "model.pe_base=1000", "data.window=40"):
            ranks = 2 if word == "model.width=32" else None
            message = self.train("run", "train.steps=4", word, "--resume", status=2, ranks=ranks).message
            self.assertIn(word.partition("=")[0], message)
            self.assertIn("resumes with the model it had", message)
        self.train("run", "train.steps=4", "model.dropout=0.1", "train.learning_rate=1e-4", "--resume")
        self.assertFalse((self.folder / "run" / "checkpoints" / "step-00000003.h5").exists())
        self.assertEqual((self.folder / "run" / "checkpoints" / "step-00000002.h5").read_bytes(), kept)


def namespace():
    """Words that start a shell which may mount, or None."""
    for words in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            if subprocess.run([*words, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], stderr=subprocess.DEVNULL).returncode == 0:
                return words
        except FileNotFoundError:
            pass
    return None


class Disk(Training):
    """Each script has "$@" for the program with all but the last words."""

    def script(self, text, ranks=None):
        """Runs a shell script with mounts of its own; the lines that it prints, "status N" after each run."""
        words = namespace()
        if not words:
            self.skipTest("mount namespaces are not available here (unshare --mount)")
        start = [MPIRUN, "-n", str(ranks)] if ranks else []
        program = [*start, PROGRAM, *self.words("run")]
        result = subprocess.run([*words, "bash", "-c", "set -eu\ntrain() { \"${program[@]}\" \"$@\" || echo status $?; }\n"
                                 'program=("$@")\n' + text, "bash", *program], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=300)
        self.assertEqual(result.returncode, 0, result.stdout)
        return result.stdout

    def assert_went_on(self, out, *said, ranks=None):
        """One failure with one line that holds the words; in the end the run is what it is without any."""
        self.assertEqual(out.count("status 1\n"), 1, out)
        ours = [line for line in out.splitlines() if line.startswith("astromer: ")]
        self.assertEqual(len(ours), 1, out)
        for part in said:
            self.assertIn(part, ours[0])
        whole = self.folder / f"whole{ranks}"
        if not whole.exists():
            self.train(whole.name, "train.steps=9", ranks=ranks)
        self.assertEqual(newest(self.folder / "run").name, "step-00000009.h5")
        self.assert_close(newest(self.folder / "run"), newest(whole), 0)
        self.assertFalse([path for path in (self.folder / "run").rglob("*") if "tmp" in path.name or path.name == "lock"])

    def test_a_full_disk(self):
        """At the beginning, in a checkpoint, and in the best weights."""
        for free, said, steps, ranks in ((0, "config.yaml", 9, None), (60, "step-00000009.h5", 9, None), (60, "step-00000009.h5", 9, 2),
                                         (30, "best.h5", 20, None)):
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            out = self.script(f"""
                mkdir run
                mount -t tmpfs -o size=1m tmpfs run
                train train.steps=6 > /dev/null
                head -c 2M /dev/zero > run/filler 2> /dev/null || true
                truncate -s -{free}K run/filler
                train train.steps={steps} --resume
                rm run/filler
                train train.steps=9 --resume > /dev/null
                cp -r run kept
                umount run
                mv kept/* run""", ranks)
            self.assert_went_on(out, said, "No space left on device", "go on with --resume", ranks=ranks)
            shutil.rmtree(self.folder / "kept")

    def test_a_read_only_folder(self):
        for place, said in (("run", ["run/lock", "needs a folder that it can write to"]),
                            ("run/checkpoints", ["run/checkpoints", "go on with --resume"])):
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            out = self.script(f"""
                train train.steps=6 > /dev/null
                mount --bind {place} {place}
                mount -o remount,ro,bind {place}
                train train.steps=9 --resume
                umount {place}
                train train.steps=9 --resume > /dev/null""")
            self.assert_went_on(out, *said, "Read-only file system")

    def test_a_limit_to_the_size_of_files(self):
        """Which the system answers with a signal that ends a process unless told not to."""
        self.train("run", "train.steps=6")
        limited = subprocess.run(["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", PROGRAM,
                                  *self.words("run", "train.steps=9", "--resume")], cwd=self.folder, stderr=subprocess.PIPE, text=True,
                                 stdout=subprocess.DEVNULL)
        self.assertEqual((limited.returncode, limited.stderr.count("\n")), (1, 1), limited)
        self.assertIn("File too large", limited.stderr)
        self.train("run", "train.steps=9", "--resume")

    def test_a_log_that_cannot_be_written(self):
        """The training is worth more than its log: one warning."""
        (self.folder / "run").mkdir()
        (self.folder / "run" / "log.jsonl").symlink_to("/dev/full")
        out = self.train("run", "train.steps=9", ranks=2).out
        self.assertEqual(out.count("warning: run/log.jsonl cannot be written (No space left on device)"), 1, out)
        self.assertEqual(newest(self.folder / "run").name, "step-00000009.h5")

    def test_a_line_that_a_kill_cut_off(self):
        self.train("run", "train.steps=3")
        with open(self.folder / "run" / "log.jsonl", "a") as log:
            log.write('{"event": "step", "ti')
        self.train("run", "train.steps=4", "--resume")
        lines = (self.folder / "run" / "log.jsonl").read_text().splitlines()
        self.assertEqual(lines.count('{"event": "step", "ti'), 1)
        lines.remove('{"event": "step", "ti')
        self.assertEqual([line["step"] for line in map(json.loads, lines) if line["event"] == "step"], [1, 2, 3, 4])


class Shards(Training):
    """What happens to a survey between a run's start and its resume."""

    def setUp(self):
        super().setUp()
        self.train("run", "train.steps=6")
        self.shard = self.folder / "survey" / "shard-00003-of-00005.h5"
        self.kept = self.shard.read_bytes()
        with h5py.File(self.shard) as file:
            self.magnitudes = file["magnitude"][:].tobytes()

    def refused(self, *said, shard=True):
        message = self.train("run", "train.steps=9", "--resume", status=1, ranks=2).message
        for part in (*said, *([self.shard.name] if shard else [])):
            self.assertIn(part, message)

    def test_a_shard_comes_to_harm(self):
        self.expect(0, "synth", "--out", "other", "--curves", 120, "--shards", 5, "--seed", 5)
        self.shard.unlink()
        self.refused("is missing", "copy it here or ingest again")
        self.shard.write_bytes(self.kept[:len(self.kept) // 2])
        self.refused("cut short")
        self.shard.write_bytes((self.folder / "other" / self.shard.name).read_bytes())
        self.refused("belongs to another survey")
        place = self.kept.find(self.magnitudes)
        self.shard.write_bytes(self.kept[:place] + bytes(4) + self.kept[place + 4:])
        self.refused("checksum")
        self.shard.write_bytes(self.kept)
        self.train("run", "train.steps=9", "--resume", ranks=2)
        self.train("whole", "train.steps=9")
        self.assert_close(newest(self.folder / "run"), newest(self.folder / "whole"), 1e-4)

    def test_a_survey_that_is_another_one_now(self):
        """Made again, or a shard written again by hand: neither is trained on unasked."""
        with h5py.File(self.shard, "r+") as file:
            file["magnitude"][3] += 0.25
            data = file["magnitude"][:].tobytes()
            file["magnitude"].attrs["crc32"] = np.uint32(zlib.crc32(data))
        self.refused("survey: its light curves have changed since run/checkpoints/step-00000006.h5", shard=False)
        shutil.rmtree(self.folder / "survey")
        self.expect(0, "synth", "--out", "survey", "--curves", 120, "--shards", 5, "--seed", 5)
        self.refused("survey: its light curves have changed", "another folder", shard=False)
        (self.folder / "survey").rename(self.folder / "new")
        self.assertIn("data.survey was survey and is new now", self.train("run", "train.steps=9", "--resume", "data.survey=new").out)

    def test_the_same_survey_made_again(self):
        shutil.rmtree(self.folder / "survey")
        self.expect(0, "synth", "--out", "survey", "--curves", 120, "--shards", 5, "--seed", 4)
        self.train("run", "train.steps=9", "--resume")


class TwoRuns(Training):
    def test_two_runs_in_one_folder(self):
        first = Background(self, *self.words("run", "train.steps=1000000", "checkpoint.every_seconds=1e-9"))
        first.wait_until(lambda: list((self.folder / "run").glob("checkpoints/step-*.h5")))
        for more, ranks in (([], None), (["--resume"], None), (["--resume"], 2)):
            message = self.train("run", "train.steps=5", *more, status=1, ranks=ranks).message
            for part in ("run: another run is at work", f"process {first.process.pid} on", "run.dir"):
                self.assertIn(part, message)
        reached = int(newest(self.folder / "run").stem[5:])
        first.wait_until(lambda: int(newest(self.folder / "run").stem[5:]) > reached)
        first.kill()
        reached = int(newest(self.folder / "run").stem[5:])
        self.train("run", f"train.steps={reached + 2}", "--resume")
        self.assertFalse((self.folder / "run" / "lock").exists())

    def test_a_refused_run_leaves_no_folder(self):
        self.train("run", "data.survey=nosuch", status=1)
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    main()
