#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The training step of Astromer 2 in plain PyTorch on the CPU: what our step is measured against.

Written as one would write it for a paper: nn.Linear, nn.LayerNorm, a matrix product, a softmax, autograd, torch.optim.Adam, float32.
Before anything is timed the same code, in float64, must reproduce a small golden file, so that both programs do the same work.
  bench/torch_step.py --batch 32 --threads 2          times it, prints one JSON line
  bench/torch_step.py --check FILE...                 compares with golden files and prints the difference per tensor
"""
import argparse
import json
import os
import pathlib
import re
import sys
import time
from types import SimpleNamespace

try:
    import torch
    from torch import nn
except ImportError:
    sys.exit('torch_step.py: PyTorch is missing; install the package python3-torch')

ASTROMER2 = {'blocks': 6, 'heads': 4, 'width': 256, 'ffn': 512, 'leak': True, 'mask': 'K', 'alpha': -1e9, 'token': True,
             'pe_base': 10000.0, 'window': 200}
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / 'tests' / 'golden' / 'astromer2.h5'
BOUND = 1e-5  # of --check, relative to a tensor's norm; golden files may hold float32 weights


# ---- The model ----

class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape.width
        self.shape = shape
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))
        self.ffn1, self.ffn2 = nn.Linear(width, shape.ffn), nn.Linear(shape.ffn, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        if shape.leak:
            self.leak1, self.leak2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, X, bias):
        """X (B, L, D); bias, alpha times the mask, is added to the scores. Returns the next X and the attention weights."""
        B, L, D = X.shape
        head = D // self.shape.heads

        def split(x):
            return x.view(B, L, self.shape.heads, head).transpose(1, 2)

        Q, K, V = split(self.query(X)), split(self.key(X)), split(self.value(X))
        A = torch.softmax(Q @ K.transpose(-2, -1) / head ** 0.5 + bias, dim=-1)
        Z = self.merge((A @ V).transpose(1, 2).reshape(B, L, D))
        Y = self.norm1(Z + self.leak1(X)) if self.shape.leak else self.norm1(Z)
        F = self.ffn2(torch.tanh(self.ffn1(Y)))
        return (self.norm2(F + self.leak2(Y)) if self.shape.leak else self.norm2(F)), A


class Astromer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        if shape.token:
            self.token = nn.Parameter(torch.zeros(1))
        self.embed = nn.Linear(1, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.readout = nn.Linear(shape.width, 1)
        j = torch.arange(shape.width, dtype=torch.float64)
        self.register_buffer('frequency', shape.pe_base ** (-2.0 * j / shape.width))
        self.register_buffer('even', j % 2 == 0)

    def forward(self, batch):
        """The reconstruction (B, L), and all X and the first attention weights for --check."""
        u = torch.where(batch.hidden > 0, self.token, batch.modified) if self.shape.token else batch.modified
        angle = batch.time[..., None] * self.frequency
        X = [self.embed(u[..., None]) + torch.where(self.even, torch.sin(angle), torch.cos(angle))]
        mask = batch.hidden[:, None, None, :]
        if self.shape.mask == 'QK':
            mask = torch.clamp(mask + batch.hidden[:, None, :, None], max=1.0)
        attention0 = None
        for block in self.blocks:
            X_next, A = block(X[-1], self.shape.alpha * mask)
            X.append(X_next)
            attention0 = A if attention0 is None else attention0
        return self.readout(self.norm(X[-1]))[..., 0], X, attention0


def window_errors(batch, reconstruction):
    squares = batch.probed * batch.error_weight * (batch.magnitude - reconstruction) ** 2
    return squares.sum(1) / batch.probed.sum(1).clamp(min=1.0)


# ---- Verify ----

def our_names(model):
    """Name in a golden file -> parameter. nn.Linear keeps its weight out x in; golden files have it in x out."""
    names = {}
    for name, parameter in model.named_parameters():
        name = name.replace('blocks.', 'block', 1)
        if name.startswith('norm.'):
            name = 'readout.' + name
        if 'norm' in name:
            name = name.replace('.weight', '.gain')
        names[name] = parameter
    return names


def read_golden(path):
    import h5py
    with h5py.File(path, 'r') as file:
        shape = SimpleNamespace(**{name: file.attrs[name] for name in ASTROMER2})
        batch = SimpleNamespace(**{name: torch.tensor(value[()]) for name, value in file['input'].items()})
        weights, expected, gradients = ({name: torch.tensor(value[()], dtype=torch.float64) for name, value in file[group].items()}
                                        for group in ('weights', 'expected', 'gradients'))
    shape.width, shape.heads, shape.ffn, shape.blocks = map(int, (shape.width, shape.heads, shape.ffn, shape.blocks))
    return shape, batch, weights, expected, gradients


def compare(path):
    """Tensor -> relative difference between this model in float64 and a golden file."""
    shape, batch, weights, expected, gradients = read_golden(path)
    model = Astromer(shape).double()
    names = our_names(model)
    if set(names) != set(weights):
        raise ValueError(f'{path}: its weights are not those of this model')
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(weights[name].t().reshape(parameter.shape))
    reconstruction, X, attention0 = model(batch)
    errors = window_errors(batch, reconstruction)
    loss = errors.mean().sqrt()
    loss.backward()
    ours = {f'X{i}': x for i, x in enumerate(X)}
    ours.update(attention0=attention0, reconstruction=reconstruction, window_error=errors, loss=loss)
    whole = torch.sqrt(sum((g ** 2).sum() for g in gradients.values()))
    differences = {name: ((ours[name] - value).norm() / value.norm()).item() for name, value in expected.items()}
    for name, value in gradients.items():
        gradient = names[name].grad
        gradient = (gradient.t() if value.dim() == 2 else gradient).reshape(value.shape)
        norm = value.norm() if value.norm() > 1e-6 * whole else whole  # key.bias: softmax cannot see it
        differences['gradient of ' + name] = ((gradient - value).norm() / norm).item()
    return differences


def verify(path, show):
    differences = compare(path)
    if show:
        for name, difference in differences.items():
            print(f'{difference:9.2e} {"ok " if difference <= BOUND else "BAD"} {name}')
    worst = max(differences, key=differences.get)
    if not differences[worst] <= BOUND:
        raise ValueError(f'{path}: {worst} differs by {differences[worst]:.1e}')
    return differences[worst]


# ---- Time ----

def draw_batch(count, window):
    """Full windows of made light curves: 50 % probed, 32 % hidden."""
    torch.manual_seed(1)
    order = torch.rand(count, window).argsort(1)
    probed, hidden = (order < window // 2).float(), (order < window * 32 // 100).float()
    raw_time = torch.rand(count, window, dtype=torch.float64).sort(1)[0] * 1000.0
    magnitude = torch.sin(raw_time * 2.1) * 0.3 + 0.1 * torch.randn(count, window, dtype=torch.float64)
    centred = [(x - x.mean(1, keepdim=True)).float() for x in (raw_time, magnitude)]
    return SimpleNamespace(time=centred[0], magnitude=centred[1], modified=centred[1].clone(), probed=probed, hidden=hidden,
                           error_weight=torch.rand(count, window) + 1e-3)


def train_step(model, optimiser, batch):
    optimiser.zero_grad(set_to_none=True)
    loss = window_errors(batch, model(batch)[0]).mean().sqrt()
    loss.backward()
    optimiser.step()
    return loss.item()


def time_steps(options):
    model = Astromer(SimpleNamespace(**ASTROMER2)).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-9)
    batch = draw_batch(options.batch, ASTROMER2['window'])
    seconds = []
    for i in range(options.warmup + options.steps):
        start = time.perf_counter()
        loss = train_step(model, optimiser, batch)
        if i >= options.warmup:
            seconds.append(time.perf_counter() - start)
        if loss != loss:
            raise ValueError('the loss is not a number')
    return seconds


def blas_library():
    """The files that torch's matrix products come from, as far as they can be seen."""
    try:
        with open('/proc/self/maps') as maps:
            paths = {os.path.realpath(line.split()[-1]) for line in maps if '.so' in line}
    except OSError:
        return 'unknown'
    found = sorted(path for path in paths if 'blas' in os.path.basename(path) or 'mkl' in os.path.basename(path))
    return ', '.join(found) or 'built in'


def refuse_reference_blas(blas):
    """Debian's torch multiplies with whatever libblas.so.3 is; the reference one is 30 times slower than it need be."""
    if re.fullmatch(r'/usr/lib/[^,]*/blas/libblas\.so\.3[.0-9]*', blas):
        raise ValueError(f'PyTorch would multiply with the reference BLAS ({blas}), which makes no fair comparison: '
                         'install libopenblas0-openmp, or give --any-blas')


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch', type=int, default=32, help='windows of a step (%(default)s)')
    parser.add_argument('--threads', type=int, default=2, help='threads (%(default)s)')
    parser.add_argument('--steps', type=int, default=8, help='steps to time (%(default)s)')
    parser.add_argument('--warmup', type=int, default=2, help='steps before that (%(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the JSON line into a file too')
    parser.add_argument('--any-blas', action='store_true', help='time it even with the slow reference BLAS')
    parser.add_argument('--check', metavar='FILE', nargs='*', help='only compare with golden files (default: the small one of tests/)')
    options = parser.parse_args()
    if min(options.batch, options.threads, options.steps) < 1 or options.warmup < 0:
        parser.error('--batch, --threads and --steps are at least 1, --warmup at least 0')
    return options


def main():
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    if options.check is not None:
        for path in options.check or [GOLDEN]:
            print(f'{path}: largest difference {verify(path, show=True):.1e}, ok')
        return
    difference = verify(GOLDEN, show=False)  # also makes torch load its BLAS
    blas = blas_library()
    if not options.any_blas:
        refuse_reference_blas(blas)
    seconds = sorted(time_steps(options))
    rate = [options.batch / s for s in seconds]
    line = json.dumps({'program': 'torch', 'version': torch.__version__, 'blas': blas, 'batch': options.batch,
                       'threads': options.threads, 'steps': options.steps, 'windows_per_second': rate[len(rate) // 2],
                       'slowest': rate[-1], 'fastest': rate[0], 'verified_to': difference})
    print(line)
    if options.json:
        pathlib.Path(options.json).write_text(line + '\n')


if __name__ == '__main__':
    try:
        main()
    except (OSError, ValueError, KeyError, ImportError) as failure:
        sys.exit(f'torch_step.py: {failure}')
