#!/usr/bin/env python3
"""The model hub's branch of scripts/quickstart and `apud model pull`: usage: hub_test.py APUD SAMPLES [TEST...]

A server of this test plays the hub over TLS: models' real files under the hub's paths, the hub's own headers (size and
SHA-256 before the bytes), a token check, a redirect to another host for the bytes, ranges. Its certificate is trusted
through SSL_CERT_FILE; nothing in the program is told apart from the real hub. What quickstart builds is the APUD given.
Standard library and openssl only. Exit 77: skipped, with the reason on the last line.
"""
import contextlib
import hashlib
import http.server
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from named_tests import check, run_tests  # noqa: E402

APUD, SAMPLES = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOME_MODELS = os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share"), "apud/models")
MODELS = os.environ.get("APUD_MODELS") or HOME_MODELS
CHAT, SMALL = os.path.join(MODELS, "qwen2.5-coder-0.5b.gguf"), os.path.join(MODELS, "smollm2-135m.gguf")
EMBED, MINILM = os.path.join(MODELS, "e5-small-q4"), os.path.join(MODELS, "minilm-l6")
TOKEN = "hf_of_this_test"
CODER = "/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def sha256_of(path, known={}):
    if path not in known:
        with open(path, "rb") as file:
            known[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return known[path]


class Hub:
    """Two hosts with one certificate: 127.0.0.1 is the hub, localhost is where it keeps the bytes."""

    def __init__(self, folder, file_of, token=TOKEN):
        self.file_of, self.token = file_of, token
        self.cut_after = None  # bytes after which the next connection breaks
        self.change = lambda path, data, start: data
        self.stated_hash = sha256_of
        self.hub_log, self.bytes_log = [], []  # (method, path, Authorization or None, Range or None)
        self.certificate = os.path.join(folder, "certificate.pem")
        key = os.path.join(folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                        "/CN=hub of a test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out",
                        self.certificate], check=True, stderr=subprocess.DEVNULL)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.servers = []
        for answer in (self.answer_as_hub, self.send_bytes):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler(answer))
            # The handshake belongs to the connection's thread: one that never comes must not hold the others up.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            server.daemon_threads = True
            server.handle_error = lambda *_: None  # clients that refuse the certificate, or leave
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.servers.append(server)
        self.host = f"127.0.0.1:{self.servers[0].server_port}"

    @staticmethod
    def handler(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        return Handler

    @staticmethod
    def entry(request):
        return (request.command, request.path, request.headers.get("Authorization"), request.headers.get("Range"))

    @staticmethod
    def reply(request, status, headers=()):
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def answer_as_hub(self, request):
        if request.path == "/":
            return self.reply(request, 200)
        self.hub_log.append(self.entry(request))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.reply(request, 401)
        path = self.file_of(request.path)
        if path is None:
            return self.reply(request, 404)
        headers = [("Location", f"https://localhost:{self.servers[1].server_port}{request.path}"), ("X-Linked-Size", os.path.getsize(path))]
        # As the hub does: only what it keeps beside its git has a SHA-256 there.
        etag = self.stated_hash(path) if os.path.getsize(path) >= 10_000_000 else "a1b2c3"
        self.reply(request, 302, headers + [("X-Linked-ETag", f'"{etag}"')])

    def send_bytes(self, request):
        self.bytes_log.append(self.entry(request))
        path = self.file_of(request.path)
        size, start = os.path.getsize(path), 0
        asked = re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("Range") or "")
        if asked:
            start = int(asked.group(1))
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(size - start))
        request.end_headers()
        left, self.cut_after = (self.cut_after if self.cut_after is not None else size - start), None
        with open(path, "rb") as file:
            file.seek(start)
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                request.wfile.write(self.change(path, block, file.tell() - len(block)))
                left -= len(block)
        request.close_connection = True

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Case:
    """A home with the embedder and no chat model, and a checkout whose build is the APUD given."""

    def __init__(self, folder):
        self.folder = folder
        self.models = os.path.join(folder, "models")
        os.makedirs(self.models)
        os.symlink(EMBED, os.path.join(self.models, "e5-small-q4"))
        self.checkout = os.path.join(folder, "checkout")
        os.makedirs(self.checkout)
        for name in ("scripts", "models"):
            os.symlink(os.path.join(ROOT, name), os.path.join(self.checkout, name))
        tools = os.path.join(folder, "bin")
        os.makedirs(tools)
        self.stand_in(tools, "dpkg-query", "echo installed")
        self.stand_in(tools, "nvidia-smi", "exit 1")
        self.stand_in(tools, "cmake", "exit 0")
        self.stand_in(tools, "ninja", f'mkdir -p "$2" && ln -sf {APUD} "$2/apud"')
        # No package registry behind the hub.
        self.env = {"HOME": folder, "PATH": tools + ":" + os.environ["PATH"], "APUD_MODELS": self.models, "LC_ALL": "C.UTF-8", "TERM": "dumb",
                    "PIP_INDEX_URL": "https://127.0.0.1:1/", "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0", "PIP_NO_INPUT": "1"}

    @staticmethod
    def stand_in(folder, name, body):
        path = os.path.join(folder, name)
        with open(path, "w") as out:
            out.write(f"#!/bin/sh\n{body}\n")
        os.chmod(path, 0o755)

    def trust(self, hub, token=TOKEN):
        self.env.update({"APUD_HUB_HOST": hub.host, "SSL_CERT_FILE": hub.certificate})
        if token:
            self.env["HF_TOKEN"] = token

    def run(self, command):
        return subprocess.run(command, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)

    def quickstart(self, *arguments):
        return self.run(["bash", os.path.join(self.checkout, "scripts/quickstart"), "--yes", "--cpu", *arguments])

    def pull(self, *ids):
        return self.run([APUD, "model", "pull", *ids])

    def kept(self):
        """Files below the models folder, but for the embedder's and locks."""
        found = []
        for place, _, names in os.walk(self.models):
            found += [os.path.relpath(os.path.join(place, name), self.models) for name in names if not name.endswith(".lock")]
        return found


@contextlib.contextmanager
def stage(file_of, token=TOKEN):
    folder = tempfile.mkdtemp(prefix="apud-hub-")
    hub = Hub(folder, file_of, token)
    try:
        yield hub, Case(folder)
    finally:
        hub.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_quickstart_answers_with_a_model_from_the_hub():
    with stage(lambda path: CHAT if path == CODER else None) as (hub, case):
        case.trust(hub)
        question = "How long may a borrowed telescope be kept?"
        arguments = ("--model", "qwen2.5-coder:0.5b", os.path.join(SAMPLES, "english"), question)
        hub.cut_after = 150_000_000
        broken = case.quickstart(*arguments)
        check(broken.returncode == 74, f"the connection breaks: {broken}")
        check("run it again to go on" in broken.stderr, f"{broken}")
        run = case.quickstart(*arguments)
        check(run.returncode == 0, f"{run}")
        check("qwen2.5-coder:0.5b, as asked" in run.stdout, f"the plan: {run.stdout}")
        check(re.search(r"^\[1\] .*english/\S+:[0-9]", run.stdout, re.M), f"a cited answer: {run.stdout}")
        check(os.path.getsize(os.path.join(case.models, "qwen2.5-coder-0.5b.gguf")) == os.path.getsize(CHAT), "the model has its name")
        # The hub was asked what it holds and for the bytes, always with the token; the other host never saw it.
        check(hub.hub_log and all(path == CODER and token == f"Bearer {TOKEN}" for _, path, token, _ in hub.hub_log), f"{hub.hub_log}")
        check(["HEAD", "GET"] * 2 == [method for method, *_ in hub.hub_log], f"{hub.hub_log}")
        check([token for _, _, token, _ in hub.bytes_log] == [None, None], f"the token left the hub: {hub.bytes_log}")
        begins = [int(asked[6:-1]) if asked else 0 for *_, asked in hub.bytes_log]
        check(begins[0] == 0 and 100_000_000 < begins[1] <= 150_000_000, f"the second run went on where the first broke: {begins}")
        # A second run does nothing twice: nothing is fetched, every document is known.
        before = len(hub.hub_log), len(hub.bytes_log)
        again = case.quickstart(*arguments)
        check(again.returncode == 0 and "already here: qwen2.5-coder:0.5b" in again.stderr + again.stdout, f"{again}")
        check("3 unchanged" in again.stdout + again.stderr, f"{again}")
        check(before == (len(hub.hub_log), len(hub.bytes_log)), f"{hub.hub_log}")


def test_default_is_the_largest_that_fits_and_is_what_it_says():
    # The hub sends another model under the wanted name: an entry that nobody has hashed has no SHA-256 to notice it by.
    with stage(lambda path: SMALL) as (hub, case):
        case.trust(hub)
        run = case.quickstart(os.path.join(SAMPLES, "english"))
        check("the largest general model that fits the memory" in run.stdout, f"the plan: {run.stdout}")
        check(re.search(r"chosen: \S+ \(.*\): the largest that fits", run.stderr), f"the choice says why: {run}")
        check("not reached" not in run.stderr, f"{run}")
        check(run.returncode == 65 and re.search(r"is a llama model of 0\.13 billion parameters where the catalogue says", run.stderr), f"{run}")
        check(case.kept() == [], f"nothing of it is kept: {case.kept()}")
        check(hub.hub_log[0][1].endswith(".gguf") and "oder" not in hub.hub_log[0][1], f"a general model was asked for: {hub.hub_log}")
        # The same file under the entry whose shape it has is taken, and how it was checked is said.
        run = case.pull("smollm2:135m-q4_k_m")
        check(run.returncode == 0 and "the catalogue pins no SHA-256" in run.stderr, f"{run}")
        check("verified" not in run.stderr, f"{run}")


def test_a_pinned_checksum_keeps_another_build_out():
    def minilm(path):
        found = re.fullmatch("/sentence-transformers/all-MiniLM-L6-v2/resolve/main/(.*)", path)
        return found and os.path.join(MINILM, found.group(1))

    with stage(minilm) as (hub, case):
        case.trust(hub)
        # The hub says itself that it holds other bytes: none of them is fetched.
        hub.stated_hash = lambda path: "0" * 64
        run = case.pull("minilm:l6")
        check(run.returncode != 0 and "the hub holds another build of it" in run.stderr, f"{run}")
        check(hub.bytes_log == [] and case.kept() == [], f"{hub.bytes_log} {case.kept()}")
        # The hub states the pinned hash and other bytes come.
        hub.stated_hash = sha256_of
        hub.change = lambda path, data, start: b"x" + data[1:] if path.endswith("model.safetensors") and start == 0 else data
        run = case.pull("minilm:l6")
        check(run.returncode != 0 and re.search(r"SHA-256 \w{64} where 53aa51172d142c89\w+ was stated", run.stderr), f"{run}")
        check(not any(name.endswith("model.safetensors") for name in case.kept()), f"{case.kept()}")
        check(not os.path.exists(os.path.join(case.models, "minilm-l6")), "it got its name")
        # A file too small for the hub to hash it is held by the catalogue alone.
        hub.change = lambda path, data, start: data.replace(b"384", b"385") if path.endswith("/config.json") else data
        run = case.pull("minilm:l6")
        check(run.returncode != 0 and re.search(r"config\.json: SHA-256 \w{64} where", run.stderr), f"{run}")
        hub.change = lambda path, data, start: data
        run = case.pull("minilm:l6")
        check(run.returncode == 0 and "verified" in run.stderr, f"{run}")


def test_a_hub_that_nobody_vouches_for_is_not_spoken_to():
    with stage(lambda path: SMALL) as (hub, case):
        case.trust(hub)
        del case.env["SSL_CERT_FILE"]
        run = case.pull("smollm2:135m-q4_k_m")
        check(run.returncode == 69 and "SSL_CERT_FILE" in run.stderr, f"{run}")
        check(hub.hub_log == [], f"it was told something: {hub.hub_log}")


def test_without_its_token_the_hub_refuses():
    with stage(lambda path: SMALL) as (hub, case):
        case.trust(hub, token=None)
        run = case.pull("smollm2:135m-q4_k_m")
        check(run.returncode == 69 and "HF_TOKEN" in run.stderr and "401" in run.stderr, f"{run}")
        check(hub.bytes_log == [] and case.kept() == [], f"{hub.bytes_log}")


def test_weights_without_any_hash_are_refused():
    with stage(lambda path: SMALL) as (hub, case):
        case.trust(hub)
        hub.stated_hash = lambda path: "W/none"
        run = case.pull("smollm2:135m-q4_k_m")
        check(run.returncode == 69 and "neither the catalogue nor the hub knows its SHA-256" in run.stderr, f"{run}")
        check(hub.bytes_log == [], f"{hub.bytes_log}")


def main():
    for needed in (CHAT, SMALL, EMBED, MINILM):
        if not os.path.exists(needed):
            print(f"skipped: model not fetched: {needed} (run scripts/fetch-models test)")
            return 77
    if not shutil.which("openssl"):
        print("skipped: no openssl to make a certificate with")
        return 77
    return run_tests(globals(), sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
