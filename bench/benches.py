# SPDX-License-Identifier: MIT
"""What the benches written in Python share: running programs that print JSON lines, describing machine and commit, medians, and
the form of a result file, which bench/picture reads:

  {"bench": "train-step", "prediction": false,
   "machine": {"processor", "cores", "load_before", "commit", "date"},
   "setting": {...},                                  what was measured, in words of the bench's options
   "numbers": {NAME: {"what": "our step", "unit": "windows/s", "median": 1.0, "lowest": 1.0, "highest": 1.0, "rounds": [1.0, ...]}},
   "notes": ["..."], ...}                             what a reader must know; and whatever else the bench keeps

A bench may be a folder's program of any kind: what has machine and numbers in this form stands in the table."""
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINE = 150   # characters of a result file
BUSY = 0.5  # more cores busy than this before a bench make its figures worth little
SETUP = 'source "$0" && setup_mpi && { [ "$1" = spin ] || setup_shared; } && shift && exec mpirun --bind-to none "$@"'


class BenchError(Exception):
    """One line: what could not be measured."""


def run_lines(words, **environment):
    """The JSON lines that a program prints; its other lines are left out."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    except OSError as failure:
        raise BenchError(f'{words[0]}: {failure.strerror}') from failure
    name = pathlib.Path(next((word for word in words if word.startswith('/') and 'launch' not in word), words[0])).name
    if done.returncode != 0:
        why = (done.stderr.strip() or f'exit status {done.returncode}').splitlines()
        why = next((line for line in why if line.startswith(name + ': ')), why[-1])
        raise BenchError(why if why.startswith(name) else f'{name} failed: {why}')
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{') and line.endswith('}')]


def run_json(words, **environment):
    """The last line that a program prints, which is JSON with windows_per_second."""
    try:
        result = run_lines(words, **environment)[-1]
        float(result['windows_per_second'])
    except (ValueError, KeyError, IndexError, TypeError) as failure:
        raise BenchError(f'{words[0]} printed no JSON line with windows_per_second') from failure
    return result


def on_ranks(ranks, words, spin=False):
    """The words that run a program on several ranks of this machine. spin: waiting ranks do not sleep, for cores of their own."""
    return ['bash', '-c', SETUP, ROOT / 'launch' / 'setup.sh', 'spin' if spin else 'sleep', '-n', ranks, *words]


def first_line_of(command, absent='unknown'):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    except OSError:
        return absent
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else absent


def processor():
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores_busy(seconds=0.5):
    """Cores that somebody keeps busy now. The load average would count this bench's predecessor for minutes."""
    def ticks():
        with open('/proc/stat') as file:
            numbers = [int(word) for word in file.readline().split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]  # all, idle
    try:
        before = ticks()
        time.sleep(seconds)
        all_, idle = (now - then for now, then in zip(ticks(), before))
        return round(os.cpu_count() * (1 - idle / all_), 2) if all_ else 0.0
    except (OSError, ValueError, IndexError):
        return round(os.getloadavg()[0], 2)


def describe_machine():
    commit = first_line_of(['git', 'rev-parse', '--short=12', 'HEAD'])
    if commit != 'unknown' and first_line_of(['git', 'status', '--porcelain', '--untracked-files=no', '--', '.', ':!bench/results'], ''):
        commit += ' with changes'
    return {'processor': processor(), 'cores': len(os.sched_getaffinity(0)), 'load_before': cores_busy(),
            'commit': commit, 'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')}


def summary(values, what='', unit=''):
    """A number of a result file, from its rounds."""
    values = list(values)
    return {'what': what, 'unit': unit, 'median': statistics.median(values), 'lowest': min(values), 'highest': max(values),
            'rounds': values}


def ratio(above, below, what):
    """The ratio of two numbers measured in turns, round by round: what slows one round slows both."""
    return summary([a / b for a, b in zip(above['rounds'], below['rounds'])], what, 'times')


def readable_json(value, indent=''):
    """JSON in which a list or object stands on one line where that is not too long, or where it has only numbers and words."""
    line, parts = json.dumps(value), value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if len(indent + line) <= LINE or not any(isinstance(part, (dict, list)) for part in parts):
        return line
    deeper = indent + ' '
    inner = [readable_json(part, deeper) for part in parts]
    if isinstance(value, dict):
        inner = [f'{json.dumps(name)}: {text}' for name, text in zip(value, inner)]
    lines = []
    for text in inner:  # what is short shares a line with what is short before it
        if lines and '\n' not in lines[-1] + text and len(f'{deeper}{lines[-1]}, {text}') <= LINE:
            lines[-1] += f', {text}'
        else:
            lines.append(text)
    begin, end = '{}' if isinstance(value, dict) else '[]'
    return begin + '\n' + deeper + f',\n{deeper}'.join(lines) + '\n' + indent + end


def write_result(path, bench, machine, setting, numbers, prediction=False, notes=(), **more):
    """Writes a result file; a reader never sees half of one."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(readable_json({'bench': bench, 'prediction': prediction, 'machine': machine, 'setting': setting,
                                      'numbers': numbers, 'notes': list(notes), **more}) + '\n')
    partial.replace(path)


def read_result(path):
    """A result file, or BenchError with what is wrong with it."""
    path = pathlib.Path(path)
    try:
        result = json.loads(path.read_text())
        for name, number in result['numbers'].items():
            for key in ('median', 'lowest', 'highest'):
                if not isinstance(number[key], (int, float)):
                    raise ValueError(f'{name}.{key} is no number')
        machine = {'processor': 'unknown', 'cores': 0, 'commit': 'unknown', 'load_before': 0.0, 'date': '', **result['machine']}
    except OSError as failure:
        raise BenchError(f'{path}: {failure.strerror}') from failure
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise BenchError(f'{path} is not a result of a bench: {type(failure).__name__} {failure}') from failure
    return {'bench': path.stem, 'prediction': False, 'setting': {}, 'notes': [], **result, 'machine': machine}


def number_text(value):
    """Three digits or more, as people write them."""
    size = abs(value)
    if size >= 1000:
        return f'{value:,.0f}'.replace(',', ' ')
    return f'{value:.1f}' if size >= 10 else f'{value:.2f}' if size >= 0.1 else f'{value:.3g}'


def print_numbers(title, machine, numbers, notes=(), file=None):
    """The table that every bench prints."""
    print(f'{machine["processor"]}, {machine["cores"]} cores, load {machine["load_before"]:.1f} before; commit {machine["commit"]}\n'
          f'{title}\n\n{"":44} {"median":>9} {"lowest":>9} {"highest":>9}', file=file)
    for name, number in numbers.items():
        values = ' '.join(f'{number_text(number[key]):>9}' for key in ('median', 'lowest', 'highest'))
        print(f'{number.get("what") or name:44} {values} {number.get("unit", "")}', file=file)
    notes = [*notes, *(['Other programs were running: repeat this on an idle machine.'] if machine['load_before'] > BUSY else [])]
    print(''.join(f'\n{note}' for note in notes), file=file)


def end(main):
    """Runs a bench's main; a failure is one line."""
    try:
        main()
    except (BenchError, OSError) as failure:
        sys.exit(f'{pathlib.Path(sys.argv[0]).name}: {failure}')
