# SPDX-License-Identifier: MIT
"""Reads TensorFlow checkpoints (tensor bundles) without TensorFlow.

A bundle PREFIX is PREFIX.index and PREFIX.data-00000-of-0000N. The data files hold the tensors' raw bytes. The index is a
LevelDB table, from a tensor's name to a small protobuf message (shape, type, where its bytes are, their CRC-32C); the empty
name has a header. Only what such a table uses is understood here, everything else is refused with a BundleError.

  LevelDB table   blocks, each followed by its compression (1 byte, 0 = none) and a masked CRC-32C (4 bytes, little endian);
                  at the end 48 bytes: where the two index blocks are, padding, and a magic number
  block           entries, then restart points and their count (u32 each). An entry: how many bytes of the key are those of
                  the key before it, how many follow, the value's length (varints), the rest of the key, the value
"""
import os
import struct
import zipfile
import zlib

import numpy as np

TABLE_MAGIC = 0xdb4775248b80fb57
FOOTER_BYTES = 48
TRAILER_BYTES = 5
# tensorflow/core/framework/types.proto; what weights and counters come in
DTYPES = {1: '<f4', 2: '<f8', 3: '<i4', 9: '<i8', 19: '<f2'}


class BundleError(Exception):
    """One line: what is wrong with which file."""


# ---- Checksums ----

def _crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82f63b78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xff] ^ (crc >> 8)
    return crc ^ 0xffffffff


def masked_crc32c(data):
    """CRC-32C as LevelDB and TensorFlow store it: rotated and shifted, for data that hold CRCs themselves."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


# ---- LevelDB table ----

def _varint(data, position):
    """The number at `position` and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7f) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError('a number is too long')


def _take(data, position, count):
    if count < 0 or position + count > len(data):
        raise ValueError('it ends too early')
    return data[position:position + count]


def _block_handle(data, position):
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block_entries(table, handle):
    """The (key, value) pairs of one block, its checksum checked."""
    offset, size = handle
    block = _take(table, offset, size + TRAILER_BYTES)
    if masked_crc32c(block[:size + 1]) != struct.unpack_from('<I', block, size + 1)[0]:
        raise ValueError('a checksum is wrong')
    if block[size] != 0:
        raise ValueError(f'compression {block[size]} is not supported, TensorFlow writes none')
    restarts = struct.unpack_from('<I', block, size - 4)[0]
    content = _take(block, 0, size - 4 - 4 * restarts)
    position, key, entries = 0, b'', []
    while position < len(content):
        shared, position = _varint(content, position)
        rest, position = _varint(content, position)
        value_bytes, position = _varint(content, position)
        key = _take(key, 0, shared) + _take(content, position, rest)
        entries.append((key, _take(content, position + rest, value_bytes)))
        position += rest + value_bytes
    return entries


def read_table(table):
    """All (key, value) pairs of a LevelDB table, given as bytes."""
    if len(table) < FOOTER_BYTES or struct.unpack('<Q', table[-8:])[0] != TABLE_MAGIC:
        raise ValueError('it does not end as a LevelDB table does')
    footer = table[-FOOTER_BYTES:]
    _, position = _block_handle(footer, 0)
    index, _ = _block_handle(footer, position)
    entries = []
    for _, value in _block_entries(table, index):
        entries += _block_entries(table, _block_handle(value, 0)[0])
    return entries


# ---- Protobuf messages ----

def _fields(message):
    """The (field number, value) pairs of a protobuf message; a value is a number, or bytes."""
    position, fields = 0, []
    while position < len(message):
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(message, position)
        elif wire == 2:
            size, position = _varint(message, position)
            value = _take(message, position, size)
            position += size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value = int.from_bytes(_take(message, position, size), 'little')
            position += size
        else:
            raise ValueError('an entry is garbled')
        fields.append((tag >> 3, value))
    return fields


def _number(fields, number, absent=0):
    value = fields.get(number, absent)
    if isinstance(value, bytes):
        raise ValueError('an entry is garbled')
    return value


def _message(fields, number):
    value = fields.get(number, b'')
    if not isinstance(value, bytes):
        raise ValueError('an entry is garbled')
    return value


class Entry:
    """Where a tensor is and what it is: the message BundleEntryProto."""

    def __init__(self, message):
        fields = dict(_fields(message))
        self.dtype_code, self.shard, self.offset, self.size = (_number(fields, number) for number in (1, 3, 4, 5))
        self.crc = _number(fields, 6, None)
        self.sliced = 7 in fields
        dimensions = [dict([field]) for field in _fields(_message(fields, 2)) if field[0] == 2]
        self.shape = tuple(_number(dict(_fields(_message(dimension, 2))), 1) for dimension in dimensions)


# ---- Bundle ----

class Bundle:
    """An open checkpoint: `entries` (name -> Entry) and `tensor(name)`.

    `read(name)` returns the bytes of a file of the checkpoint, which may be in a folder or in a zip archive."""

    def __init__(self, prefix, read):
        self.prefix, self._read, self._data = prefix, read, {}
        name = prefix + '.index'
        try:
            entries = dict(read_table(read(name)))
            header = dict(_fields(entries.pop(b'')))
            self.shards = _number(header, 1, 1)
            if _number(header, 2) != 0:
                raise ValueError('it was written on a big-endian machine')
            self.entries = {key.decode(): Entry(value) for key, value in entries.items()}
        except (KeyError, IndexError, ValueError, struct.error) as failure:
            why = {KeyError: 'it has no header', IndexError: 'it ends too early'}.get(type(failure), failure)
            raise BundleError(f'{name}: not the index of a TensorFlow checkpoint, or damaged: {why}') from failure

    def _shard(self, number):
        if number not in self._data:
            self._data[number] = self._read(f'{self.prefix}.data-{number:05d}-of-{self.shards:05d}')
        return self._data[number]

    def tensor(self, name):
        """A tensor as a NumPy array, its checksum checked."""
        entry = self.entries[name]
        where = f'{self.prefix}: {name}'
        if entry.sliced or entry.dtype_code not in DTYPES:
            raise BundleError(f'{where}: partitioned variables and type {entry.dtype_code} are not supported')
        dtype = np.dtype(DTYPES[entry.dtype_code])
        count = 1
        for dimension in entry.shape:
            count *= dimension
        if entry.size != count * dtype.itemsize:
            raise BundleError(f'{where}: {entry.size} bytes cannot be of shape {entry.shape}; the index is damaged')
        data = self._shard(entry.shard)
        if entry.offset + entry.size > len(data):
            raise BundleError(f'{where}: lies beyond the end of the data file, which is cut short')
        raw = data[entry.offset:entry.offset + entry.size]
        if entry.crc is not None and masked_crc32c(raw) != entry.crc:
            raise BundleError(f'{where}: its checksum is wrong, the data file is damaged')
        return np.frombuffer(raw, dtype).reshape(entry.shape)


def _read_file(path):
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError as failure:
        raise BundleError(f'{path}: {failure.strerror}') from failure


def _one_of(found, path, wanted):
    """The only prefix, or the wanted one."""
    if wanted is not None:
        found = [prefix for prefix in found if prefix == wanted or os.path.basename(prefix) == wanted]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BundleError(f'{path}: holds no TensorFlow checkpoint{f" {wanted}" if wanted else ""} (a file NAME.index)')
    raise BundleError(f'{path}: holds {len(found)} checkpoints, choose one with --name: {", ".join(sorted(found)[:10])}')


class _Archive:
    """The files of a zip archive."""

    def __init__(self, path):
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as failure:
            raise BundleError(f'{path}: {failure}') from failure
        self.names = self._archive.namelist()

    def read(self, name):
        try:
            return self._archive.read(name)
        except KeyError as failure:
            raise BundleError(f'{self._path}: has no {name}') from failure
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as failure:
            raise BundleError(f'{self._path}: {name} cannot be unpacked: {failure}') from failure


def _files_at(path):
    """What there is at a path: (names, function that reads a name, the checkpoint's name or None)."""
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        archive = _Archive(path)
        return archive.names, archive.read, None
    if os.path.isdir(path):
        return [os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files], _read_file, None
    prefix = path[:-len('.index')] if path.endswith('.index') else path
    if not os.path.isfile(prefix + '.index'):
        raise BundleError(f'{path}: not a zip archive, a folder or a prefix of a TensorFlow checkpoint')
    folder, name = os.path.split(prefix)
    return [os.path.join(folder, file) for file in os.listdir(folder or '.')], _read_file, name


def open_bundle(path, name=None):
    """Opens the checkpoint in a zip archive or a folder (any depth), or with a prefix: .../weights or .../weights.index.
    `name` chooses where there are several. Returns the Bundle, and a function: name of a file beside it -> bytes, or None."""
    names, read, given = _files_at(path)
    found = [file[:-len('.index')] for file in names if file.endswith('.index') and not os.path.basename(file).startswith('._')]
    prefix = _one_of(found, path, given or name)

    def beside(file):
        file = os.path.join(os.path.dirname(prefix), file)
        return read(file) if file in names else None

    return Bundle(prefix, read), beside
