# SPDX-License-Identifier: MIT
"""Shows that a rank that is killed or stopped ends the run on the others with one line that names it, also where the launcher does
not care; and that neither a suspended job nor a slow rank does."""
import os
import signal
import time

from harness import ROOT, CommandLineTest, main
from ranks import LAUNCHER_LOOKS_ON, RunningRanks, errors_of

# An endless training of a model so small that starting is most of the time.
WORDS = ("--config", ROOT / "configs" / "astromer2.yaml", "data.survey=survey", "device=cpu", "threads=1", "data.window=16",
         "model.blocks=1", "model.heads=1", "model.width=8", "model.ffn=8", "train.batch=16", "train.epochs=0",
         "train.steps=1000000000", "train.patience=0", "train.log_every_steps=1", "data.validation=0.2",
         "checkpoint.every_epochs=0", "checkpoint.every_seconds=0")


def is_gone(pid):
    """Whether a process has ended; waits a little for it."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


class Watch(CommandLineTest):
    def start(self, ranks, seconds, **options):
        self.expect(0, "synth", "--out", "survey", "--curves", "48", "--shards", "4")
        running = RunningRanks(self, "run", ranks, *WORDS, f"train.rank_timeout_seconds={seconds}", **options)
        running.wait_for_steps(3)
        return running

    def check_a_stopped_rank(self, rank, witness):
        running = self.start(3, 3)
        running.signal(signal.SIGSTOP, rank)
        result = running.result()
        self.assertNotEqual(result.status, 0, result)
        self.assertEqual(len(errors_of(result)), 1, result)
        self.assertRegex(errors_of(result)[0], f"rank {witness} of 3: rank {rank} on .+ has not answered for 3 s")

    def test_a_stopped_rank(self):
        self.check_a_stopped_rank(2, witness=0)

    def test_the_stopped_rank_may_be_the_first(self):
        self.check_a_stopped_rank(0, witness=1)

    def test_a_killed_rank_whose_launcher_looks_on(self):
        running = self.start(3, 3, options=LAUNCHER_LOOKS_ON)
        pids = running.pids()
        running.signal(signal.SIGKILL, 1)
        result = running.result()
        self.assertEqual(len(errors_of(result)), 1, result)
        self.assertRegex(errors_of(result)[0], "rank 0 of 3: rank 1 on .+ has died")
        self.assertEqual([pid for pid in pids if not is_gone(pid)], [], "no rank is left")

    def test_a_suspended_job_goes_on(self):
        running = self.start(2, 3)
        running.signal(signal.SIGSTOP)
        time.sleep(5)
        running.signal(signal.SIGCONT, 0)
        time.sleep(1)
        running.signal(signal.SIGCONT, 1)
        running.wait_for_steps(running.steps() + 100)
        # A rank alone may pause, too, for less than the limit.
        running.signal(signal.SIGSTOP, 1)
        time.sleep(1.5)
        running.signal(signal.SIGCONT, 1)
        running.wait_for_steps(running.steps() + 100)
        running.signal(signal.SIGTERM, 0)
        result = running.result()
        self.assertEqual((result.status, errors_of(result)), (0, []), result)


if __name__ == "__main__":
    main()
