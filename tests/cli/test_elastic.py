# SPDX-License-Identifier: MIT
"""Shows that a run may go on with another number of ranks at every restart: continued on 1, 4, 3 and 2 ranks, in the middle of epochs and
over their ends, it ends where the run on 2 ranks alone ends, with the same best epoch."""
import numpy as np

from harness import main
from runs import Training, newest


class Elastic(Training):
    STEPS = ((1, 11), (4, 20), (3, 33), (2, 45))

    def test_every_restart_on_another_number_of_ranks(self):
        for ranks, steps in self.STEPS:
            self.train("many", f"train.steps={steps}", "--resume", ranks=ranks)
            self.assertEqual(self.log("many", "start")[-1]["ranks"], ranks)
        self.train("two", f"train.steps={self.STEPS[-1][1]}", ranks=2)
        self.assertEqual(newest(self.folder / "many").name, "step-00000045.h5")
        for name in ("best.h5", f"checkpoints/{newest(self.folder / 'two').name}"):
            self.assert_close(self.folder / "many" / name, self.folder / "two" / name, 1e-4)
        self.assertEqual([line["step"] for line in self.log("many", "step")], [line["step"] for line in self.log("two", "step")])
        np.testing.assert_allclose(self.losses("many"), self.losses("two"), rtol=1e-4)
        for key in ("val_rmse", "train_rmse"):
            ours, theirs = ([line[key] for line in self.log(run, "epoch")] for run in ("many", "two"))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)
        self.assertEqual(*([line["best_epoch"] for line in self.log(run, "end")][-1] for run in ("many", "two")))


if __name__ == "__main__":
    main()
