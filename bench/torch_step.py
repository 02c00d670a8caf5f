#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The training step of Astromer 2 in plain PyTorch: what our step is measured against.

Written as one would write it for a paper: nn.Linear, nn.LayerNorm, a matrix product, a softmax, autograd, torch.optim.Adam, float32.
Before anything is timed the same code, in float64, must reproduce a small golden file, so that both programs do the same work.
  bench/torch_step.py --batch 32 --threads 2          times it, prints one JSON line
  bench/torch_step.py --check FILE...                 compares with golden files and prints the difference per tensor
  bench/torch_step.py --device cuda --precision bf16 --fused --compile --batch 512
                                                      on a GPU, as fast as PyTorch makes it: a line without torch.compile, one with it
"""
import argparse
import collections
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

def fused_attention(Q, K, V, bias):
    """PyTorch's own attention; bias is True where a key is seen, or is added to the scores. Scaled by the head's width."""
    return nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=bias if bias.dtype == torch.bool else bias.to(Q.dtype))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape.width
        self.heads, self.leak, self.fused = shape.heads, shape.leak, shape.fused
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))
        self.ffn1, self.ffn2 = nn.Linear(width, shape.ffn), nn.Linear(shape.ffn, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        if shape.leak:
            self.leak1, self.leak2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, X, bias):
        """X (B, L, D); bias, alpha times the mask, is added to the scores. Returns the next X and the attention weights."""
        B, L, D = X.shape
        head = D // self.heads

        def split(x):
            return x.view(B, L, self.heads, head).transpose(1, 2)

        Q, K, V = split(self.query(X)), split(self.key(X)), split(self.value(X))
        if self.fused:
            A, heads = None, fused_attention(Q, K, V, bias)
        else:
            A = torch.softmax(Q @ K.transpose(-2, -1) / head ** 0.5 + bias, dim=-1)
            heads = A @ V
        Z = self.merge(heads.transpose(1, 2).reshape(B, L, D))
        Y = self.norm1(Z + self.leak1(X)) if self.leak else self.norm1(Z)
        F = self.ffn2(torch.tanh(self.ffn1(Y)))
        return (self.norm2(F + self.leak2(Y)) if self.leak else self.norm2(F)), A


class Astromer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.mask, self.alpha, self.fused, self.has_token = shape.mask, shape.alpha, shape.fused, bool(shape.token)
        if self.has_token:
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
        u = torch.where(batch.hidden > 0, self.token, batch.modified) if self.has_token else batch.modified
        angle = batch.time[..., None] * self.frequency
        X = [self.embed(u[..., None]) + torch.where(self.even, torch.sin(angle), torch.cos(angle))]
        mask = batch.hidden[:, None, None, :]
        if self.mask == 'QK':
            mask = torch.clamp(mask + batch.hidden[:, None, :, None], max=1.0)
        attention0 = None
        sees_visible_only = self.mask == 'K' and self.alpha <= -1e4  # then a mask of truth values is the faster one
        bias = mask == 0 if self.fused and sees_visible_only else self.alpha * mask
        for block in self.blocks:
            X_next, A = block(X[-1], bias)
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


def read_flat(path):
    """A golden file that bench/gpu has prepared for machines without h5py: attributes, {group: {name: tensor}}."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'gpu_parts'))
    import golden_flat
    attributes, values = golden_flat.read(path)
    tensors = {}
    for name, numbers in values.items():
        group, _, rest = name.partition('/')
        tensors.setdefault(group, {})[rest] = torch.tensor(numbers, dtype=torch.float64)
    return {name: value for (group, name), value in attributes.items() if group == '/'}, tensors


def read_golden(path):
    if str(path).endswith('.flat'):
        attributes, tensors = read_flat(path)
        B, L = len(tensors['input']['length']), int(attributes['window'])
        tensors['input'] = {name: value.reshape(B, L) if value.numel() == B * L else value for name, value in tensors['input'].items()}
    else:
        import h5py
        with h5py.File(path, 'r') as file:
            attributes = dict(file.attrs)
            tensors = {group: {name: torch.tensor(value[()], dtype=torch.float64) for name, value in file[group].items()}
                       for group in ('input', 'weights', 'expected', 'gradients')}
    shape = SimpleNamespace(**{name: attributes[name] for name in ASTROMER2})
    shape.width, shape.heads, shape.ffn, shape.blocks = map(int, (shape.width, shape.heads, shape.ffn, shape.blocks))
    shape.fused = False
    return shape, SimpleNamespace(**tensors['input']), tensors['weights'], tensors['expected'], tensors['gradients']


def as_ours(value, parameter):
    """A golden file's tensor, perhaps without its shape, in the shape of nn.Linear's weight or another parameter."""
    return value.reshape(parameter.shape[::-1]).t() if parameter.dim() == 2 else value.reshape(parameter.shape)


def compare(path):
    """Tensor -> relative difference between this model in float64 and a golden file."""
    shape, batch, weights, expected, gradients = read_golden(path)
    model = Astromer(shape).double()
    names = our_names(model)
    if set(names) != set(weights):
        raise ValueError(f'{path}: its weights are not those of this model')
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(as_ours(weights[name], parameter))
    reconstruction, X, attention0 = model(batch)
    errors = window_errors(batch, reconstruction)
    loss = errors.mean().sqrt()
    loss.backward()
    ours = {f'X{i}': x for i, x in enumerate(X)}
    ours.update(attention0=attention0, reconstruction=reconstruction, window_error=errors, loss=loss)
    whole = torch.sqrt(sum((g ** 2).sum() for g in gradients.values()))
    differences = {name: ((ours[name].reshape(value.shape) - value).norm() / value.norm()).item() for name, value in expected.items()}
    for name, value in gradients.items():
        gradient, value = names[name].grad, as_ours(value, names[name])
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

Batch = collections.namedtuple('Batch', 'time magnitude modified probed hidden error_weight')  # torch.compile knows tuples


def draw_batch(count, window, device):
    """Full windows of made light curves: 50 % probed, 32 % hidden."""
    torch.manual_seed(1)
    order = torch.rand(count, window).argsort(1)
    probed, hidden = (order < window // 2).float(), (order < window * 32 // 100).float()
    raw_time = torch.rand(count, window, dtype=torch.float64).sort(1)[0] * 1000.0
    magnitude = torch.sin(raw_time * 2.1) * 0.3 + 0.1 * torch.randn(count, window, dtype=torch.float64)
    centred = [(x - x.mean(1, keepdim=True)).float() for x in (raw_time, magnitude)]
    batch = {'time': centred[0], 'magnitude': centred[1], 'modified': centred[1].clone(), 'probed': probed, 'hidden': hidden,
             'error_weight': torch.rand(count, window) + 1e-3}
    return Batch(**{name: value.to(device) for name, value in batch.items()})


def loss_of(model, batch):
    return window_errors(batch, model(batch)[0]).mean().sqrt()


def train_step(loss_of, model, optimiser, batch, autocast):
    optimiser.zero_grad(set_to_none=True)
    with autocast:
        loss = loss_of(model, batch)
    loss.backward()
    optimiser.step()
    return loss.item()  # waits for the GPU


def make_model(options, fused):
    torch.manual_seed(2)
    shape = dict(ASTROMER2, **{name: getattr(options, name) for name in ('blocks', 'heads', 'width', 'ffn', 'window')}, fused=fused)
    return Astromer(SimpleNamespace(**shape)).float().to(options.device)


def gradient_of(model, batch):
    model.zero_grad()
    loss_of(model, batch).backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


def verify_fused(options, batch):
    """The gradient with PyTorch's own attention against that with ours, in float32."""
    ours, theirs = (gradient_of(make_model(options, fused), batch) for fused in (False, True))
    difference = ((ours - theirs).norm() / ours.norm()).item()
    if not difference < 1e-3:
        raise ValueError(f'fused attention changes the gradient by {difference:.1e}')
    return difference


def time_steps(options, compiled=False):
    model = make_model(options, options.fused)
    on_gpu = options.device == 'cuda'
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-9, **({'fused': True} if on_gpu else {}))
    batch = draw_batch(options.batch, options.window, options.device)
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == 'bf16')
    work = torch.compile(loss_of) if compiled else loss_of
    seconds = []
    for i in range(options.warmup + options.steps):
        start = time.perf_counter()
        loss = train_step(work, model, optimiser, batch, autocast)
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
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='where (%(default)s)')
    parser.add_argument('--precision', choices=('fp32', 'bf16'), default='fp32', help='bf16: with autocast (%(default)s)')
    parser.add_argument('--fused', action='store_true', help="with PyTorch's own attention")
    parser.add_argument('--compile', action='store_true', help='a second line: the same through torch.compile')
    parser.add_argument('--golden', metavar='FILE', type=pathlib.Path, default=GOLDEN, help='what it must reproduce first (%(default)s)')
    parser.add_argument('--no-golden', action='store_true', help='there is no golden file that it could reproduce')
    for name in ('blocks', 'heads', 'width', 'ffn', 'window'):
        parser.add_argument('--' + name, type=int, default=ASTROMER2[name], help="of the model (Astromer 2's: %(default)s)")
    parser.add_argument('--check', metavar='FILE', nargs='*', help='only compare with golden files (default: the small one of tests/)')
    options = parser.parse_args()
    if min(options.batch, options.threads, options.steps) < 1 or options.warmup < 0:
        parser.error('--batch, --threads and --steps are at least 1, --warmup at least 0')
    return options


def main():
    options = parse_arguments()
    options.fused_differs = None
    torch.set_num_threads(options.threads)
    if options.check is not None:
        for path in options.check or [GOLDEN]:
            print(f'{path}: largest difference {verify(path, show=True):.1e}, ok')
        return
    difference = None if options.no_golden else verify(options.golden, show=False)  # also makes torch load its BLAS
    blas = blas_library()
    if not options.any_blas and options.device == 'cpu':
        refuse_reference_blas(blas)
    if options.fused:
        options.fused_differs = verify_fused(options, draw_batch(4, options.window, options.device))
    lines = [report(options, time_steps(options), blas, difference, False)]
    if options.compile:
        lines.append(report(options, time_steps(options, True), blas, difference, True))
    if options.json:
        pathlib.Path(options.json).write_text('\n'.join(lines) + '\n')


def graph_breaks():
    """Where torch.compile gave up and went on with plain PyTorch; None: it does not say."""
    try:
        from torch._dynamo.utils import counters
        return sum(counters['graph_break'].values())
    except ImportError:
        return None


def report(options, seconds, blas, difference, compiled):
    seconds = sorted(seconds)
    rate = [options.batch / s for s in seconds]
    line = json.dumps({'program': 'torch', 'version': torch.__version__, 'blas': blas, 'batch': options.batch, 'device': options.device,
                       'precision': options.precision, 'fused': options.fused, 'compiled': compiled,
                       'graph_breaks': graph_breaks() if compiled else None,
                       'threads': options.threads, 'steps': options.steps, 'windows_per_second': rate[len(rate) // 2],
                       'ms': 1e3 * seconds[len(rate) // 2], 'slowest': rate[-1], 'fastest': rate[0], 'verified_to': difference,
                       'fused_differs': options.fused_differs})
    print(line, flush=True)
    return line


if __name__ == '__main__':
    try:
        main()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as failure:
        sys.exit('torch_step.py: ' + (str(failure).strip().splitlines() or [type(failure).__name__])[0])
