"""scripts/make-random-model: the same bytes every time, and the sizes that the types prescribe."""

import hashlib
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make-random-model"
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"


class RandomModel(unittest.TestCase):
    def make(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            subprocess.run(
                [sys.executable, SCRIPT, path, *arguments], check=True, capture_output=True
            )
            return path.read_bytes()

    def test_same_arguments_same_bytes(self):
        self.assertEqual(self.make("--shape", "tiny-gemma3"), self.make("--shape", "tiny-gemma3"))
        self.assertNotEqual(
            self.make("--shape", "tiny-qwen2"), self.make("--shape", "tiny-qwen2", "--seed", "2")
        )

    def test_the_files_of_the_golden_data(self):
        """tests/data/golden/logits-tiny-* were computed from exactly these bytes."""
        pins = sorted(GOLDEN.glob("logits-tiny-*.sha256"))
        self.assertGreaterEqual(len(pins), 8)
        for pin in pins:
            digest, name = pin.read_text().split()
            data = self.make("--shape", name.removesuffix(".gguf"))
            self.assertEqual(hashlib.sha256(data).hexdigest(), digest, name)

    def test_every_shape_and_type_writes_a_gguf(self):
        listed = subprocess.run(
            [sys.executable, SCRIPT, "--list"], check=True, capture_output=True, text=True
        ).stdout
        shapes, types = (line.split()[1:] for line in listed.splitlines())
        tiny = [shape for shape in shapes if shape.startswith("tiny")]
        self.assertGreaterEqual(len(tiny), 8)
        self.assertGreaterEqual(len(types), 15)
        for shape, kind in [(s, "q4_k_m") for s in tiny] + [("tiny-llama", t) for t in types]:
            data = self.make("--shape", shape, "--type", kind)
            self.assertEqual(struct.unpack_from("<4sI", data), (b"GGUF", 3), (shape, kind))

    def test_weights_of_a_block_type_repeat_nowhere(self):
        data = self.make("--shape", "tiny-llama", "--type", "q8_0", "--layers", "1")
        blocks = [data[at : at + 34] for at in range(len(data) - 34 * 8000, len(data), 34)]
        self.assertEqual(len(set(blocks)), len(blocks))


if __name__ == "__main__":
    unittest.main()
