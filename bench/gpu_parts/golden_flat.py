# SPDX-License-Identifier: MIT
"""Golden files as plain numbers, for machines without HDF5 (the format: golden_flat.c). Reading needs nothing, writing h5py.
  golden_flat.py FILE.h5 FILE.flat      writes the second from the first"""
import array
import os
import sys


def _lines_of(file, values):
    """The text of an HDF5 golden file; the datasets' bytes are put one behind another into `values`."""
    def lines_of(group, here):
        for name, value in sorted(here.attrs.items()):
            if isinstance(value, (str, bytes)):
                yield f'text {group or "/"} {name} {value if isinstance(value, str) else value.decode()}'
            else:
                yield f'number {group or "/"} {name} {float(value)!r}'
        for name, member in sorted(here.items()):
            path = f'{group}/{name}' if group else name
            if hasattr(member, 'items'):
                yield from lines_of(path, member)
            else:
                kind = 'float32' if str(member.dtype) == 'float32' else 'float64'
                yield f'{kind} {path} {member.size} {len(values)}'
                values.extend(member[()].astype(kind).tobytes())
                values.extend(bytes(-len(values) % 8))

    yield 'astromer golden 1'
    yield from lines_of('', file)
    yield 'end'


def write(source, target):
    """An HDF5 golden file as a flat one, whole or not there."""
    import h5py
    values = bytearray()
    with h5py.File(source, 'r') as file:
        text = ('\n'.join(_lines_of(file, values)) + '\n').encode()
    partial = f'{target}.{os.getpid()}'
    with open(partial, 'wb') as out:
        out.write(text + b' ' * (-len(text) % 8))
        out.write(values)
    os.replace(partial, target)


def read(path):
    """A flat golden file: {(group, name): number or text}, {"group/name": array of numbers}."""
    with open(path, 'rb') as file:
        data = file.read()
    end = data.index(b'\nend\n') + 5
    if not data.startswith(b'astromer golden 1\n'):
        raise ValueError(f'{path}: not a flat golden file')
    attributes, values, begin = {}, {}, (end + 7) // 8 * 8
    for line in data[:end].decode().splitlines()[1:-1]:
        kind, first, second, third = line.split()
        if kind.startswith('float'):
            at, size = begin + int(third), int(kind[5:]) // 8
            values[first] = array.array('d' if size == 8 else 'f', data[at:at + size * int(second)])
        else:
            attributes[first, second] = third if kind == 'text' else float(third)
    return attributes, values


if __name__ == '__main__':
    write(sys.argv[1], sys.argv[2])
