#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that the source checks notice what they are for, on small trees made wrong on purpose, and that a test run is counted."""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent
HEAD = "/* SPDX-License-" "Identifier: MIT */\n"


def check(script, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return subprocess.run([sys.executable, HERE / script, folder], capture_output=True, text=True)


class Layers(unittest.TestCase):
    def include(self, source, header, quotes='""'):
        return check("layers.py", {source: f"#include {quotes[0]}{header}{quotes[1]}\n"})

    def test_down_is_allowed(self):
        for source, header in (("src/model/a.c", "device/device.h"), ("src/train/a.c", "comm/comm.h"),
                               ("src/main.c", "commands/commands.h")):
            self.assertEqual(self.include(source, header).returncode, 0, (source, header))

    def test_up_is_refused(self):
        for source, header in (("src/base/a.c", "comm/comm.h"), ("src/device/cpu/a.c", "survey/windows.h"),
                               ("src/model/a.h", "comm/comm.h"), ("src/survey/a.c", "train/loop.h"),
                               ("src/model/a.c", "kernels/norm.h"), ("src/other/a.c", "base/error.h")):
            result = self.include(source, header)
            self.assertEqual(result.returncode, 1, (source, header))
            self.assertIn(f"{source}:1: ", result.stdout)

    def test_libraries_stay_where_they_belong(self):
        self.assertEqual(self.include("src/model/a.c", "mpi.h", "<>").returncode, 1)
        self.assertEqual(self.include("src/survey/a.c", "cuda_runtime.h", "<>").returncode, 1)
        self.assertEqual(self.include("src/comm/a.c", "mpi.h", "<>").returncode, 0)

    def test_an_empty_tree_is_no_success(self):
        self.assertEqual(check("layers.py", {}).returncode, 1)


class Style(unittest.TestCase):
    def test_a_clean_file(self):
        self.assertEqual(check("style.py", {"src/a.c": HEAD + "int a;\n"}).returncode, 0)

    def test_each_rule(self):
        for text, what in (("int a;\n", "licence"), (HEAD + "// TO" "DO more\n", "unfinished"),
                           (HEAD + '"/ho' 'me/me/data"\n', "path of one machine"), (HEAD + "\n" * 800, "801 lines"),
                           (HEAD + "/" * 141, "141 columns"), (HEAD + "int a; \n", "blank")):
            result = check("style.py", {"src/a.c": text})
            self.assertEqual(result.returncode, 1, what)
            self.assertIn(what, result.stdout)


class Summary(unittest.TestCase):
    def summary(self, *results):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "testlog.json")
            if results:
                path.write_text("".join(json.dumps({"name": f"t{i}", "result": result, "stdout": f"said {i}\n"}) + "\n"
                                        for i, result in enumerate(results)))
            process = subprocess.run([sys.executable, HERE.parent / "summary.py", path], capture_output=True, text=True)
        return process.returncode, process.stdout.splitlines()

    def test_counts_are_the_last_line(self):
        for results, status, line in ((("OK", "OK", "SKIP"), 0, "2 passed, 0 failed, 1 skipped"),
                                      (("OK", "FAIL", "TIMEOUT", "ERROR"), 1, "1 passed, 3 failed, 0 skipped"),
                                      (("OK", "UNEXPECTEDPASS"), 1, "1 passed, 1 failed, 0 skipped"),
                                      (("SKIP",), 1, "0 passed, 0 failed, 1 skipped"),
                                      ((), 1, "0 passed, 1 failed, 0 skipped")):
            found, lines = self.summary(*results)
            self.assertEqual((found, lines[-1]), (status, line))

    def test_reasons_and_failures_are_shown(self):
        lines = "\n".join(self.summary("SKIP", "FAIL")[1])
        self.assertIn("skipped t0: said 0", lines)
        self.assertIn("    said 1", lines)


if __name__ == "__main__":
    unittest.main()
