#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows, on made output of ptxas, that tools/kernel-table reads what kernels need, that --check finds a spill, a stack, a kernel that
came, went or needs something else, and that kernels/compile keeps the numbers and passes on everything else."""
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "kernel-table"
# A template kernel in an anonymous namespace and a plain one, as nvcc names them.
NORM = "_ZN39_GLOBAL__N__e6a81d5c_7_norm_cu_4deaa7a38add_normIfLi4EEEvPT_i"
STEP = "_Z6finishPKfPf"


def ptxas(name, architecture, registers=40, shared=256, stack=0, spills=0, function_stack=0):
    used = f"Used {registers} registers, used 1 barriers"
    used += f", {stack} bytes cumulative stack size" if stack else ""
    used += f", {shared} bytes smem" if shared else ""
    return (f"ptxas info    : Compiling entry function '{name}' for '{architecture}'\n"
            f"ptxas info    : Function properties for {name}\n"
            f"    {stack} bytes stack frame, {spills} bytes spill stores, {spills} bytes spill loads\n"
            "ptxas info    : Function properties for __internal_trig_reduction_slowpathd\n"
            f"    {function_stack} bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
            f"ptxas info    : {used}, 400 bytes cmem[0]\nptxas info    : Compile time = 9.1 ms\n")


class KernelTable(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="astromer-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.table = self.folder / "table.txt"
        self.kernels = self.folder / "build" / "kernels"
        self.kernels.mkdir(parents=True)
        self.build()
        status, out = self.run_tool("--write")
        self.assertEqual(status, 0, out)

    def build(self, release="13.0.88", norm=None, step=None, architectures=("sm_80", "sm_90")):
        """A build of two files with a kernel each; norm, step: what ptxas says of it for the last architecture."""
        for file, name, last in (("norm", NORM, norm), ("step", STEP, step)):
            text = f"nvcc {release}\nptxas info    : 0 bytes gmem\n"
            for architecture in architectures:
                changed = last if last and architecture == architectures[-1] else {}
                text += ptxas(name, architecture, **changed)
            (self.kernels / f"{file}.resources").write_text(text)

    def run_tool(self, *words):
        done = subprocess.run([sys.executable, TOOL, *words, "--table", self.table, self.folder / "build"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertNotIn("Traceback", done.stdout)
        return done.returncode, done.stdout

    def expect_fault(self, pattern, count=1):
        status, out = self.run_tool("--check")
        self.assertEqual(status, 1, out)
        self.assertRegex(out, pattern)
        self.assertIn(f": faults {count}", out)

    def expect_none(self):
        status, out = self.run_tool("--check")
        self.assertEqual(status, 0, out)
        self.assertIn(": faults 0", out)
        return out

    def test_the_table_is_for_people(self):
        self.build(norm={"registers": 96})
        self.assertEqual(self.run_tool("--write")[0], 0)
        rows = [line.split() for line in self.table.read_text().splitlines() if line and line[0] != "#"]
        self.assertEqual(rows, [["nvcc", "13.0.88"], ["architectures", "sm_80", "sm_90"],
                                ["file", "kernel", "registers", "shared", "stack", "spills"],
                                ["norm", "add_norm<float,", "4>", "40/96", "256", "0", "0"], ["step", "finish", "40", "256", "0", "0"]])
        self.expect_none()
        self.assertEqual(self.run_tool()[1], self.table.read_text())

    def test_a_spill_is_a_fault_even_if_the_table_has_it(self):
        self.build(norm={"spills": 16, "stack": 8})
        self.expect_fault(r"norm.cu: add_norm<float, 4> for sm_90 has 8 bytes of stack and spills 16", count=3)
        self.assertEqual(self.run_tool("--write")[0], 0)
        self.expect_fault("spills 16 bytes")

    def test_a_stack_is_a_fault_also_of_a_function(self):
        self.build(step={"function_stack": 40})
        self.expect_fault(r"step.cu: finish for sm_90 has 40 bytes of stack", count=2)

    def test_what_a_kernel_needs_more_or_less_is_a_fault(self):
        self.build(norm={"registers": 44})
        self.expect_fault(r"add_norm<float, 4> for sm_90: registers 44, 40 in the table")
        self.build(step={"shared": 0})
        self.expect_fault(r"finish for sm_90: shared 0, 256 in the table")

    def test_kernels_that_came_or_went_are_faults(self):
        (self.kernels / "step.resources").unlink()
        self.expect_fault(r"step.cu: finish is in the table and not in this build")
        self.build()
        (self.kernels / "new.resources").write_text("nvcc 13.0.88\n" + ptxas("_Z3newv", "sm_80") + ptxas("_Z3newv", "sm_90"))
        self.expect_fault(r"new.cu: new is not in the table")
        (self.kernels / "new.resources").unlink()
        (self.kernels / "step.resources").write_text("nvcc 13.0.88\n" + ptxas(STEP, "sm_80"))
        self.expect_fault(r"finish is not compiled for sm_90")
        self.assertEqual(self.run_tool("--write")[0], 1)

    def test_a_build_for_one_architecture_is_compared_as_far_as_it_goes(self):
        self.build(architectures=["sm_90"])
        self.expect_none()
        self.assertEqual(self.run_tool("--write")[0], 1, "half a table was written")
        self.build(architectures=["sm_120"], norm={"registers": 99})
        self.assertIn("sm_120", self.expect_none())
        self.build(architectures=["sm_120"], norm={"spills": 4})
        self.expect_fault("spills 4 bytes")

    def test_another_nvcc_may_have_other_numbers_but_no_spills(self):
        self.build(release="13.1.1", norm={"registers": 44})
        self.assertIn("registers 44, 40 in the table", self.expect_none())
        self.build(release="13.1.1", norm={"spills": 4})
        self.expect_fault("spills 4 bytes")

    def test_a_build_without_kernels_is_told_apart(self):
        for file in self.kernels.iterdir():
            file.unlink()
        status, out = self.run_tool("--check")
        self.assertEqual(status, 77)
        self.assertIn("no kernels", out)

    def test_what_it_cannot_read(self):
        (self.kernels / "norm.resources").write_text(ptxas(NORM, "sm_80").replace("registers", "regs"))
        self.assertEqual(self.run_tool("--check")[0], 1)
        self.build()
        self.table.write_text(self.table.read_text().replace("  40 ", "  forty ", 1))
        status, out = self.run_tool("--check")
        self.assertEqual(status, 1)
        self.assertRegex(out, r"table\.txt:\d+: not a row")

    def compile_with(self, script):
        """kernels/compile with a stand-in for nvcc; its status, its standard error, and the numbers that it kept."""
        nvcc, kept = self.folder / "nvcc", self.folder / "kept"
        nvcc.write_text("#!/bin/sh\nif [ $1 = --version ]; then echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit; fi\n" + script)
        nvcc.chmod(0o755)
        done = subprocess.run([ROOT / "kernels" / "compile", kept, nvcc, "-c", "x.cu"], stderr=subprocess.PIPE, text=True)
        return done.returncode, done.stderr, kept.read_text() if kept.exists() else None

    def test_compile_keeps_the_numbers_and_passes_on_the_rest(self):
        says = ptxas(STEP, "sm_80").replace("'", "'\\''")
        status, error, kept = self.compile_with(f"printf '%s' '{says}x.cu: a warning\n' >&2; echo \"$*\" > {self.folder}/words\n")
        self.assertEqual((status, error), (0, "x.cu: a warning\n"))
        self.assertEqual(kept, "nvcc 13.0.88\n" + ptxas(STEP, "sm_80"))
        self.assertEqual((self.folder / "words").read_text(), "-c x.cu -Xptxas -v\n")
        os.unlink(self.folder / "kept")
        self.assertEqual(self.compile_with("echo 'x.cu: an error' >&2; exit 2\n"), (2, "x.cu: an error\n", None))

    def test_the_committed_table_is_for_the_architectures_of_a_build(self):
        self.table = ROOT / "kernels" / "resources.txt"
        options = (ROOT / "meson_options.txt").read_text()
        wanted = ["sm_" + a for a in re.findall(r"'(\d+)'", re.search(r"gpu_architectures.*value: \[(.*?)\]", options)[1])]
        lines = self.table.read_text().splitlines()
        self.assertEqual([line for line in lines if line.startswith("architectures")], ["architectures " + " ".join(wanted)])
        for line in lines:
            if re.match(r"\w+  +\S.*\d$", line) and not line.startswith("#"):
                self.assertEqual(line.split()[-2:], ["0", "0"], f"no stack and no spills are wanted: {line}")


if __name__ == "__main__":
    unittest.main()
