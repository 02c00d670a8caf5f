# SPDX-License-Identifier: MIT
"""Shows that a user who knows nothing finds the way: help on every path, and errors of the command line that say what is right."""
import os
import re
import subprocess

from harness import CommandLineTest, main


class Help(CommandLineTest):
    def commands(self):
        overview = self.expect(0, "help").out
        return re.findall(r"^  ([a-z]+) ", overview, re.MULTILINE)

    def test_no_command_shows_the_overview_and_fails(self):
        result = self.run_program()
        self.assertEqual(result.status, 2)
        self.assertEqual(result.out, "")
        self.assertIn("usage: astromer COMMAND", result.err)

    def test_help_goes_to_standard_output(self):
        for word in ("help", "--help", "-h"):
            result = self.expect(0, word)
            self.assertIn("usage: astromer COMMAND", result.out)
            self.assertEqual(result.err, "")

    def test_every_command_explains_itself(self):
        commands = self.commands()
        self.assertIn("help", commands)
        for command in commands:
            if command == "help":
                continue
            by_help = self.expect(0, "help", command)
            self.assertTrue(by_help.out.startswith(f"usage: astromer {command} "), by_help)
            self.assertEqual(self.expect(0, command, "--help").out, by_help.out)
            self.assertEqual(self.expect(0, command, "--nonsense", "-h").out, by_help.out)

    def test_help_config_lists_the_keys(self):
        out = self.expect(0, "help", "config").out
        for key in ("run.dir", "data.survey", "model.blocks", "masking.probed", "train.learning_rate", "checkpoint.keep", "device"):
            self.assertIn(key, out)

    def test_version(self):
        self.assertRegex(self.expect(0, "--version").out, r"^astromer \d+\.\d+\.\d+\n$")

    def test_help_needs_no_mpi(self):
        broken = {"OMPI_MCA_pml": "nothing-of-that-name", "OMPI_MCA_btl": "nothing-of-that-name"}
        for words in (("help",), ("--version",), ("help", "config")):
            self.expect(0, *words, **broken)

    def test_unknown_command_names_the_nearest(self):
        message = self.expect(2, "halp").message
        self.assertIn("'halp'", message)
        self.assertIn("did you mean help?", message)
        self.assertIn("'zzzzzzzzzzzz'", self.expect(2, "zzzzzzzzzzzz").message)
        self.assertIn("did you mean help?", self.expect(2, "help", "hepl").message)

    def test_one_rank_speaks_for_all(self):
        self.assertIn("'halp'", self.expect(2, "halp", ranks=3).message)

    def test_a_full_disk_is_a_failure(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full")
        with open("/dev/full", "w", encoding="utf-8") as full:
            self.assertIn("No space left", self.expect(1, "help", stdout=full).message)

    def test_help_takes_one_word(self):
        self.assertIn("'b'", self.expect(2, "help", "a", "b").message)


class Options(CommandLineTest):
    """The rules that hold for every command, shown on those that have options."""

    def test_wrong_options_are_named(self):
        for command in re.findall(r"^  ([a-z]+) ", self.expect(0, "help").out, re.MULTILINE):
            if command == "help":
                continue
            message = self.expect(2, command, "--nonsense-option").message
            self.assertIn("--nonsense-option", message)
            self.assertIn(command, message)


if __name__ == "__main__":
    main()
