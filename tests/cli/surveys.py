# SPDX-License-Identifier: MIT
"""What the tests of surveys share: reading one without the program's help, and the cuts written a second time, in numpy."""
import h5py
import numpy as np


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class Survey:
    """All light curves of a survey by id: (time, magnitude, error, class name or None); attributes; the bytes of every file."""

    def __init__(self, folder):
        self.curves, self.bytes, self.attributes = {}, {}, []
        paths = sorted(folder.glob("*"))
        for path in paths:
            self.bytes[path.name] = path.read_bytes()
            with h5py.File(path) as file:
                self.attributes.append(dict(file.attrs))
                self.read(file)
        self.shards = len(paths)
        self.classes = [text(name) for name in self.attributes[0].get("classes", [])]
        self.id, self.band, self.cuts, self.name = (text(self.attributes[0][key]) for key in ("survey_id", "band", "cuts", "name"))

    def read(self, file):
        offset, ids = file["offset"][:].astype(int), [text(name) for name in file["id"][:]]
        columns = [file[name][:] for name in ("time", "magnitude", "error")]
        labels = file["label"][:] if "label" in file else [-1] * len(ids)
        classes = [text(name) for name in file.attrs.get("classes", [])]
        assert ids == sorted(ids), "the light curves of a shard are sorted by id"
        assert offset[0] == 0 and len(offset) == len(ids) + 1 and all(len(c) == offset[-1] for c in columns)
        for i, name in enumerate(ids):
            assert name not in self.curves, f"{name} is there twice"
            part = slice(offset[i], offset[i + 1])
            self.curves[name] = (*(column[part] for column in columns), classes[labels[i]] if labels[i] >= 0 else None)


def nearest(sorted_values, percent):
    """The percentile by the nearest rank, halves to the even one."""
    rank, rest = divmod((len(sorted_values) - 1) * percent, 100)
    return sorted_values[rank + (rest > 50 or (rest == 50 and rank % 2 == 1))]


def moments(magnitude):
    values = magnitude.astype(float)
    deviations = values - values.mean()
    variance = np.mean(deviations**2)
    if np.ptp(values) == 0:
        return 0, 0, 0
    return np.sqrt(variance), np.mean(deviations**3) / variance**1.5, np.mean(deviations**4) / variance**2 - 3


def cut(rows, keep="any", distinct=False):
    """What is left of a star's rows [[time, magnitude, error], ..], or None with the reason why it is dropped. `distinct` leaves out
    repeated rows."""
    rows = np.asarray(rows, dtype=float).reshape(-1, 3)
    rows[:, 1:] = rows[:, 1:].astype(np.float32)
    rows = rows[(rows[:, 2] > 0) & (rows[:, 2] < 1) & np.isfinite(rows).all(axis=1)]
    rows = np.unique(rows, axis=0) if distinct else rows[np.lexsort(rows.T[::-1])]
    if len(rows):
        magnitudes = np.sort(rows[:, 1])
        rows = rows[(rows[:, 1] > nearest(magnitudes, 1)) & (rows[:, 1] < nearest(magnitudes, 99))]
    if len(rows) < 5:
        return None, "short"
    deviation, skewness, kurtosis = moments(rows[:, 1])
    passed = [abs(kurtosis) > 10, abs(skewness) > 1, deviation > 0.1]
    if keep != "off" and not (all(passed) if keep == "all" else any(passed)):
        return None, "calm"
    return rows, None
