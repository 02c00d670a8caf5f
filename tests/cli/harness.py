# SPDX-License-Identifier: MIT
"""What the command line tests share: a scratch folder for each test case, and the program run as a user runs it."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("ASTROMER", str(ROOT / "build" / "astromer"))
MPIRUN = os.environ.get("MPIRUN", "mpirun")
TIMEOUT_SECONDS = 300


# A program starts with the peak of whoever starts it, which must be small then.
SMALL_STARTER = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
                 "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")


class Result:
    def __init__(self, process):
        self.status, self.out, self.err = process.returncode, process.stdout, process.stderr

    def __str__(self):
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class CommandLineTest(unittest.TestCase):
    """Each test method has an empty folder `self.folder`, which is also the program's working folder."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="astromer-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def run_program(self, *words, ranks=None, stdout=subprocess.PIPE, **environment):
        """Runs `astromer WORDS`, under mpirun when ranks is given."""
        start = [MPIRUN, "-n", str(ranks)] if ranks else []
        return Result(subprocess.run(start + [PROGRAM] + [str(w) for w in words], stdout=stdout, stderr=subprocess.PIPE, text=True,
                                     errors="replace", cwd=self.folder, env={**os.environ, **environment}, timeout=TIMEOUT_SECONDS))

    def expect(self, status, *words, **options):
        """Runs the program and wants this exit status; a failure must be exactly one line on standard error."""
        result = self.run_program(*words, **options)
        self.assertEqual(result.status, status, f"astromer {' '.join(map(str, words))}\n{result}")
        if status:
            ours = [line for line in result.err.splitlines() if line.startswith("astromer: ")]
            self.assertEqual(len(ours), 1, f"one line of error is wanted\n{result}")
            result.message = ours[0][len("astromer: "):]
            if not options.get("ranks"):
                self.assertEqual(result.err.count("\n"), 1, f"nothing but that line is wanted\n{result}")
        return result

    def peak_bytes(self, *words):
        """The most memory that a successful run of `astromer WORDS` had."""
        done = subprocess.run([sys.executable, "-S", "-c", SMALL_STARTER, PROGRAM, *map(str, words)], cwd=self.folder, check=True,
                              stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS)
        return 1024 * int(done.stdout)

    def assert_in(self, part, text):
        self.assertIn(part, text)


def main():
    if not os.access(PROGRAM, os.X_OK):
        print(f"{PROGRAM} is not built")
        sys.exit(1)
    unittest.main()
