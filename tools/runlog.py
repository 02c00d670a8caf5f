# SPDX-License-Identifier: MIT
"""Reads RUN/log.jsonl, the log of a training run: one JSON object a line, its `event` says which kind.

A killed run leaves half a last line, and a resumed one takes up its work at its last checkpoint, so that some steps are in the
log twice. What is returned is the history of the run as it stands: where the log goes back to a step, all that came after this
step is forgotten."""
import json
import math
import os


class LogError(Exception):
    """One line: what is wrong with which log."""


class RunLog:
    """`steps` and `epochs`: the dictionaries of the step and epoch lines, in order. `constants`: members of the lines of all
    other kinds and of the epoch lines, the latest of each name. `damaged`: numbers of the lines that could not be read."""

    def __init__(self, path):
        self.path = os.path.join(path, 'log.jsonl') if os.path.isdir(path) else path
        self.steps, self.epochs, self.constants, self.damaged = [], [], {}, []
        try:
            with open(self.path, 'rb') as file:
                lines = file.read().split(b'\n')
        except OSError as failure:
            raise LogError(f'{self.path}: {failure.strerror}') from failure
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                self._add(json.loads(line.decode('utf-8', 'replace')))
            except (ValueError, KeyError, TypeError, RecursionError):
                if number < len(lines):  # what follows the last newline was being written when the run was killed
                    self.damaged.append(number)

    def _add(self, line):
        event = line['event']
        if event in ('step', 'epoch'):
            step = line['step']
            if isinstance(step, bool) or not isinstance(step, (int, float)) or not math.isfinite(step):
                raise ValueError('no step')
            self._go_back(step, event)
            (self.steps if event == 'step' else self.epochs).append(line)
        if event != 'step':
            self.constants.update(line)

    def _go_back(self, step, event):
        """An epoch line comes after the line of its last step, and a step line before that of its epoch."""
        while self.steps and (self.steps[-1]['step'] > step or event == 'step' and self.steps[-1]['step'] == step):
            self.steps.pop()
        while self.epochs and self.epochs[-1]['step'] >= step:
            self.epochs.pop()

    def number(self, name):
        """A constant of the run as a float, or None."""
        value = self.constants.get(name)
        return float(value) if _is_number(value) else None


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def series(lines, x, y):
    """The lines' numbers (x, y), two lists; lines where either is absent or null (not finite) are left out."""
    pairs = [(line[x], line[y]) for line in lines if _is_number(line.get(x)) and _is_number(line.get(y))]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
