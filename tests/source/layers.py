#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that includes only point down the layers: layers.py [CHECKOUT]. Exit status 1 names each line that does not."""
import re
import sys
from pathlib import Path

# What each part of src may include besides itself.
BELOW = {
    "base": set(),
    "device": {"base"},
    "comm": {"base"},
    "model": {"device", "base"},
    "checkpoint": {"model", "comm", "base"},
    "survey": {"comm", "base"},
    "train": {"survey", "model", "checkpoint", "comm", "device", "base"},
    "commands": {"train", "survey", "model", "checkpoint", "comm", "device", "base"},
    "main.c": {"commands"},
}
# Libraries that only some folders may know.
LIBRARIES = {
    r"mpi\.h": ("src/comm/", "src/checkpoint/", "src/commands/", "tests/cuda/"),
    r"dnnl.*\.h": ("src/device/cpu/", "bench/", "tests/"),
    r"(cuda|cublas|nccl).*\.h": ("src/device/cuda/", "src/comm/", "kernels/", "tests/", "bench/"),
    r"hdf5.*\.h|H5.*\.h": ("src/survey/", "src/checkpoint/", "src/commands/", "tests/", "tools/"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')


def complaint(root, source, quote, header):
    """Why `source` (relative to the checkout) may not include `header`, or None."""
    name = source.as_posix()
    for pattern, folders in LIBRARIES.items():
        if re.fullmatch(pattern, header) and not name.startswith(folders):
            return f"only {', '.join(folders)} may know this library"
    if quote == "<" or source.parts[0] != "src":
        return None
    first = header.split("/")[0]
    if first == "kernels" or header.startswith("../") or (root / "kernels" / header).exists():
        return None if name.startswith("src/device/cuda/") else "only src/device/cuda calls the kernels"
    part = source.parts[1]
    if part not in BELOW:
        return f"src/{part} has no place in the list of layers"
    if first not in BELOW:
        return None if (root / source.parent / header).exists() else "write it as PART/FILE.h"
    if first != part and first not in BELOW[part]:
        return f"{part} may include only {', '.join(sorted(BELOW[part])) or 'itself'}"
    return None


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2])
    sources = [p for folder in ("src", "kernels", "tests", "bench") for p in sorted((root / folder).rglob("*.[ch]*"))
               if p.suffix in (".c", ".h", ".cu", ".cuh")]
    wrong = 0
    for path in sources:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            reason = match and complaint(root, path.relative_to(root), *match.groups())
            if reason:
                wrong += 1
                print(f"{path.relative_to(root)}:{number}: {line.strip()}: {reason}")
    print(f"{len(sources)} files, {wrong} includes against the layers")
    return 1 if wrong or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
