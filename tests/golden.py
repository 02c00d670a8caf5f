#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes golden files: a model, an input and what must come out, computed in float64 by reference.py.

  golden.py --out FILE [options]      draws a model and a batch, computes everything, writes FILE (HDF5)
  golden.py --self-check [options]    compares the reference's gradient with central differences of its loss
  golden.py --compare FILE...         recomputes golden files made by anybody and prints how far apart the results are

The file: attributes blocks, heads, width, ffn, leak, mask, alpha, token, pe_base, weighted, window;
  input/      raw_time, raw_magnitude, error, length, time, magnitude, probed, hidden, modified, error_weight
  weights/    every parameter under its name; a weight is in x out
  expected/   X0 .. XM, attention0 (first block), reconstruction, window_error, loss
  gradients/  of the loss, by parameter
  adam/       loss before each of some Adam steps on this batch, weights/ after the last; its constants are attributes
All numbers are float64. Weights are rounded to float32, so that a float32 program starts from exactly the same ones.
"""
import argparse
import os
import sys

import h5py
import numpy as np

import reference
from reference import Model

FRACTION_PROBED, FRACTION_SAME, FRACTION_RANDOM = 0.5, 0.2, 0.2


# ---- Drawing a batch and a model. RandomState, because its stream is frozen for good. ----

def draw_masks(rng, magnitude, length):
    """Probed, hidden and modified magnitudes of one window whose first `length` steps are real."""
    window = len(magnitude)
    probed, modified = np.zeros(window), magnitude.copy()
    hidden = (np.arange(window) >= length).astype(float)
    drawn = rng.permutation(length)[:int(np.floor(FRACTION_PROBED * length))]
    probed[drawn] = 1.0
    same = int(np.ceil(FRACTION_SAME * len(drawn)))
    random = int(np.ceil(FRACTION_RANDOM * (len(drawn) - same)))
    shuffled = magnitude[rng.permutation(length)]
    replaced = drawn[same:same + random]
    modified[replaced] = shuffled[replaced]
    hidden[drawn[same + random:]] = 1.0
    return probed, hidden, modified


def loss_weights(error, length, weighted):
    """1 everywhere, or 1 / error min-max scaled over the real observations, plus 1e-3; 0 on padding."""
    if not weighted:
        return np.ones(len(error))
    weights = np.zeros(len(error))
    if length > 0:
        inverse = 1.0 / error[:length]
        low, high = inverse.min(), inverse.max()
        scaled = (inverse - low) / (high - low) if high > low else np.zeros(length)
        weights[:length] = scaled + 1e-3
    return weights


def draw_batch(rng, lengths, window, weighted):
    """The `input` group: light curves of random cadence, normalised and masked."""
    names = ('raw_time', 'raw_magnitude', 'error', 'time', 'magnitude', 'probed', 'hidden', 'modified', 'error_weight')
    batch = {name: np.zeros((len(lengths), window)) for name in names}
    batch['length'] = np.array(lengths, dtype=np.int32)
    for i, n in enumerate(lengths):
        batch['raw_time'][i, :n] = 49000.0 + np.sort(rng.uniform(0.0, 600.0, n))
        batch['raw_magnitude'][i, :n] = rng.uniform(-6.5, -5.5, n)
        batch['error'][i, :n] = rng.uniform(0.01, 0.4, n)
        if n > 0:
            batch['time'][i, :n] = batch['raw_time'][i, :n] - batch['raw_time'][i, :n].mean()
            batch['magnitude'][i, :n] = batch['raw_magnitude'][i, :n] - batch['raw_magnitude'][i, :n].mean()
        batch['probed'][i], batch['hidden'][i], batch['modified'][i] = draw_masks(rng, batch['magnitude'][i], n)
        batch['error_weight'][i] = loss_weights(batch['error'][i], n, weighted)
    return batch


def draw_weights(rng, model):
    """Glorot weights, and biases, gains and token away from their starting values, so that a mistake in any of them shows."""
    weights = {}
    for name, shape in reference.parameter_shapes(model).items():
        if name.endswith('.weight'):
            fan = shape[0] + (shape[1] if len(shape) == 2 else 1)
            value = rng.uniform(-1.0, 1.0, shape) * np.sqrt(6.0 / fan)
        elif name.endswith('.gain'):
            value = 1.0 + 0.2 * rng.standard_normal(shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        weights[name] = value.astype(np.float32).astype(np.float64)
    return weights


# ---- Computing, writing, reading, comparing ----

def compute(model, weights, batch, adam_steps, adam_constants):
    """Everything that must come out: path in the file -> array."""
    result = reference.forward(model, weights, batch)
    gradients = reference.backward(model, weights, batch, result)
    out = {f'expected/X{i}': X for i, X in enumerate(result['X'])}
    if model.blocks > 0:
        out['expected/attention0'] = result['blocks'][0]['A']
    for name in ('reconstruction', 'window_error', 'loss'):
        out['expected/' + name] = result[name]
    out.update({'gradients/' + name: value for name, value in gradients.items()})
    if adam_steps > 0:
        out['adam/loss'], after = reference.adam(model, weights, batch, adam_steps, **adam_constants)
        out.update({'adam/weights/' + name: value for name, value in after.items()})
    return out


def write(path, model, weights, batch, adam_steps):
    """Under a temporary name first: a golden file is whole or not there."""
    if not os.path.isdir(os.path.dirname(path) or '.'):
        raise ValueError(f'{path}: its folder does not exist')
    temporary = f'{path}.{os.getpid()}.tmp'
    try:
        with h5py.File(temporary, 'w', libver='latest') as file:
            for name, value in vars(model).items():
                file.attrs[name] = value
            for name, value in batch.items():
                file['input/' + name] = value
            arrays = {'weights/' + name: value for name, value in weights.items()}
            arrays.update(compute(model, weights, batch, adam_steps, reference.ADAM))
            for name, value in arrays.items():
                # Shuffling bytes and gzip halve the float32-valued weights; small arrays are better off without chunks.
                squeeze = {'compression': 'gzip', 'shuffle': True} if value.size >= 128 else {}
                file.create_dataset(name, data=value, **squeeze)
            if adam_steps > 0:
                for name, value in reference.ADAM.items():
                    file['adam'].attrs[name] = value
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def read(path):
    """A golden file as (model, weights, batch, Adam's constants or None, number of Adam steps, what is expected)."""
    with h5py.File(path, 'r') as file:
        model = Model(**{name: file.attrs[name].item() if hasattr(file.attrs[name], 'item') else file.attrs[name]
                         for name in Model.__dataclass_fields__})
        batch = {name: value[()] for name, value in file['input'].items()}
        weights = {name: value[()].astype(np.float64) for name, value in file['weights'].items()}
        expected = {}
        for group in ('expected', 'gradients', 'adam'):
            if group in file:
                file[group].visititems(lambda name, item, group=group: expected.update({f'{group}/{name}': item[()]})
                                       if isinstance(item, h5py.Dataset) else None)
        constants = {name: float(file['adam'].attrs[name]) for name in reference.ADAM} if 'adam' in file else None
        steps = len(expected['adam/loss']) if 'adam' in file else 0
    return model, weights, batch, constants, steps, expected


def relative_error(ours, expected, whole_norm):
    """‖ours - expected‖ / ‖expected‖. A gradient that vanishes by symmetry (key.bias: softmax cannot see it) is measured against
    the norm of the whole gradient."""
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    if ours.shape != expected.shape:
        return np.inf
    norm, difference = np.linalg.norm(expected), np.linalg.norm(ours - expected)
    norm = max(norm, whole_norm) if norm < 1e-6 * whole_norm else norm
    return float(difference / norm) if norm > 0.0 else float(difference)


def bound_of(name, stored):
    """How far apart two float64 computations may be. Adam divides the rounding noise that is key.bias's whole gradient by the
    root of its square, so that noise comes out in the weight."""
    if stored.dtype != np.float64:
        return 1e-6
    return 1e-8 if name.startswith('adam/') and name.endswith('key.bias') else 1e-11


def compare(path):
    """Recomputes a golden file. Prints a line per tensor; true when all agree to the precision they are stored in."""
    model, weights, batch, constants, steps, expected = read(path)
    if set(weights) != set(reference.parameter_shapes(model)):
        raise ValueError('the weights are not those of the model that its attributes describe')
    ours = compute(model, weights, batch, steps, constants)
    whole = np.sqrt(sum(np.sum(np.float64(value) ** 2) for name, value in expected.items() if name.startswith('gradients/')))
    good = set(ours) == set(expected)
    for name in sorted(set(ours) ^ set(expected)):
        print(f'{path}: {name} is {"missing" if name in ours else "unknown"}')
    for name in sorted(set(ours) & set(expected)):
        error = relative_error(ours[name], expected[name], whole if name.startswith('gradients/') else 0.0)
        within = error <= bound_of(name, expected[name])
        good = good and within
        print(f'{error:9.2e} {"ok " if within else "BAD"} {name}')
    print(f'{path}: {"ok" if good else "differs"}')
    return good


def compare_or_say_why(path):
    try:
        return compare(path)
    except (OSError, KeyError, ValueError) as failure:
        raise ValueError(f'{path}: not a golden file that can be read: {failure}') from failure


def central_difference(model, weights, batch, name, index, step=1e-5):
    """The loss's derivative by one weight: fourth-order central difference."""
    def loss(shift):
        moved = dict(weights)
        moved[name] = weights[name].copy()
        moved[name][index] += shift
        return reference.forward(model, moved, batch)['loss']

    return (8.0 * (loss(step) - loss(-step)) - (loss(2.0 * step) - loss(-2.0 * step))) / (12.0 * step)


def self_check(model, weights, batch, rng, samples=6):
    """Central differences at some elements of every parameter. Returns the largest difference, relative to the root mean
    square of the gradient's elements."""
    gradients = reference.backward(model, weights, batch, reference.forward(model, weights, batch))
    typical = np.sqrt(sum(np.sum(g ** 2) for g in gradients.values()) / sum(g.size for g in gradients.values()))
    worst = 0.0
    for name, gradient in gradients.items():
        for flat in rng.permutation(gradient.size)[:samples]:
            index = np.unravel_index(flat, gradient.shape)
            difference = abs(central_difference(model, weights, batch, name, index) - gradient[index])
            if difference > 0.0:
                worst = max(worst, difference / max(typical, abs(gradient[index]), np.finfo(float).tiny))
    return worst


# ---- The command line ----

def parse_arguments():
    parser = argparse.ArgumentParser(description='Make, check or recompute golden files (float64 NumPy).',
                                     epilog='Without options: a small Astromer 2.')
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument('--out', metavar='FILE', help='write this golden file')
    action.add_argument('--self-check', action='store_true', help='compare the gradient with central differences')
    action.add_argument('--compare', metavar='FILE', nargs='+', help='recompute these golden files')
    parser.add_argument('--blocks', type=int, default=3, help='encoder blocks (%(default)s)')
    parser.add_argument('--heads', type=int, default=3, help='attention heads (%(default)s)')
    parser.add_argument('--width', type=int, default=12, help='model width, divisible by heads (%(default)s)')
    parser.add_argument('--ffn', type=int, default=20, help='width of the feed-forward layer (%(default)s)')
    parser.add_argument('--leak', action=argparse.BooleanOptionalAction, default=True, help='leak projections')
    parser.add_argument('--mask', choices=('K', 'QK'), default='K', help='what a hidden step masks (%(default)s)')
    parser.add_argument('--alpha', type=float, default=-1e9, help='added to a masked score (%(default)s); write --alpha=-1e9')
    parser.add_argument('--token', action=argparse.BooleanOptionalAction, default=True, help='trainable mask token')
    parser.add_argument('--pe-base', type=float, default=10000.0, help='base of the positional encoding (%(default)s)')
    parser.add_argument('--weighted', action=argparse.BooleanOptionalAction, default=True, help='error weights in the loss')
    parser.add_argument('--window', type=int, default=20, help='steps of a window (%(default)s)')
    parser.add_argument('--lengths', default='20,13,5,1', help='real observations of each window (%(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='seed of weights, light curves and masks (%(default)s)')
    parser.add_argument('--adam', type=int, default=5, metavar='N', help='Adam steps, 0 for none (%(default)s)')
    options = parser.parse_args()
    try:
        options.lengths = [int(word) for word in options.lengths.split(',')]
    except ValueError:
        parser.error(f'--lengths {options.lengths}: give whole numbers between commas, as in 24,17,5')
    if not all(0 <= n <= options.window for n in options.lengths):
        parser.error('--lengths: a length lies between 0 and --window')
    if min(options.heads, options.width, options.ffn, options.window) < 1 or min(options.blocks, options.adam, options.seed) < 0:
        parser.error('--heads, --width, --ffn and --window are at least 1; --blocks, --adam and --seed at least 0')
    if options.width % options.heads != 0:
        parser.error(f'--width {options.width} cannot be divided into {options.heads} heads')
    if options.pe_base <= 0.0:
        parser.error('--pe-base is above 0')
    return options


def main():
    options = parse_arguments()
    if options.compare:
        return 0 if all([compare_or_say_why(path) for path in options.compare]) else 1
    model = Model(**{name: getattr(options, name) for name in Model.__dataclass_fields__})
    rng = np.random.RandomState(options.seed)
    batch = draw_batch(rng, options.lengths, options.window, options.weighted)
    weights = draw_weights(rng, model)
    if options.self_check:
        worst = self_check(model, weights, batch, rng)
        print(f'gradient against central differences: {worst:.1e} apart at most, {"ok" if worst < 1e-6 else "BAD"}')
        return 0 if worst < 1e-6 else 1
    write(options.out, model, weights, batch, options.adam)
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (OSError, KeyError, ValueError) as failure:
        sys.exit(f'golden.py: {failure}')
