#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows that tools/convert-tensorflow reads TensorFlow checkpoints right: small ones written here (Astromer 1 and 2, in a zip
archive, a folder, under a prefix), which it must give back bit for bit; damaged ones, which it must refuse in one line; and the
published Astromer 1 when ../shared is there (exit status 77 when it is not: skipped)."""
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

import h5py
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
TOOL = HERE.parent / 'tools' / 'convert-tensorflow'
SHARED = HERE.parent.parent / 'shared'
VALUE = '/.ATTRIBUTES/VARIABLE_VALUE'


# ---- A writer of tensor bundles, as small as can be ----

def crc32c(data):
    """Bit by bit, unlike the reader's."""
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82f63b78 * (crc & 1)
    return crc ^ 0xffffffff


def masked(data):
    crc = crc32c(data)
    return struct.pack('<I', (((crc >> 15) | (crc << 17) & 0xffffffff) + 0xa282ead8) % 2 ** 32)


def varint(value):
    out = b''
    while value >= 0x80:
        out += bytes([value & 0x7f | 0x80])
        value >>= 7
    return out + bytes([value])


def block(entries):
    """Keys share their beginnings with the one before, but for every fourth: there the block can be entered."""
    out, restarts, last = b'', [], b''
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % 4 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + struct.pack(f'<{len(restarts)}I', *restarts) + struct.pack('<I', len(restarts))


def table(entries, per_block=7):
    out, index = b'', []

    def append(content):
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + b'\0' + masked(content + b'\0')
        return handle

    for start in range(0, len(entries), per_block):
        part = entries[start:start + per_block]
        index.append((part[-1][0], append(block(part))))
    handles = append(block([])) + append(block(index))
    return out + handles.ljust(40, b'\0') + struct.pack('<Q', 0xdb4775248b80fb57)


def bundle(tensors):
    """(index, data) of float32 tensors by name."""
    data, entries = b'', [(b'', b'\x08\x01')]  # the header: one data file
    for name in sorted(tensors):
        raw = tensors[name].astype('<f4').tobytes()
        shape = b''.join(b'\x12' + bytes([len(varint(n)) + 1]) + b'\x08' + varint(n) for n in tensors[name].shape)
        entry = b'\x08\x01\x12' + varint(len(shape)) + shape + b'\x20' + varint(len(data)) + b'\x28' + varint(len(raw))
        entries.append((name.encode(), entry + b'\x35' + masked(raw)))
        data += raw
    return table(entries), data


# ---- Models under the names of TensorFlow and under ours ----

def make_model(rng, blocks, width, ffn, second):
    """(tensors by TensorFlow's names, the same by ours). second: leak and token, and the layer numbers that come with them."""
    theirs, ours = {}, {}

    def add(path, name, *shape):
        theirs[path + VALUE] = rng.standard_normal(shape).astype(np.float32)
        vector = len(shape) == 1 or 1 in shape
        ours[name] = theirs[path + VALUE].reshape(-1) if vector else theirs[path + VALUE]

    def dense(path, name, inputs, outputs):
        add(path + '/kernel', name + '.weight', inputs, outputs)
        add(path + '/bias', name + '.bias', outputs)

    def norm(path, name):
        add(path + '/gamma', name + '.gain', width)
        add(path + '/beta', name + '.bias', width)

    shift = 1 if second else 0
    encoder, readout = f'layer_with_weights-{shift}', f'layer_with_weights-{shift + 1}'
    if second:
        add('layer_with_weights-0/msk_token', 'token', 1, 1)
    dense(encoder + '/inp_transform', 'embed', 1, width)
    for i in range(blocks):
        path = f'{encoder}/enc_layers/{i}/'
        for layer, name in (('mha/wq', 'query'), ('mha/wk', 'key'), ('mha/wv', 'value'), ('mha/dense', 'merge')):
            dense(path + layer, f'block{i}.{name}', width, width)
        if second:
            dense(path + 'reshape_leak_1', f'block{i}.leak1', width, width)
            dense(path + 'reshape_leak_2', f'block{i}.leak2', width, width)
        dense(path + 'ffn/layer_with_weights-0', f'block{i}.ffn1', width, ffn)
        dense(path + 'ffn/layer_with_weights-1', f'block{i}.ffn2', ffn, width)
        norm(path + 'layernorm1', f'block{i}.norm1')
        norm(path + 'layernorm2', f'block{i}.norm2')
    norm(readout + '/bn_0', 'readout.norm')
    dense(readout + '/reg_layer', 'readout', width, 1)
    for path in list(theirs)[:3]:
        theirs[path.replace(VALUE, '/.OPTIMIZER_SLOT/optimizer/m' + VALUE)] = rng.standard_normal(4)
    theirs['optimizer/iter' + VALUE] = np.zeros(())
    theirs['save_counter' + VALUE] = np.zeros(())
    return theirs, ours


def write_folder(folder, tensors, prefix='weights'):
    folder.mkdir(parents=True, exist_ok=True)
    index, data = bundle(tensors)
    (folder / f'{prefix}.index').write_bytes(index)
    (folder / f'{prefix}.data-00000-of-00001').write_bytes(data)
    return folder


# ---- Checks ----

def check(condition, message):
    if not condition:
        sys.exit(f'FAILED: {message}')


def convert(source, out, *options):
    done = subprocess.run([sys.executable, TOOL, source, '--out', out, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    return done.returncode, done.stdout, done.stderr


def check_refused(source, out, what, *options):
    status, _, error = convert(source, out, *options)
    check(status == 1 and error.count('\n') == 1 and error.startswith('convert-tensorflow: ') and 'Traceback' not in error,
          f'{what} was not refused in one line: status {status}: {error}')
    check(not list(out.parent.glob(out.name + '*')), f'{what} left a file behind')
    return error


def check_checkpoint(path, ours, config):
    with h5py.File(path, 'r') as file:
        check(file.attrs['format_version'] == 1, 'format_version')
        check(set(file['parameters']) == set(ours), f'parameters {set(file["parameters"]) ^ set(ours)}')
        for name, value in ours.items():
            dataset = file['parameters'][name]
            check(dataset.dtype == np.dtype('<f4') and dataset.shape == value.shape, f'{name} is {dataset}')
            check(dataset[()].tobytes() == value.tobytes(), f'{name} was changed')
            check(dataset.attrs['crc32'] == zlib.crc32(value.tobytes()), f'crc32 of {name}')
        text = file['config'][()]
        check(file['config'].attrs['crc32'] == zlib.crc32(text), 'crc32 of config')
        lines = {line.strip() for line in text.decode().splitlines()}
        check(config <= lines, f'config lacks {config - lines}')
        state = dict(file['progress'].attrs)
        check(state['step'] == 0 and state['best_epoch'] == -1 and np.isinf(state['best_rmse']), f'progress {state}')


def test_checksum(tools):
    sys.path.insert(0, str(tools))
    import tensorbundle
    check(tensorbundle.crc32c(b'123456789') == 0xe3069283 == crc32c(b'123456789'), 'CRC-32C of its check string')


def test_small(folder):
    rng = np.random.RandomState(0)
    theirs, ours = make_model(rng, blocks=11, width=8, ffn=6, second=True)
    config = {'blocks: 11', 'width: 8', 'ffn: 6', 'leak: true', 'token: true', 'mask: K', 'heads: 4', 'preset: astromer2'}
    source = write_folder(folder / 'second', theirs)
    for path in (source, source / 'weights', source / 'weights.index'):
        out = folder / 'second.h5'
        status, output, error = convert(path, out)
        check(status == 0, f'{path}: {error}')
        check('block10.leak2.weight' in output and 'layer_with_weights-1/enc_layers/10/reshape_leak_2/kernel' in output, output)
        check_checkpoint(out, ours, config)
    theirs, ours = make_model(rng, blocks=1, width=12, ffn=5, second=False)
    source = write_folder(folder / 'first', theirs)
    (source / 'conf.json').write_text('{"heads": 3, "base": 1000}')
    with zipfile.ZipFile(folder / 'first.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        for path in source.iterdir():
            archive.write(path, 'deep/er/' + path.name)
    status, _, error = convert(folder / 'first.zip', folder / 'first.h5')
    check(status == 0, error)
    check_checkpoint(folder / 'first.h5', ours, {'blocks: 1', 'heads: 3', 'mask: QK', 'alpha: 1.0', 'pe_base: 10000.0', 'leak: false'})
    status, _, error = convert(source, folder / 'options.h5', '--heads=2', '--alpha=-2.5', '--mask=K', '--pe-base=1000', '--quiet')
    check(status == 0, error)
    check_checkpoint(folder / 'options.h5', ours, {'heads: 2', 'alpha: -2.5', 'mask: K', 'pe_base: 1000.0'})


def test_refusals(folder):
    rng = np.random.RandomState(1)
    theirs, ours = make_model(rng, blocks=1, width=4, ffn=3, second=True)
    out = folder / 'never.h5'
    kernel = 'layer_with_weights-1/enc_layers/0/mha/wq/kernel' + VALUE

    def refused(what, change, *options):
        tensors = dict(theirs)
        change(tensors)
        return check_refused(write_folder(folder / 'bad' / what.replace(' ', '-'), tensors), out, what, *options)

    check('query.weight is missing' in refused('a tensor missing', lambda t: t.pop(kernel)), 'the missing tensor has no name')
    refused('an unknown layer', lambda t: t.update({'layer_with_weights-1/enc_layers/0/gate/kernel' + VALUE: np.zeros((4, 4))}))
    refused('a wrong shape', lambda t: t.update({kernel: np.zeros((4, 5))}))
    refused('a block missing', lambda t: t.update({kernel.replace('/0/', '/2/'): np.zeros((4, 4))}))
    refused('not a number', lambda t: t.update({kernel: np.full((4, 4), np.nan)}))
    refused('heads that do not fit', lambda t: None, '--heads=3')
    refused('no Astromer', lambda t: [t.pop(name) for name in list(t) if 'optimizer' not in name])
    for what, path in (('no file', folder / 'nothing'), ('an empty folder', folder / 'empty'), ('a text file', folder / 'text.zip')):
        (folder / 'empty').mkdir(exist_ok=True)
        (folder / 'text.zip').write_text('hello\n')
        check_refused(path, out, what)
    two = write_folder(folder / 'two', theirs)
    write_folder(folder / 'two', theirs, 'best')
    check('--name' in check_refused(two, out, 'two checkpoints'), 'two checkpoints: no hint at --name')
    status, _, error = convert(two, folder / 'chosen.h5', '--name', 'best', '--quiet')
    check(status == 0, error)
    check_checkpoint(folder / 'chosen.h5', ours, {'blocks: 1'})
    check_refused(two / 'best', pathlib.Path('/nonexistent/folder/out.h5'), 'an output folder that does not exist')
    (two / 'best.data-00000-of-00001').unlink()
    check('best.data-00000-of-00001' in check_refused(two / 'best', out, 'no data file'), 'the missing data file has no name')


def test_damage(folder):
    """Single changed bytes and cut files, read in this process for speed: refused, or (padding) without consequence."""
    import tensorbundle
    theirs, _ = make_model(np.random.RandomState(2), blocks=1, width=4, ffn=3, second=False)
    index, data = bundle(theirs)

    def read(index, data):
        opened = tensorbundle.Bundle('weights', lambda name: index if name.endswith('.index') else data)
        return {name: opened.tensor(name) for name in opened.entries}

    whole = read(index, data)
    refused = 0
    broken = [(index[:i] + bytes([index[i] ^ 0x55]) + index[i + 1:], data) for i in range(0, len(index), 3)]
    broken += [(index, data[:i] + bytes([data[i] ^ 1]) + data[i + 1:]) for i in range(0, len(data), 11)]
    broken += [(index[:i], data) for i in range(0, len(index), 101)] + [(index, data[:i]) for i in range(0, len(data), 301)]
    for bad_index, bad_data in broken:
        try:
            got = read(bad_index, bad_data)
        except tensorbundle.BundleError:
            refused += 1
            continue
        check(set(got) == set(whole) and all(np.array_equal(got[name], whole[name]) for name in whole), 'damage went unnoticed')
    check(refused > 0.95 * len(broken), f'only {refused} of {len(broken)} damaged checkpoints were refused')
    print(f'{refused} of {len(broken)} damaged checkpoints refused, the others are as the whole one')


def test_published(folder):
    """Every weight of the published Astromer 1, bit for bit."""
    status, output, error = convert(SHARED / 'data/macho/astromer1-weights.zip', folder / 'published.h5')
    check(status == 0, error)
    check('661505 numbers' in output, output)
    with h5py.File(SHARED / 'golden/astromer1-macho.h5', 'r') as file:
        ours = {name: value[()] for name, value in file['weights'].items()}
    check_checkpoint(folder / 'published.h5', ours, {'blocks: 2', 'width: 256', 'ffn: 128', 'heads: 4', 'mask: QK', 'alpha: 1.0',
                                                     'pe_base: 10000.0', 'leak: false', 'token: false', 'window: 200'})
    print('the published Astromer 1 came through bit for bit')


with tempfile.TemporaryDirectory() as temporary:
    test_checksum(TOOL.parent)
    test_small(pathlib.Path(temporary))
    test_refusals(pathlib.Path(temporary))
    test_damage(pathlib.Path(temporary))
    if not SHARED.is_dir():
        print('the rest passed; no ../shared here: the published weights not converted')
        sys.exit(77)
    test_published(pathlib.Path(temporary))
