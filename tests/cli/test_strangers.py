# SPDX-License-Identifier: MIT
"""Shows that no name in a stranger's file, raw, shard or checkpoint, makes the program write outside --out and run.dir, and that files
made to break it end in one line."""
import os
import shutil
import subprocess
import zlib

import h5py
import numpy as np

from harness import PROGRAM, CommandLineTest, main

HOSTILE = ["../up", "../../upper", "/tmp/astromer-absolute", "a/../../b", "x;touch ran", "$(touch ran)", "`touch ran`", "%s%n%n", "-rf",
           "\\..\\c", "\x1b[2Jd", "e\u202ef", "g" * 255]
TINY = """
data: {window: 20, validation: 0.2}
model: {blocks: 1, heads: 1, width: 4, ffn: 4}
train: {batch: 8, steps: 4, epochs: 0}
checkpoint: {keep: 1}
"""


def everything(folder):
    """Every path below a folder with what shows that it was written."""
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def table(ids, separator=","):
    rows = [f"{name}{separator}{50000 + i}{separator}{12 + 0.3 * (i % 5)}{separator}0.02" for name in ids for i in range(30)]
    return separator.join(["id", "mjd", "mag", "err"]) + "\n" + "\n".join(rows) + "\n"


class Strangers(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.inside = self.folder / "deep" / "er" / "work"
        self.inside.mkdir(parents=True)
        self.outer, self.folder = self.folder, self.inside  # ../../.. is still ours to look at

    def writes_only(self, allowed, *words):
        """Runs the program, which must work, and shows that nothing changed but what lies in the folders or files `allowed`."""
        before, absolute = everything(self.outer), os.path.exists("/tmp/astromer-absolute")
        self.expect(0, *words)
        after = everything(self.outer)
        places = [self.inside / name for name in allowed]
        for path in before.keys() | after.keys():
            if before.get(path) == after.get(path) or path in [self.inside, *places] or any(place in path.parents for place in places):
                continue
            self.fail(f"{words[0]} touched {path}")
        self.assertEqual(os.path.exists("/tmp/astromer-absolute"), absolute)

    def make_survey(self):
        self.write("raw/table.csv", table(HOSTILE))
        self.write("labels.csv", "id,class\n" + "\n".join(f"{name},{HOSTILE[(i + 1) % len(HOSTILE)]}" for i, name in enumerate(HOSTILE)))
        self.write("tiny.yaml", TINY)
        self.writes_only(["survey"], "ingest", "--out", "survey", "--filter", "off", "--shards", 3, "--labels", "labels.csv",
                         "--band", "../r", "raw")

    def test_ids_and_classes_are_no_paths(self):
        self.make_survey()
        with h5py.File(self.inside / "survey" / "shard-00000-of-00003.h5") as file:
            self.assertIn(b"../up", file.attrs["classes"].tolist())
        run = ["pretrain", "--config", "tiny.yaml", "data.survey=survey", "run.dir=run"]
        self.writes_only(["run"], *run)
        self.writes_only(["run"], *run, "--resume", "train.steps=6")
        self.writes_only([], "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey")
        self.writes_only(["vectors.h5"], "embed", "--checkpoint", "run/best.h5", "--survey", "survey", "--out", "vectors.h5")
        self.writes_only([], "info", "survey", "run", "survey/shard-00000-of-00003.h5", "run/best.h5")

    def test_names_of_files_are_no_paths(self):
        for i, name in enumerate(name for name in HOSTILE if "/" not in name and len(name) < 200):
            self.write(f"raw/{name}.csv", "".join(f"{50000 + j},{12 + j % 3},0.1\n" for j in range(9 + i)))
        self.writes_only(["survey"], "ingest", "--out", "survey", "--filter", "off", "--shards", 2, "raw")

    def test_a_config_in_a_checkpoint_names_no_folder_to_write_to(self):
        self.make_survey()
        self.expect(0, "pretrain", "--config", "tiny.yaml", "data.survey=survey", "run.dir=run")
        with h5py.File(self.inside / "run" / "best.h5", "a") as file:
            text = file["config"][()].decode().replace('dir: "run"', 'dir: "../../elsewhere"')
            self.assertIn("elsewhere", text)
            del file["config"]
            file["config"] = np.bytes_(text)
            file["config"].attrs["crc32"] = np.uint32(zlib.crc32(text.encode()))
        self.writes_only([], "evaluate", "--checkpoint", "run/best.h5", "--survey", "survey")
        self.writes_only(["v.h5"], "embed", "--checkpoint", "run/best.h5", "--survey", "survey", "--out", "v.h5")
        shutil.copy(self.inside / "run" / "best.h5", self.inside / "run" / "checkpoints" / "step-00000099.h5")
        before = everything(self.outer)
        self.run_program("pretrain", "--config", "tiny.yaml", "data.survey=survey", "run.dir=run", "--resume", "train.steps=110")
        changed = [path for path in everything(self.outer).items() if path not in before.items()]
        self.assertTrue(all(self.inside / "run" in [path, *path.parents] for path, _ in changed), changed)

    def test_what_is_written_where_by_the_system_s_account(self):
        """The same by strace, which also sees what is written and removed again, anywhere."""
        if not shutil.which("strace") or subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode:
            self.skipTest("no strace here")
        self.write("table.csv", table(HOSTILE))
        calls = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,symlink,mknod"
        subprocess.run(["strace", "-f", "-o", "calls", "-e", calls, PROGRAM, "ingest", "--out", "survey", "--filter", "off",
                        "--shards", "2", "table.csv"], cwd=self.inside, check=True, capture_output=True)
        for line in (self.inside / "calls").read_text(errors="replace").splitlines():
            writes = any(word in line for word in ("O_CREAT", "O_WRONLY", "O_RDWR", "mkdir", "rename", "link(", "mknod"))
            if not writes or "= -1" in line or '"' not in line:
                continue
            path = line.split('"')[1]
            # Open MPI's session folder and shared memory, devices, and what the system keeps about a process.
            if path.startswith(("/dev/", "/proc/", "/sys/", "/run/")) or "ompi." in path or "pmix" in path or "openmpi" in path:
                continue
            self.assertTrue(path.startswith("survey"), line)

    def test_a_message_holds_no_terminal_command(self):
        self.write("raw.csv", "id,mjd,mag,err\n" + "".join(f"\x1b]0;x\x07{i},1,2,0.1\n" for i in range(9)))
        result = self.run_program("ingest", "--out", "survey", "raw.csv", "--columns", "id=\x1b[2J")
        self.assertNotEqual(result.status, 0)
        self.assertNotIn("\x1b", result.err)

    def test_golden_files_made_to_break_check(self):
        for name, change in (("array", lambda file: file.attrs.__setitem__("blocks", np.arange(9000.0))),
                             ("fraction", lambda file: (file.attrs.__setitem__("width", 7.5), file.attrs.__setitem__("heads", 2.5))),
                             ("large", lambda file: (file.attrs.__setitem__("width", 100000), file.attrs.__setitem__("ffn", 1000000))),
                             ("texts", lambda file: file.attrs.__setitem__("mask", np.array([b"K"] * 9000)))):
            shutil.copy(os.path.join(os.path.dirname(__file__), "..", "golden", "mixed.h5"), self.inside / f"{name}.h5")
            with h5py.File(self.inside / f"{name}.h5", "a", libver="latest") as file:
                change(file)
            self.expect(1, "check", f"{name}.h5")

    def test_a_checkpoint_of_a_model_that_its_file_cannot_hold(self):
        corpus = os.path.join(os.path.dirname(__file__), "..", "fuzz", "corpus", "checkpoint")
        self.assertIn("the model that its config describes has", self.expect(1, "info", os.path.join(corpus, "huge-model")).message)
        self.assertIn("larger than what the file holds", self.expect(1, "info", os.path.join(corpus, "huge-tensor")).message)

    def test_files_that_break_the_hdf5_library(self):
        """Each of tests/fuzz/library crashes HDF5 1.10 or makes it loop. Another version may survive it: then it is refused as well."""
        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fuzz", "library")
        for name in sorted(os.listdir(folder)):
            self.expect(1, "info", os.path.join(folder, name))
        os.makedirs(self.inside / "survey")
        shutil.copy(os.path.join(folder, "shard-heap-crash"), self.inside / "survey" / "shard-00000-of-00001.h5")
        self.write("tiny.yaml", TINY)
        named = self.expect(1, "pretrain", "--config", "tiny.yaml", "data.survey=survey", "run.dir=run").message
        self.assert_in("survey/shard-00000-of-00001.h5: ", named)
        self.expect(1, "pretrain", "--config", "tiny.yaml", "data.survey=survey", "run.dir=run2", ranks=1)
        os.makedirs(self.inside / "run3" / "checkpoints")
        shutil.copy(os.path.join(folder, "shard-heap-crash"), self.inside / "run3" / "checkpoints" / "step-00000001.h5")
        self.expect(1, "evaluate", "--checkpoint", "run3/checkpoints/step-00000001.h5", "--survey", "survey")
        self.expect(1, "info", "survey", "run3")
        self.expect(1, "check", os.path.join(folder, "shard-heap-crash"))


if __name__ == "__main__":
    main()
