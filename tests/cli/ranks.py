# SPDX-License-Identifier: MIT
"""A training under mpirun that a test can look into: signals for single ranks, and how it ended."""
import json
import os
import subprocess
import time
from pathlib import Path

from harness import MPIRUN, PROGRAM, TIMEOUT_SECONDS, Result

# Open MPI's launcher usually ends a job as soon as it sees that a rank is dead. Other launchers do not, and no more does this one.
LAUNCHER_LOOKS_ON = ("--mca", "orte_abort_on_non_zero_status", "0", "--enable-recovery")


class RunningRanks:
    """`mpirun -n RANKS astromer pretrain WORDS`, running; its output is kept in files, so that no pipe fills."""

    def __init__(self, test, run, ranks, *words, program=PROGRAM, options=(), **environment):
        self.log, self.ranks = test.folder / run / "log.jsonl", ranks
        self.out, self.err = test.folder / f"{run}.out", test.folder / f"{run}.err"
        with open(self.out, "w", encoding="utf-8") as out, open(self.err, "w", encoding="utf-8") as err:
            self.process = subprocess.Popen([MPIRUN, *options, "-n", str(ranks), program, "pretrain", f"run.dir={run}", *map(str, words)],
                                            stdout=out, stderr=err, cwd=test.folder, env={**os.environ, **environment})
        test.addCleanup(self.end)

    def steps(self):
        """Steps in the log so far."""
        try:
            lines = self.log.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return 0
        return sum(json.loads(line)["event"] == "step" for line in lines if line.endswith("}"))

    def wait_for_steps(self, count):
        until = time.monotonic() + TIMEOUT_SECONDS
        while self.steps() < count:
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"no {count} steps came\n{self.result(0)}")
            time.sleep(0.05)

    def pids(self):
        """The processes of the ranks, in their order."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != self.process.pid:
                    continue
                settings = dict(word.partition("=")[::2] for word in (folder / "environ").read_bytes().decode(errors="replace").split("\0"))
                found[int(settings["OMPI_COMM_WORLD_RANK"])] = int(folder.name)
            except (OSError, KeyError, ValueError):
                continue
        if sorted(found) != list(range(self.ranks)):
            raise AssertionError(f"only the ranks {sorted(found)} of {self.ranks} run\n{self.result(0)}")
        return [found[rank] for rank in range(self.ranks)]

    def signal(self, number, *ranks):
        pids = self.pids()
        for rank in ranks or range(self.ranks):
            os.kill(pids[rank], number)

    def result(self, timeout=TIMEOUT_SECONDS):
        """Waits for the end."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        self.process.stdout, self.process.stderr = (path.read_text(encoding="utf-8", errors="replace") for path in (self.out, self.err))
        return Result(self.process)

    def end(self):
        """Whatever is left of it is killed; mpirun takes its ranks with it."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(TIMEOUT_SECONDS)


def errors_of(result):
    """What the program itself said that it failed of."""
    return [line[len("astromer: "):] for line in result.err.splitlines() if line.startswith("astromer: ")]
