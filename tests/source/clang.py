#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that every C file compiles without a warning with clang too: clang.py BUILD_FOLDER. Skipped (77) without clang or
its OpenMP headers."""
import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DROP_WITH_VALUE = {"-o", "-MF", "-MQ", "-MT"}
DROP = {"-c", "-MD", "-MMD"}


def clang_command(clang, entry):
    """The compile command of the build, for clang and without output."""
    words = iter(shlex.split(entry["command"])[1:])
    kept = [clang, "-fsyntax-only"]
    for word in words:
        if word in DROP_WITH_VALUE:
            next(words)
        elif word not in DROP and not word.startswith("-fdiagnostics"):
            kept.append(word)
    return kept


def main():
    build = Path(sys.argv[1])
    clang = shutil.which("clang-14") or shutil.which("clang")
    if not clang:
        print("there is no clang")
        return 77
    probe = subprocess.run([clang, "-fopenmp", "-fsyntax-only", "-x", "c", "-"], input=b"#include <omp.h>\n", capture_output=True)
    if probe.returncode:
        print("clang finds no omp.h: install libomp-dev")
        return 77
    entries = [e for e in json.loads((build / "compile_commands.json").read_text()) if e["file"].endswith(".c")]

    def compile_one(entry):
        return subprocess.run(clang_command(clang, entry), cwd=entry["directory"], capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(compile_one, entries))
    failed = [(e, r) for e, r in zip(entries, results) if r.returncode or r.stderr.strip()]
    for entry, result in failed:
        print(f"{entry['file']}:\n{result.stderr}")
    print(f"{len(entries)} files, {len(failed)} with complaints")
    return 1 if failed or not entries else 0


if __name__ == "__main__":
    sys.exit(main())
