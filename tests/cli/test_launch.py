# SPDX-License-Identifier: MIT
"""Shows that the scripts of launch/ treat ranks, signals and missing packages as they say, with a stand-in for the program."""
import os
import signal
import subprocess
import time
import unittest

from harness import ROOT, CommandLineTest

# Says what it was given, then waits; SIGUSR1 and SIGTERM are reported and end it well.
STAND_IN = """#!/bin/sh
leave() { echo "left by $1"; exit 0; }
trap 'leave USR1' USR1
trap 'leave TERM' TERM
echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE: $*"
case $2 in fail) exit 3 ;; die) kill -KILL $$ ;; wait) i=0; while [ $i -lt 150 ]; do sleep 0.1; i=$((i + 1)); done ;; esac
"""


class Mpirun(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.program = self.write("with space/astromer", STAND_IN)
        self.program.chmod(0o755)

    def start(self, *words):
        # Python starts children with SIGINT as it is here: make sure that Ctrl-C is not ignored in them.
        return subprocess.Popen([ROOT / "launch" / "mpirun", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                cwd=self.folder, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))

    def run_words(self, *words):
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def test_ranks_and_words(self):
        status, out, err = self.run_words("-n", "3", self.program, "info", "a file", "k=v")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(sorted(out.splitlines()), [f"rank {r} of 3: info a file k=v" for r in range(3)])

    def test_folders_of_the_programs_name(self):
        (self.folder / "astromer").mkdir()
        status, out, err = self.run_words("-n", "1", "--wdir", "astromer", self.program, "info")
        self.assertEqual((status, out, err), (0, "rank 0 of 1: info\n", ""))
        status, _, err = self.run_words("-n", "1", "astromer", "--version")
        self.assertNotIn("usage:", err)
        self.assertNotEqual(status, 2)

    def test_without_n_it_chooses(self):
        status, out, _ = self.run_words(self.program, "info")
        self.assertEqual(status, 0)
        self.assertIn("rank 0 of ", out)

    def test_the_exit_status_is_the_programs(self):
        status, _, err = self.run_words("-n", "2", self.program, "pretrain", "fail")
        self.assertEqual((status, err), (3, ""))

    def test_a_killed_rank_is_reported(self):
        status, _, err = self.run_words("-n", "2", self.program, "pretrain", "die")
        self.assertEqual(status, 128 + signal.SIGKILL)
        self.assertIn("memory ran out", err)

    def signalled(self, command, *signals):
        process = self.start("-n", "2", self.program, command, "wait")
        lines = [process.stdout.readline() for _ in range(2)]
        self.assertTrue(all("wait" in line for line in lines), lines)
        for number in signals:
            time.sleep(0.3)
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.splitlines(), err

    def test_a_run_is_asked_for_its_checkpoint(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            status, lines, _ = self.signalled("pretrain", number)
            self.assertEqual((status, lines), (0, ["left by USR1"] * 2), number)

    def test_another_command_is_ended(self):
        _, lines, _ = self.signalled("ingest", signal.SIGTERM)
        self.assertNotIn("left by USR1", lines)

    def test_what_mpirun_itself_has_to_say_is_shown(self):
        status, _, err = self.run_words("-n", "3", "--host", "localhost:2", self.program, "info")
        self.assertNotEqual(status, 0)
        self.assertIn("not enough slots", err)
        self.assertIn("nosuch/astromer", self.run_words("-n", "1", "nosuch/astromer", "info")[2])

    def test_wrong_words(self):
        for words, status in (((), 2), (("-n", "2"), 2), (("-n", "x", "astromer"), 2), (("-n", "0", "astromer"), 2)):
            self.assertEqual(self.run_words(*words)[0], status, words)
        self.assertEqual(self.run_words("--help")[0], 0)


class Setup(CommandLineTest):
    """setup.sh with some of its functions replaced, so that nothing is installed."""

    def source(self, script):
        process = subprocess.run(["bash", "-c", f"source '{ROOT}/launch/setup.sh'\n{script}"], capture_output=True, text=True,
                                 cwd=self.folder, timeout=60)
        return process.returncode, process.stdout, process.stderr

    def test_without_the_right_to_install_it_names_the_packages(self):
        status, _, err = self.source("""setup_is_debian() { true; }; setup_missing_packages() { printf 'libfoo-dev libbar-dev '; }
            id() { echo 1000; }; sudo() { return 1; }; apt-get() { echo 'must not run' >&2; }; setup_packages""")
        self.assertEqual(status, 1)
        self.assertIn("sudo apt-get update && sudo apt-get install libfoo-dev libbar-dev\n", err)
        self.assertNotIn("must not run", err)

    def test_an_installation_that_fails_shows_why(self):
        status, _, err = self.source("""setup_is_debian() { true; }; setup_missing_packages() { printf 'libfoo-dev '; }
            id() { echo 0; }; setup_apt() { echo "apt: no network"; return 100; }; setup_packages""")
        self.assertEqual(status, 1)
        self.assertIn("Installing: libfoo-dev", err)
        self.assertIn("apt: no network", err)

    def test_nothing_missing_installs_nothing(self):
        status, _, err = self.source("""setup_is_debian() { true; }; setup_missing_packages() { :; }
            setup_apt() { echo 'must not run' >&2; }; setup_packages""")
        self.assertEqual((status, err), (0, ""))

    def test_other_systems_are_told_and_go_on(self):
        status, _, err = self.source("setup_is_debian() { false; }; pkg-config() { false; }; setup_packages")
        self.assertEqual(status, 0)
        self.assertIn("pkg-config:yaml-0.1", err)

    def choose(self, script, **variables):
        """What a build would be, in a checkout without one; nothing of this machine decides."""
        stand_in = self.write("nvcc", "#!/bin/sh\n[ $1 != --list-gpu-code ] || printf 'sm_80\\nsm_86\\nsm_90\\n'\n")
        stand_in.chmod(0o755)
        words = " ".join(f"{name}={value};" for name, value in variables.items())
        return self.source(f"set -euo pipefail; setup_root='{self.folder}'; unset ASTROMER_CUDA; {words}\n"
                           f"setup_nvcc() {{ echo '{stand_in}'; }}\n{script}\n"
                           "setup_choose_cuda && echo \"$setup_cuda|${setup_cuda_options[*]}\"")

    def test_the_cuda_device_is_built_where_it_can_be_used(self):
        for script, words, options in (
                ("setup_nvcc() { :; }", "there is no nvcc", "-Dcuda=disabled"),
                ("setup_gpus() { :; }", "no NVIDIA GPU", "-Dcuda=disabled"),
                ("nvidia-smi() { echo 7.5; }", "no NVIDIA GPU of compute capability 8.0", "-Dcuda=disabled"),
                ("setup_gpus() { echo 86; }; setup_compiles() { false; }", "has no cuBLAS", "-Dcuda=disabled"),
                ("nvidia-smi() { printf '8.6\\n9.0\\n8.6\\n7.5\\n'; }", "with the cuda device for compute capability 86,90",
                 "-Dcuda=enabled -Dgpu_architectures=86,90"),
                ("nvidia-smi() { echo 12.0; }", "with the cuda device for all GPUs", "-Dcuda=enabled"),
                ("nvidia-smi() { [ $1 = -L ] && echo 'GPU 0: a card'; }", "with the cuda device for all GPUs", "-Dcuda=enabled")):
            status, out, err = self.choose(script)
            self.assertEqual((status, err), (0, ""), script)
            said, chosen = out.rstrip("\n").split("|")
            self.assertIn(words, said)
            self.assertEqual(chosen, options, script)

    def test_astromer_cuda_decides(self):
        gpu, none = "setup_gpus() { echo 90; }", "setup_gpus() { :; }"
        self.assertIn("|-Dcuda=disabled\n", self.choose(gpu, ASTROMER_CUDA="disabled")[1])
        self.assertIn("for all GPUs|-Dcuda=enabled\n", self.choose(none, ASTROMER_CUDA="enabled")[1])
        status, _, err = self.choose("setup_nvcc() { :; }; " + none, ASTROMER_CUDA="enabled")
        self.assertEqual(status, 1)
        self.assertIn("needs nvcc", err)
        status, _, err = self.choose(gpu, ASTROMER_CUDA="on")
        self.assertEqual(status, 1)
        self.assertIn("'on'", err)
        self.write("build/build.ninja", "")
        self.assertIn("as that folder is configured|\n", self.choose(gpu)[1])
        self.assertIn("|-Dcuda=disabled\n", self.choose(gpu, ASTROMER_CUDA="disabled")[1])

    def test_the_build_says_what_it_chose(self):
        status, _, err = self.choose("setup_gpus() { :; }; setup_configure_and_compile() { true; }; setup_build")
        self.assertEqual(status, 0)
        self.assertIn("/build, without the cuda device, for there is no NVIDIA GPU", err)

    def test_quickstart_spares_a_strangers_folder(self):
        self.write("mine/thesis.tex", "all of it")
        process = subprocess.run([ROOT / "launch" / "quickstart", "mine"], capture_output=True, text=True, cwd=self.folder, timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("was not made by this script", process.stderr)
        self.assertEqual(os.listdir(self.folder / "mine"), ["thesis.tex"])


if __name__ == "__main__":
    unittest.main()
