#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that every source file has its licence line, a readable length, no unfinished marks and no path of one machine:
style.py [CHECKOUT]. Exit status 1 names each line that breaks a rule."""
import re
import subprocess
import sys
from pathlib import Path

LINES_MAX = 800
COLUMNS_MAX = 140  # clang-format breaks at 130 what it can break
CODE = {".c", ".h", ".cu", ".cuh", ".py", ".sh", ".sbatch"}
MARK = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|farm|root|home)/")
LICENCE = "SPDX-License-" "Identifier: MIT"


def listed(root):
    """The files of the checkout: git's, or everything outside build folders in an unpacked archive."""
    try:
        git = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=True)
        names = [Path(name) for name in git.stdout.decode().split("\0") if name]
        if names:
            return [name for name in names if (root / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        pass
    return [p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file()
            and not re.match(r"(build.*|runs|surveys|\.git)$", p.relative_to(root).parts[0])]


def is_code(name, text):
    return name.suffix in CODE or name.name == "meson.build" or text.startswith("#!")


def complaints(name, text):
    lines = text.splitlines()
    code = is_code(name, text)
    if code and not any(LICENCE in line for line in lines[:3]):
        yield 1, "the licence line is missing"
    if code and len(lines) > LINES_MAX:
        yield LINES_MAX, f"{len(lines)} lines: which two files is this?"
    for number, line in enumerate(lines, 1):
        if MARK.search(line):
            yield number, "an unfinished mark"
        if MACHINE_PATH.search(line):
            yield number, "a path of one machine"
        if code and len(line) > COLUMNS_MAX and "http" not in line and name.name != "meson.build":
            yield number, f"{len(line)} columns"
        if code and (line != line.rstrip() or "\t" in line):
            yield number, "a tab or a blank at the end"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    files = wrong = 0
    for name in listed(root):
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data
        files += 1
        for number, what in complaints(name, text):
            wrong += 1
            print(f"{name}:{number}: {what}")
    print(f"{files} files, {wrong} complaints")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
