# SPDX-License-Identifier: MIT
"""Builds the program of bench/gpu with nvcc and a C compiler alone: no meson, and stand-ins for what the machine lacks."""
import concurrent.futures
import functools
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PARTS = ROOT / 'bench' / 'gpu_parts'
WRAPPED = ('cuda_product', 'cudaMemcpyAsync', 'cudaMemsetAsync', 'cudaStreamSynchronize', 'cudaGraphLaunch')


class BuildError(Exception):
    """One line: what cannot be built."""


def run_until(command, seconds, out, err):
    """Runs a command with its output into two files; whoever it started ends with it. Exit status; None: its time was up."""
    child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return child.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def run(command, seconds):
    """(exit status, everything it printed)"""
    with tempfile.TemporaryFile('w+', errors='replace') as out:
        try:
            status = run_until(command, seconds, out, subprocess.STDOUT)
        except OSError as failure:
            return 127, f'{command[0]}: {failure.strerror}'
        if status is None:
            return 124, f'{pathlib.Path(command[0]).name}: not done within its time'
        out.seek(0)
        return status, out.read()


@functools.lru_cache(maxsize=None)
def what_is(*command):
    """What a compiler says of itself."""
    return run(command, 20)[1]


def find_nvcc():
    for place in (os.environ.get('NVCC'), shutil.which('nvcc'), '/usr/local/cuda/bin/nvcc'):
        if place and os.access(place, os.X_OK):
            return pathlib.Path(place).resolve()
    raise BuildError('nvcc is not there: neither in PATH nor in /usr/local/cuda/bin')


def find_toolkit(nvcc):
    """Include folders, libcudart_static's folder and libcublasLt itself; NVIDIA's Python packages spread them over folders."""
    places = [nvcc.parent.parent, *nvcc.parent.parent.glob('targets/*')]
    for site in {sysconfig.get_paths()['purelib'], sysconfig.get_paths()['platlib']}:
        places += sorted(pathlib.Path(site).glob('nvidia/*'))
    includes = [p / 'include' for p in places if any((p / 'include' / h).exists() for h in ('cuda_runtime.h', 'cublasLt.h'))]
    folders = [f for p in places for f in (p / 'lib64', p / 'lib') if f.is_dir()]
    runtime = next((f for f in folders if (f / 'libcudart_static.a').exists()), None)
    products = next((library for f in folders for library in sorted(f.glob('libcublasLt.so*'))), None)
    if not runtime or not products or not any((i / 'cublasLt.h').exists() for i in includes):
        raise BuildError(f'no CUDA runtime (libcudart_static.a) or no cuBLAS (libcublasLt.so, cublasLt.h) beside {nvcc}')
    return includes, runtime, products


def sources(found):
    """The C files of the program, with the stand-ins of what was not found."""
    src = ROOT / 'src'
    listed = [p for folder in ('base', 'device/cpu', 'device/cuda', 'model') for p in sorted((src / folder).glob('*.c'))]
    listed.remove(src / 'base' / 'config_yaml.c')
    listed += [src / name for name in ('device/device.c', 'train/trainer.c', 'train/schedule.c', 'survey/synth_curve.c',
                                       'survey/windows.c', 'survey/loader.c', 'survey/order.c', 'commands/check.c',
                                       'commands/golden.c', 'commands/options.c')]
    listed += [PARTS / name for name in ('alone.c', 'made_survey.c', 'main.c', 'watch.c', 'yaml_absent.c')]
    listed.append(ROOT / 'bench' / 'full_windows.c')
    listed.append(src / 'commands' / 'golden_hdf5.c' if found['HDF5'] else PARTS / 'golden_flat.c')
    if not found['oneDNN']:
        listed.remove(src / 'device' / 'cpu' / 'product_bf16.c')
        listed += [PARTS / 'onednn' / 'dnnl.c', src / 'device' / 'product_bf16_absent.c']
    return listed


def c_words(source, found, hdf5):
    """How a C file is compiled, but for the compiler and CUDA's headers."""
    words = ['-std=c11', '-O3', '-march=native', '-fopenmp', '-fno-math-errno', '-fno-trapping-math', '-D_GNU_SOURCE', '-Wall',
             '-Wextra', '-Wno-unknown-pragmas', '-I', ROOT / 'src', '-I', ROOT / 'kernels', '-I', PARTS, '-I', PARTS / 'nvtx']
    if source.name == 'golden_hdf5.c':
        return words + hdf5  # its mpi.h is the library's own
    words += ['-I', PARTS / 'mpi']
    words += [] if found['oneDNN'] else ['-I', PARTS / 'onednn']
    return words + ([] if found['Random123'] else ['-I', PARTS / 'random123'])


class Compiler:
    def __init__(self, folder, architecture, seconds, only_stand_ins):
        self.folder, self.architecture, self.end = folder, architecture, time.monotonic() + seconds
        self.cc = os.environ.get('CC') or shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
        if not self.cc:
            raise BuildError('no C compiler is there')
        self.nvcc = find_nvcc()
        self.includes, self.runtime, self.products = find_toolkit(self.nvcc)
        self.only_stand_ins, self.messages, self.kept = only_stand_ins, [], 0
        folder.mkdir(parents=True, exist_ok=True)

    def left(self):
        return self.end - time.monotonic()

    def has(self, text, words=()):
        """Whether a program of these lines links with these words."""
        source = self.folder / 'probe.c'
        source.write_text(text)
        return run([self.cc, source, '-o', self.folder / 'probe', *words], min(self.left(), 20))[0] == 0

    def find_hdf5(self):
        """Words to compile and link with, or None."""
        text = '#include <hdf5.h>\nint main(void) { return H5open() < 0 || !&H5Pset_file_locking; }\n'
        candidates = [['-lhdf5']]
        for name in ('hdf5', 'hdf5-openmpi', 'hdf5-serial', 'hdf5-mpich'):
            status, words = run(['pkg-config', '--cflags', '--libs', name], min(self.left(), 5))
            if status == 0:
                candidates.append(words.split())
        return next((words for words in candidates if self.has(text, words)), None)

    def choose(self):
        """What is real and what is a stand-in."""
        product = 'dnnl_sgemm(78, 78, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1) || !&dnnl_matmul_desc_init'  # as in oneDNN 2
        self.found = {
            'OpenMP': self.has('#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n', ['-fopenmp']),
            'oneDNN': self.has(f'#include <dnnl.h>\nint main(void) {{ return {product}; }}\n', ['-ldnnl']),
            'Random123': self.has('#include <Random123/philox.h>\nint main(void) { return 0; }\n')}
        if not self.found['OpenMP']:
            raise BuildError(f'{self.cc} has no OpenMP (-fopenmp)')
        self.hdf5 = self.find_hdf5()
        if self.only_stand_ins:
            self.hdf5, self.found = None, {'OpenMP': True, 'oneDNN': False, 'Random123': False}
        self.found['HDF5'] = self.hdf5 is not None

    def c_command(self, source):
        words = [self.cc, *c_words(source, self.found, self.hdf5)]
        return words + ([] if source.name == 'golden_hdf5.c' else [w for folder in self.includes for w in ('-isystem', folder)])

    def nvcc_command(self):
        words = [self.nvcc, '-std=c++17', '-O3', '-lineinfo', '-Xcompiler', '-fPIC,-Wall', '-DLAUNCH_NOTE=watch_launch',
                 f'-gencode=arch=compute_{self.architecture},code=sm_{self.architecture}', '-I', ROOT / 'src', '-I', ROOT / 'kernels']
        return words + ([] if self.found['Random123'] else ['-I', PARTS / 'random123'])

    def fingerprint(self, source, command):
        """Of all that an object comes from. -march=native makes the processor a part of it."""
        text = hashlib.sha256(repr([str(word).replace(str(ROOT), '') for word in command]).encode())
        text.update(what_is(command[0], '--version').encode())
        if command[0] == self.cc:
            text.update(what_is(self.cc, '-march=native', '-Q', '--help=target').encode())
        for path in [source, *(p for folder in ('src', 'kernels', 'bench') for p in sorted((ROOT / folder).rglob('*.h')))]:
            text.update(path.read_bytes())
        return text.hexdigest()

    def compile(self, source):
        """The object of a source; one of an earlier run that would be the same stays."""
        command = self.nvcc_command() if source.suffix == '.cu' else self.c_command(source)
        target = self.folder / (str(source.relative_to(ROOT)).replace('/', '-') + '.o')
        stamp, print_ = target.with_suffix('.stamp'), self.fingerprint(source, command)
        if target.exists() and stamp.exists() and stamp.read_text() == print_:
            self.kept += 1
            return target
        status, output = run([*command, '-c', source, '-o', target], self.left())
        if output.strip():
            self.messages.append(output.strip())
        if status != 0:
            wrong = [line for line in output.splitlines() if 'error' in line] or output.splitlines()[-1:] or [f'exit status {status}']
            raise BuildError(f'{source.relative_to(ROOT)}: {wrong[0]}')
        stamp.write_text(print_)
        return target

    def link(self, objects, program):
        command = [self.cc, '-fopenmp', *objects, '-o', program, *(f'-Wl,--wrap={name}' for name in WRAPPED), '-L', self.runtime,
                   '-lcudart_static', self.products, f'-Wl,-rpath,{self.products.parent}', '-lstdc++', '-lm', '-lpthread', '-ldl', '-lrt',
                   *(['-ldnnl'] if self.found['oneDNN'] else []), *(self.hdf5 or [])]
        status, output = run(command, self.left())
        if output.strip():
            self.messages.append(output.strip())
        if status != 0:
            raise BuildError(f'linking: {(output.splitlines() or [status])[0]}')


def build(folder, architecture, seconds, only_stand_ins=False):
    """Makes folder/gpu-parts for a compute capability ("90"). Returns its path and what there is to say about it.
    only_stand_ins: as if the machine had nothing, to try that."""
    compiler = Compiler(folder, architecture, seconds, only_stand_ins)
    compiler.choose()
    kernels = sorted((ROOT / 'kernels').glob('*.cu'), key=lambda path: -path.stat().st_size)  # the longest first
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compiler.compile, [*kernels, *sources(compiler.found)]))
    program = folder / 'gpu-parts'
    compiler.link(objects, program)
    return program, {'architecture': f'sm_{architecture}', 'nvcc': str(compiler.nvcc), 'compiler': compiler.cc,
                     'real': [n for n, there in compiler.found.items() if there],
                     'stand_ins': [n for n, there in compiler.found.items() if not there] + ['MPI', 'YAML'],
                     'objects': len(objects), 'objects_kept': compiler.kept, 'messages': compiler.messages}
