"""scripts/quickstart up to its first change: the plan comes first, nothing is done without consent, and an
NVIDIA card without a usable toolkit stops it. The commands it would call are stand-ins in a folder of PATH."""

import os
import pathlib
import socket
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Quickstart(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.bin = pathlib.Path(self.folder.name) / "bin"
        self.bin.mkdir()
        self.log = pathlib.Path(self.folder.name) / "calls"
        # Nothing is installed, and the machine is an ordinary user's.
        self.stand_in("dpkg-query", "exit 1")
        self.stand_in("id", "echo 1000")
        self.stand_in("apt-get", f"echo apt-get $* >> {self.log}")
        for tool in ("bash sh sed grep awk df env mkdir dirname cat tail timeout pwd").split():
            found = subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip()
            if found:
                (self.bin / tool).symlink_to(found)

    def stand_in(self, name, body):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run_it(self, *arguments, **environment):
        env = {"PATH": str(self.bin), "HOME": self.folder.name, "APUD_HUB_HOST": "127.0.0.1:1", **environment}
        return subprocess.run(["bash", str(ROOT / "scripts/quickstart"), *arguments], env=env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    def test_no_sudo_prints_the_one_line(self):
        run = self.run_it("--yes")
        self.assertEqual(run.returncode, 69, run)
        self.assertIn("apt-get update && apt-get install -y --no-install-recommends build-essential", run.stderr)
        for word in ("packages", "download", "disk", "memory", "minutes", "qwen2.5-coder:1.5b", "e5-small-q4"):
            self.assertIn(word, run.stdout, "the plan comes first")
        self.assertFalse(self.log.exists(), "nothing was run")

    def test_off_a_terminal_it_needs_consent(self):
        self.stand_in("sudo", f"echo sudo $* >> {self.log}; exit 1")
        run = self.run_it()
        self.assertEqual(run.returncode, 69, run)
        self.assertIn("--yes", run.stderr)
        self.assertFalse(self.log.exists(), "nothing was run")
        run = self.run_it("--yes")
        self.assertEqual(run.returncode, 74, run)  # the stand-in fails
        self.assertIn("apt-get update", self.log.read_text())

    def test_root_needs_consent_too(self):
        self.stand_in("id", "echo 0")
        run = self.run_it()
        self.assertEqual(run.returncode, 69, run)
        self.assertFalse(self.log.exists(), "nothing was run")

    def test_a_card_without_a_usable_toolkit(self):
        self.stand_in("nvidia-smi", "exit 0")
        self.stand_in("nvcc", "echo 'Cuda compilation tools, release 11.8, V11.8.89'")
        fix = (ROOT / "scripts/cuda-fix.txt").read_text().splitlines()
        run = self.run_it("--yes", CUDACXX=str(self.bin / "nvcc"))
        self.assertEqual(run.returncode, 69, run)
        self.assertIn("older than 12.4", run.stderr)
        for line in fix:
            self.assertIn(line, run.stderr)
        self.assertFalse(self.log.exists(), "nothing was run")
        self.stand_in("nvcc", "echo 'Cuda compilation tools, release 12.8, V12.8.61'")
        run = self.run_it("--yes", CUDACXX=str(self.bin / "nvcc"))
        self.assertIn("GPU: usable", run.stdout)
        self.assertNotIn("older", run.stderr)
        self.stand_in("nvcc", "echo 'Cuda compilation tools, release 11.8, V11.8.89'")
        run = self.run_it("--yes", "--cpu", CUDACXX=str(self.bin / "nvcc"))
        self.assertIn("there is no sudo", run.stderr, "--cpu goes on")

    def test_the_plan_says_what_the_hub_would_send(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            run = self.run_it("--yes", APUD_HUB_HOST=f"127.0.0.1:{server.getsockname()[1]}")
        self.assertIn("the largest general model that fits the memory", run.stdout)
        self.assertIn("model hub does not answer", self.run_it("--yes").stdout)

    def test_mistakes(self):
        self.assertEqual(self.run_it("--frob").returncode, 2)
        self.assertEqual(self.run_it("/no/such/folder").returncode, 66)


if __name__ == "__main__":
    unittest.main()
