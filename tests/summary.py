# SPDX-License-Identifier: MIT
"""Sums up a `meson test` run from its testlog.json and its exit status: why tests failed or were skipped, then `N passed, N failed,
N skipped`. Exit status 0 only when something ran and nothing failed."""
import json
import sys

TAIL_LINES = 40


def read_results(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [json.loads(line) for line in file if line.strip()]
    except OSError as error:
        print(f"no test results: {error}", file=sys.stderr)
        return []
    except ValueError as error:
        print(f"{path} is damaged: {error}", file=sys.stderr)
        return []


def output_of(result):
    return [line for part in ("stdout", "stderr") for line in (result.get(part) or "").splitlines() if line.strip()]


def main():
    results = read_results(sys.argv[1])
    passed = [r for r in results if r["result"] in ("OK", "EXPECTEDFAIL")]
    skipped = [r for r in results if r["result"] == "SKIP"]
    failed = [r for r in results if r not in passed and r not in skipped]
    for result in skipped:
        print(f"skipped {result['name']}: {(output_of(result) or ['no reason given'])[-1].strip()}")
    for result in failed:
        print(f"\nfailed {result['name']} ({result['result'].lower()}, status {result.get('returncode')}); the end of its output:")
        print("\n".join("    " + line for line in output_of(result)[-TAIL_LINES:]) or "    (none)")
    failures = len(failed)
    if not failures and (not results or (len(sys.argv) > 2 and sys.argv[2] != "0")):
        print("\nmeson itself failed" if results else "\nmeson ran no test")
        failures = 1
    print(f"{len(passed)} passed, {failures} failed, {len(skipped)} skipped")
    return 0 if passed and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
