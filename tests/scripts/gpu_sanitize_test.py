#!/usr/bin/env python3
"""scripts/gpu-sanitize with a sanitizer and a test program that are scripts: whose reports are whose,
what does not end, what fails, which kernels were launched."""

import os
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu-sanitize"

PROGRAM = """#!/bin/sh
case $1 in
  --gtest_list_tests) printf 'Cuda.\\n  Good\\n  Other  # a remark\\nWidth/CudaRow.\\n  ByDecodeAlone/0\\n'; exit 0 ;;
  --gtest_filter=Cuda.Other) other=launched ;;
  *) other=left ;;
esac
[ "$APUD_TEST_SMALL" = 1 ] || exit 3
{ echo 'launched void apud::(anonymous namespace)::a_kernel<(apud::Type)1, float>(apud::Args)'
  echo 'left void apud::(anonymous namespace)::a_kernel<(apud::Type)2, float>(apud::Args)'
  echo "$other apud::b_kernel(float*)"; } >"$APUD_LAUNCHES"
echo '[  PASSED  ] 1 test.'
"""

SANITIZER = """#!/bin/sh
tool=$2
for program; do case $program in --gtest_filter=*) filter=$program ;; esac; done
eval "program=\\${$(($# - 1))}"
echo '========= COMPUTE-SANITIZER'
case $tool:$filter in
  racecheck:*Good)
    echo '========= Internal Sanitizer Error: Detected a failure to track a kernel launch.'
    echo '========= '
    echo '========= Error: Race reported between Write access at nvjet_hsh_128x64+0x40'
    echo '=========     and Read access at nvjet_hsh_128x64+0x90 [4 hazards]'
    echo '========= ' ;;
  %s) echo '========= Invalid __global__ read of size 4 bytes'
    echo '=========     at void apud::a_kernel<int>(int)+0x40'
    echo '========= ' ;;
  %s) stuck=yes ;;
esac
"$program" "$filter"
[ -z "$stuck" ] || sleep 30
echo '========= ERROR SUMMARY: 0 errors'
"""


class GpuSanitize(unittest.TestCase):
    def run_with(self, *arguments, ours="none", stuck="none"):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in (("program", PROGRAM), ("compute-sanitizer", SANITIZER % (ours, stuck))):
                path = Path(folder) / name
                path.write_text(text)
                path.chmod(path.stat().st_mode | stat.S_IXUSR)
            environment = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}")
            done = subprocess.run(
                [SCRIPT, f"{folder}/program", *arguments], capture_output=True, text=True, env=environment, timeout=60
            )
            return done.returncode, {line.split()[0]: line for line in done.stdout.splitlines() if line}, done.stdout

    def test_clean_but_for_cublas(self):
        code, lines, out = self.run_with()
        self.assertEqual(code, 0, out)
        self.assertIn("1 cuBLASLt's, 1 the tool's", lines["Cuda.Good"])
        self.assertEqual(lines["Cuda.Other"].count("clean"), 4)
        self.assertEqual(lines["Width/CudaRow.ByDecodeAlone/0"].count("clean"), 4)
        self.assertIn("2 of 3 kernels launched", lines["memcheck:"])
        self.assertEqual(out.count("of 2 names: left none"), 4)

    def test_a_kernel_of_ours(self):
        code, lines, out = self.run_with(ours="memcheck:*Other")
        self.assertEqual(code, 1)
        self.assertIn("1 ours", lines["Cuda.Other"])
        self.assertEqual(lines["Cuda.Other"].count("clean"), 3)
        self.assertIn("1 reports in our kernels", lines["sanitizers:"])

    def test_what_does_not_end(self):
        code, lines, out = self.run_with("--limit", "2", stuck="synccheck:*Other")
        self.assertEqual(code, 1)
        self.assertIn("not ended", lines["Cuda.Other"])
        self.assertIn("of 2 names: left b_kernel", out)

    def test_no_time_left(self):
        code, lines, out = self.run_with("--total", "0", "--tools", "memcheck,racecheck", "--filter", "Good")
        self.assertEqual(code, 1)
        self.assertEqual(lines["Cuda.Good"].count("not run"), 2)


if __name__ == "__main__":
    unittest.main()
