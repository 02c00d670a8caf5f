# SPDX-License-Identifier: MIT
"""Reads what astromer's commands write: the shards of a survey (src/survey/shard.h), folds (src/survey/folds.h) and embeddings
(src/commands/embedding_file.h); and writes HDF5 files that are whole or not there. What is wrong with a file is a FileError of one
line."""
import os
import re
import zlib

import h5py
import numpy as np


class FileError(Exception):
    """One line: which file, and what is wrong with it."""


def text(value):
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)


def texts(values):
    return [text(value) for value in np.asarray(values).reshape(-1).tolist()]


def numbers(count):
    return f'{count:,}'.replace(',', ' ')


class Reading:
    """An HDF5 file that is read in a `with`: whatever h5py or NumPy find wrong with it inside becomes a FileError."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        try:
            self.file = h5py.File(self.path, 'r')
        except OSError as failure:
            reason = 'there is no such file' if not os.path.exists(self.path) else 'is no whole HDF5 file'
            raise FileError(f'{self.path}: {reason}') from failure
        return self.file

    def __exit__(self, kind, failure, trace):
        self.file.close()
        if kind is not None and issubclass(kind, (KeyError, ValueError, IndexError, OSError, TypeError, RuntimeError)):
            raise FileError(f'{self.path}: is not as it should be: {" ".join(str(failure).split())}') from failure


def require(condition, path, message):
    if not condition:
        raise FileError(f'{path}: {message}')


class Survey:
    """The folder of a survey's shards. A light curve's index in the survey counts through the shards."""

    def __init__(self, folder):
        self.folder = folder
        pattern = re.compile(r'shard-\d{5}-of-(\d{5})\.h5')
        try:
            found = sorted(filter(pattern.fullmatch, os.listdir(folder)))
        except OSError as failure:
            raise FileError(f'{folder}: {failure.strerror}') from failure
        require(found, folder, 'has no shards: it is no survey')
        shards = int(pattern.fullmatch(found[0]).group(1))
        self.paths = [os.path.join(folder, f'shard-{s:05d}-of-{shards:05d}.h5') for s in range(shards)]
        ids, labels, self.count = [], [], []
        for path in self.paths:
            with Reading(path) as shard:
                survey_id = text(shard.attrs['survey_id'])
                if not self.count:
                    self.survey_id, self.name = survey_id, text(shard.attrs['name'])
                    self.classes = texts(shard.attrs.get('classes', []))
                require(survey_id == self.survey_id, path, 'is of another survey than the first shard')
                self.count.append(len(shard['id']))
                ids += texts(shard['id'][:])
                labels.append(shard['label'][:] if 'label' in shard else np.full(len(shard['id']), -1, dtype=np.int32))
        self.ids, self.labels = ids, np.concatenate(labels)


def curves_of_shard(path, first, end):
    """Yields (time, magnitude, error) of light curves first .. end - 1 of a shard."""
    with Reading(path) as shard:
        offset = shard['offset'][first:end + 1].astype(np.int64)
        columns = [shard[name][offset[0]:offset[-1]] for name in ('time', 'magnitude', 'error')]
    for start, stop in zip(offset[:-1] - offset[0], offset[1:] - offset[0]):
        yield tuple(column[start:stop] for column in columns)


class Folds:
    """A folds file, checked: rows lie in the table, and no star of a test set is in the same fold's validation or training."""

    def __init__(self, path):
        self.path = path
        with Reading(path) as file:
            require(text(file.attrs.get('kind', '')) == 'folds', path, 'is no folds file')
            self.survey_id, self.survey = text(file.attrs['survey_id']), text(file.attrs['survey'])
            self.classes, self.samples = texts(file.attrs['classes']), [int(n) for n in np.atleast_1d(file.attrs['samples'])]
            self.count = int(file.attrs['folds'])
            self.curve, self.label, self.ids = file['curve'][:], file['label'][:], texts(file['id'][:])
            self.test = [file[f'fold{k}/test'][:] for k in range(self.count)]
            self.validation = [file[f'fold{k}/validation'][:] for k in range(self.count)]
            self.training = [{n: file[f'fold{k}/training-{n}'][:] for n in self.samples} for k in range(self.count)]
        self.check()

    def check(self):
        stars, path = len(self.ids), self.path
        require(len(self.curve) == stars and len(self.label) == stars, path, 'its table has columns of different lengths')
        require(np.all((self.label >= 0) & (self.label < len(self.classes))), path, 'a label is none of its classes')
        ids = np.array(self.ids, dtype=object)
        for k in range(self.count):
            parts = {'validation': self.validation[k], **{f'training-{n}': rows for n, rows in self.training[k].items()}}
            for name, rows in {'test': self.test[k], **parts}.items():
                require(len(rows) and np.all((rows >= 0) & (rows < stars)), path, f'fold{k}/{name} is empty or not of its table')
            for one, others in (('test', parts.items()), ('validation', list(parts.items())[1:])):
                for name, rows in others:
                    both = set(ids[getattr(self, one)[k]]) & set(ids[rows])
                    require(not both, path, f'star {min(both, default="")} is in fold{k}/{one} and in fold{k}/{name}')

    def check_same(self, path, survey_id, ids):
        """Whether a file with a row for every light curve of a survey is of the survey that these folds are of."""
        require(survey_id == self.survey_id, path, f'is of another survey than {self.path}')
        fits = np.all((self.curve >= 0) & (self.curve < len(ids))) and all(ids[c] == i for c, i in zip(self.curve, self.ids))
        require(fits, path, f'its light curves are not those of {self.path}')


def star_embeddings(path, folds, part):
    """The mean over its windows of each star of the table of folds, stars x width, float64. part `last`: the output of the last
    block; `blocks`: the input embedding and the outputs of all blocks, one after the other; None where the file has none."""
    with Reading(path) as file:
        if part == 'blocks' and 'blocks' not in file:
            return None
        folds.check_same(path, text(file.attrs['survey_id']), texts(file['id'][:]))
        rows, first = file['embedding' if part == 'last' else part], file['first_window'][:]
        width = int(np.prod(rows.shape[1:]))
        vectors = np.empty((len(folds.curve), width))
        for place in np.argsort(folds.curve, kind='stable'):
            start, end = first[folds.curve[place]:folds.curve[place] + 2]
            require(end > start, path, f'star {folds.ids[place]} has no window')
            vectors[place] = rows[start:end].reshape(end - start, width).mean(axis=0, dtype=np.float64)
    require(np.all(np.isfinite(vectors)), path, 'has values that are no numbers')
    return vectors


def write_hdf5(path, attributes, datasets):
    """All of a file, under a temporary name until it is whole. A list of texts becomes strings of fixed length. Every dataset has
    the attribute crc32."""
    temporary = f'{path}.partial'
    try:
        with h5py.File(temporary, 'w') as file:
            for name, value in attributes.items():
                file.attrs[name] = fixed_text(value) if isinstance(value, list) else value
            for name, value in datasets.items():
                array = np.ascontiguousarray(fixed_text(value) if isinstance(value, list) else value)
                file.create_dataset(name, data=array).attrs['crc32'] = np.uint32(zlib.crc32(array.tobytes()))
        os.replace(temporary, path)
    except OSError as failure:
        raise FileError(f'{path}: cannot be written: {failure.strerror or " ".join(str(failure).split())}') from failure
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def fixed_text(values):
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=f'S{max(map(len, encoded), default=1) or 1}')
