# SPDX-License-Identifier: MIT
"""Astromer in plain NumPy and float64: forward, hand-written backward, loss and Adam.

It follows the specification line by line and shares nothing with the C program, so that each can find the other's mistakes.
Clear first: no in-place tricks, one array per quantity of the specification. golden.py makes the golden files with it.

Shapes: B windows, L steps, D model width, H heads, F width of the feed-forward layer. Weights are in x out: y = x W + b.
"""
from dataclasses import dataclass

import numpy as np

LAYER_NORM_EPSILON = 1e-6
MASK_IS_TOTAL = -1e8  # alpha at or below this hides a key altogether: float32 cannot tell the scores apart under it


@dataclass(frozen=True)
class Model:
    """What the attributes of a golden file say: the shape of the network and how its loss weighs the observations."""
    blocks: int
    heads: int
    width: int
    ffn: int
    leak: bool
    mask: str  # 'K': a hidden key is masked for every query; 'QK': also every key for a hidden query
    alpha: float
    token: bool
    pe_base: float
    weighted: bool
    window: int


def parameter_shapes(model):
    """Name -> shape of every parameter, in the order of the forward pass."""
    D, F = model.width, model.ffn
    shapes = {}

    def linear(name, inputs, outputs):
        shapes[name + '.weight'] = (inputs, outputs)
        shapes[name + '.bias'] = (outputs,)

    def norm(name):
        shapes[name + '.gain'] = (D,)
        shapes[name + '.bias'] = (D,)

    if model.token:
        shapes['token'] = (1,)
    shapes['embed.weight'] = (D,)
    shapes['embed.bias'] = (D,)
    for i in range(model.blocks):
        block = f'block{i}.'
        for name in ('query', 'key', 'value', 'merge'):
            linear(block + name, D, D)
        if model.leak:
            linear(block + 'leak1', D, D)
        norm(block + 'norm1')
        linear(block + 'ffn1', D, F)
        linear(block + 'ffn2', F, D)
        if model.leak:
            linear(block + 'leak2', D, D)
        norm(block + 'norm2')
    norm('readout.norm')
    shapes['readout.weight'] = (D,)
    shapes['readout.bias'] = (1,)
    return shapes


def positional_encoding(model, time):
    """sin or cos of t base^(-2 j / D), sin for even j; j counts every column, not pairs. (B, L) -> (B, L, D)"""
    j = np.arange(model.width)
    angle = time[..., None] * model.pe_base ** (-2.0 * j / model.width)
    return np.where(j % 2 == 0, np.sin(angle), np.cos(angle))


def attention_mask(model, hidden):
    """1 where a query may not see a key. (B, L) -> (B, 1, L, L); the 1 stands for all heads."""
    keys = np.repeat(hidden[:, None, None, :], model.window, axis=2)
    if model.mask == 'K':
        return keys
    return np.minimum(1.0, hidden[:, None, :, None] + keys)


def softmax(scores):
    exponential = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def linear_forward(weights, name, x):
    return x @ weights[name + '.weight'] + weights[name + '.bias']


def linear_backward(weights, name, x, d_y, gradients):
    gradients[name + '.weight'] = np.einsum('bli,blo->io', x, d_y)
    gradients[name + '.bias'] = d_y.sum(axis=(0, 1))
    return d_y @ weights[name + '.weight'].T


def norm_forward(weights, name, x):
    """LayerNorm over the last axis. Returns the output, and what the backward needs: (normalised x, 1 / deviation)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = 1.0 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
    normalised = centred * inverse
    return normalised * weights[name + '.gain'] + weights[name + '.bias'], (normalised, inverse)


def norm_backward(weights, name, saved, d_y, gradients):
    normalised, inverse = saved
    gradients[name + '.gain'] = (d_y * normalised).sum(axis=(0, 1))
    gradients[name + '.bias'] = d_y.sum(axis=(0, 1))
    d_normalised = d_y * weights[name + '.gain']
    along = (d_normalised * normalised).mean(axis=-1, keepdims=True)
    return (d_normalised - d_normalised.mean(axis=-1, keepdims=True) - normalised * along) * inverse


def split_heads(model, x):
    """(B, L, D) -> (B, H, L, D / H)"""
    B, L, D = x.shape
    return x.reshape(B, L, model.heads, D // model.heads).transpose(0, 2, 1, 3)


def join_heads(x):
    """(B, H, L, D / H) -> (B, L, D)"""
    B, H, L, head = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, L, H * head)


def block_forward(model, weights, block, X, mask):
    """One encoder block, X -> X'. Returns X' and everything that the backward needs."""
    saved = {'X': X}
    for name in ('query', 'key', 'value'):
        saved[name] = split_heads(model, linear_forward(weights, block + name, X))
    scale = np.sqrt(model.width / model.heads)
    scores = saved['query'] @ saved['key'].transpose(0, 1, 3, 2) / scale + model.alpha * mask
    A = softmax(scores)
    # A query with no key left sees all of them alike. Its weights are then a constant: no gradient passes through them.
    saved['blind'] = np.logical_and(model.alpha <= MASK_IS_TOTAL, mask.min(axis=-1, keepdims=True) == 1.0)
    saved['A'] = np.where(saved['blind'], 1.0 / model.window, A)
    saved['attended'] = join_heads(saved['A'] @ saved['value'])
    Z = linear_forward(weights, block + 'merge', saved['attended'])
    if model.leak:
        Z = Z + linear_forward(weights, block + 'leak1', X)
    Y, saved['norm1'] = norm_forward(weights, block + 'norm1', Z)
    saved['Y'] = Y
    saved['tanh'] = np.tanh(linear_forward(weights, block + 'ffn1', Y))
    F = linear_forward(weights, block + 'ffn2', saved['tanh'])
    if model.leak:
        F = F + linear_forward(weights, block + 'leak2', Y)
    X_next, saved['norm2'] = norm_forward(weights, block + 'norm2', F)
    return X_next, saved


def block_backward(model, weights, block, saved, d_X_next, gradients):
    """The gradient with respect to the block's input; those of its weights go into `gradients`."""
    d_F = norm_backward(weights, block + 'norm2', saved['norm2'], d_X_next, gradients)
    d_tanh = linear_backward(weights, block + 'ffn2', saved['tanh'], d_F, gradients)
    d_Y = linear_backward(weights, block + 'ffn1', saved['Y'], d_tanh * (1.0 - saved['tanh'] ** 2), gradients)
    if model.leak:
        d_Y = d_Y + linear_backward(weights, block + 'leak2', saved['Y'], d_F, gradients)
    d_Z = norm_backward(weights, block + 'norm1', saved['norm1'], d_Y, gradients)
    d_attended = split_heads(model, linear_backward(weights, block + 'merge', saved['attended'], d_Z, gradients))
    A, query, key, value = saved['A'], saved['query'], saved['key'], saved['value']
    d_A = d_attended @ value.transpose(0, 1, 3, 2)
    d_scores = A * (d_A - (d_A * A).sum(axis=-1, keepdims=True))
    d_scores = np.where(saved['blind'], 0.0, d_scores) / np.sqrt(model.width / model.heads)
    d_heads = {'query': d_scores @ key, 'key': d_scores.transpose(0, 1, 3, 2) @ query, 'value': A.transpose(0, 1, 3, 2) @ d_attended}
    d_X = np.zeros_like(saved['X'])
    for name, d_head in d_heads.items():
        d_X = d_X + linear_backward(weights, block + name, saved['X'], join_heads(d_head), gradients)
    if model.leak:
        d_X = d_X + linear_backward(weights, block + 'leak1', saved['X'], d_Z, gradients)
    return d_X


def forward(model, weights, batch):
    """The network and its loss on a batch (the `input` group of a golden file). Returns a dictionary: X (list of X0 .. XM),
    reconstruction, window_error, loss, and `blocks`, what each block keeps for the backward."""
    hidden, probed = batch['hidden'], batch['probed']
    u = np.where(hidden == 1.0, weights['token'], batch['modified']) if model.token else batch['modified']
    X = [u[..., None] * weights['embed.weight'] + weights['embed.bias'] + positional_encoding(model, batch['time'])]
    mask = attention_mask(model, hidden)
    blocks = []
    for i in range(model.blocks):
        X_next, saved = block_forward(model, weights, f'block{i}.', X[i], mask)
        X.append(X_next)
        blocks.append(saved)
    R, saved_norm = norm_forward(weights, 'readout.norm', X[-1])
    reconstruction = R @ weights['readout.weight'] + weights['readout.bias']
    count = probed.sum(axis=1)
    squares = (probed * batch['error_weight'] * (batch['magnitude'] - reconstruction) ** 2).sum(axis=1)
    window_error = np.where(count > 0, squares / np.maximum(count, 1.0), 0.0)
    return {'X': X, 'blocks': blocks, 'u': u, 'R': R, 'readout.norm': saved_norm, 'reconstruction': reconstruction,
            'window_error': window_error, 'loss': np.sqrt(window_error.mean())}


def backward(model, weights, batch, result):
    """The gradient of the loss, name -> array, from what forward returned."""
    gradients = {}
    B = len(result['window_error'])
    count = np.maximum(batch['probed'].sum(axis=1), 1.0)[:, None]
    d_window_error = 1.0 / (2.0 * B * result['loss']) if result['loss'] > 0.0 else 0.0
    d_squares = d_window_error * batch['probed'] * batch['error_weight'] / count
    d_reconstruction = 2.0 * d_squares * (result['reconstruction'] - batch['magnitude'])
    gradients['readout.weight'] = np.einsum('bl,bld->d', d_reconstruction, result['R'])
    gradients['readout.bias'] = np.array([d_reconstruction.sum()])
    d_R = d_reconstruction[..., None] * weights['readout.weight']
    d_X = norm_backward(weights, 'readout.norm', result['readout.norm'], d_R, gradients)
    for i in reversed(range(model.blocks)):
        d_X = block_backward(model, weights, f'block{i}.', result['blocks'][i], d_X, gradients)
    gradients['embed.weight'] = np.einsum('bl,bld->d', result['u'], d_X)
    gradients['embed.bias'] = d_X.sum(axis=(0, 1))
    if model.token:
        gradients['token'] = np.array([((d_X @ weights['embed.weight']) * batch['hidden']).sum()])
    return {name: gradients[name] for name in parameter_shapes(model)}


ADAM = {'learning_rate': 1e-3, 'beta1': 0.9, 'beta2': 0.98, 'epsilon': 1e-9}


def adam(model, weights, batch, steps, learning_rate, beta1, beta2, epsilon):
    """`steps` Adam updates on one batch as Kingma and Ba's Algorithm 1 has them: both moments are corrected for their start at
    zero, and epsilon is added to the root of the corrected one. (Keras adds it to the uncorrected root: 1e-6 of a difference.)
    Returns the loss before each update and the weights after the last."""
    weights = {name: value.copy() for name, value in weights.items()}
    m = {name: np.zeros_like(value) for name, value in weights.items()}
    v = {name: np.zeros_like(value) for name, value in weights.items()}
    losses = []
    for t in range(1, steps + 1):
        result = forward(model, weights, batch)
        losses.append(result['loss'])
        for name, gradient in backward(model, weights, batch, result).items():
            m[name] = beta1 * m[name] + (1.0 - beta1) * gradient
            v[name] = beta2 * v[name] + (1.0 - beta2) * gradient ** 2
            corrected_m, corrected_v = m[name] / (1.0 - beta1 ** t), v[name] / (1.0 - beta2 ** t)
            weights[name] = weights[name] - learning_rate * corrected_m / (np.sqrt(corrected_v) + epsilon)
    return np.array(losses), weights
