#!/usr/bin/env python3
"""apud on a pseudo-terminal: usage: tty_test.py APUD SAMPLES [TEST...]

Prompt, streaming, commands, paste, signals, terminal modes, and that nothing untrusted reaches the
screen raw. Standard library only. Exit 77: skipped, with the reason on the last line.
"""
import fcntl
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from chain_model import write_chain_model  # noqa: E402
from named_tests import check, run_tests  # noqa: E402

APUD, SAMPLES = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
HOME_MODELS = os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share"), "apud/models")
MODELS = os.environ.get("APUD_MODELS") or HOME_MODELS
DEFAULT = os.path.join(MODELS, "qwen2.5-coder-1.5b.gguf")
CHAT, EMBED = os.path.join(MODELS, "qwen2.5-coder-0.5b.gguf"), os.path.join(MODELS, "e5-small-q4")

# What apud itself may send to a terminal: dim on/off, clear line, bracketed paste on/off, and what
# the line editor uses to move within its line.
OWN = re.compile(rb"\x1b\[2m|\x1b\[0m|\x1b\[m|\x1b\[K|\x1b\[J|\x1b\[\?2004[hl]|\x1b\[[0-9]*[ABCDGP@]|\x1b\[[0-9]*X|\x1b\[[0-9]*d|\x1b\[H|\x1b\[[0-9;]*m"
                 rb"|\x1b\[\?1[hl]|\x1b[=>]|\x1b\(B")
ACTS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")

HOSTILE = ("# Hostile page\n\nThe marmot of Zell sleeps \x1b]52;c;cm0gLXJmIC8=\x07 in the \x1b[2J\x1b[H blue barn \x9b6n, "
           "says \u202ethe keeper\u202c and \u2066the guard\u2069 \U000e0041\U000e0042 \x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\ \x1bP1$r\x1b\\ every winter.\n")


class Tty:
    """A process on a pseudo-terminal of 24 x 80."""

    def __init__(self, home, args, env=None, columns=80):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        environment = {"HOME": home.path, "PATH": os.environ["PATH"], "APUD_MODELS": MODELS, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        environment.update(env or {})
        self.started = time.monotonic()
        self.process = subprocess.Popen([APUD] + args, stdin=self.slave, stdout=self.slave, stderr=self.slave, cwd=home.path,
                                        env=environment, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.seen = b""

    def pump(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                return False
        return True

    def wait_for(self, pattern, seconds=60, start=0):
        """Waits until the regular expression appears after byte `start`; returns the match."""
        expression = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        end = time.monotonic() + seconds
        while True:
            found = expression.search(self.seen, start)
            if found:
                return found
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {pattern!r} within {seconds} s; seen: {self.seen[start:][-2000:]!r}")
            self.pump(min(left, 0.05))

    def send(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def prompt(self, seconds=60):
        """Waits for the next input prompt; returns what was shown before it."""
        start = getattr(self, "mark", 0)
        found = self.wait_for(rb"\x1b\[\?2004h(.*?)> ", seconds, start)
        text = self.seen[start:found.start()]
        self.mark = found.end()
        return text

    def ask(self, text, seconds=90):
        """Types a line; returns what is shown until the next prompt."""
        self.send(text + "\r")
        return plain(self.prompt(seconds))

    def finish(self, seconds=10):
        """Exit code (128 + signal as a shell shows it)."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self.pump(0.05)
        while select.select([self.master], [], [], 0)[0] and self.pump(0):
            pass
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {seconds} s; seen: {self.seen[-2000:]!r}")
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def modes(self):
        return termios.tcgetattr(self.slave)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def plain(screen):
    return OWN.sub(b"", screen).decode("utf-8", "replace").replace("\r", "")


def check_screen(screen):
    """Nothing but our own sequences acts on the terminal."""
    rest = OWN.sub(b"", screen)
    text = rest.decode("utf-8", "strict").replace("\r", "").replace("\n", "").replace("\t", "").replace("\x08", "").replace("\x07", "")
    bad = ACTS.search(text)
    check(not bad, f"raw {bad and bad.group()!r} on the screen: {screen[-1500:]!r}")
    check(b"\x1b]" not in screen and b"\x1bP" not in screen, f"OSC or DCS on the screen: {screen[-1500:]!r}")


class Home:
    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="apud-tty-")
        os.makedirs(os.path.join(self.path, ".config/apud"))
        with open(os.path.join(self.path, ".config/apud/config.toml"), "w") as out:
            out.write(f"model = '{CHAT}'\nanswer = 80\nevidence = 500\n")

    def run(self, *args, code=0, stdin=b""):
        environment = {"HOME": self.path, "PATH": os.environ["PATH"], "APUD_MODELS": MODELS, "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        done = subprocess.run([APUD, *args], cwd=self.path, env=environment, input=stdin, capture_output=True)
        check(code is None or done.returncode == code, f"apud {args}: exit {done.returncode}: {done.stderr.decode('utf-8', 'replace')}")
        return done


LIBRARY = None


def library():
    """A home with the samples and a hostile file; made once."""
    global LIBRARY
    if not LIBRARY:
        LIBRARY = Home()
        shutil.copytree(SAMPLES, os.path.join(LIBRARY.path, "samples"))
        with open(os.path.join(LIBRARY.path, "samples", "hostile.md"), "w", encoding="utf-8", newline="") as out:
            out.write(HOSTILE)
        LIBRARY.run("ingest", "samples")
    return LIBRARY


# --- tests -----------------------------------------------------------------------------------------

def test_prompt_streaming_and_leaving():
    home = library()
    with Tty(home, ["chat", "--no-docs", "-t", "0"]) as tty:
        hello = plain(tty.prompt(20))
        check("/help" in hello, f"the greeting names /help: {hello!r}")
        tty.send("Write a long story about a lighthouse keeper.\r")
        tty.wait_for(r"\x1b\[\?2004l", 10, tty.mark)
        tty.wait_for(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}", 60, tty.seen.rfind(b"tokens", tty.mark))
        check(b"tok/s" not in tty.seen[tty.mark:], "the answer streams: its first words come before its end")
        answer = tty.prompt()
        check(b"\x1b[2m" in answer and "tok/s" in plain(answer), f"a dim receipt: {answer[-200:]!r}")
        receipts = [line for line in plain(answer).split("\n") if "tok/s" in line]
        check(len(receipts) == 1 and len(receipts[0]) <= 80, f"one receipt line of at most 80 columns: {receipts!r}")
        check_screen(tty.seen)
        tty.send("\x04")
        check(tty.finish() == 0, "Ctrl-D leaves with 0")
        check(tty.modes() == tty.before, "terminal modes are as before")


def test_commands():
    home = library()
    with Tty(home, ["chat", "-t", "0", "-m", DEFAULT, "--evidence", "300"]) as tty:
        check("documents: default, 7 files" in plain(tty.prompt(30)), f"documents are said once: {tty.seen!r}")
        listed = tty.ask("/help")
        commands = re.findall(r"^  /(\w+)", listed, re.M)
        for name in "help undo regen edit fork sources stats docs nodocs system save export exit".split():
            check(name in commands, f"/{name} is in /help: {listed}")
        check("no answer yet" in tty.ask("/stats"), "stats before an answer")
        check("cites nothing" in tty.ask("/sources"), "sources before an answer")
        check("nothing to take back" in tty.ask("/undo"), "undo before an answer")
        check("no command /frobnicate" in tty.ask("/frobnicate"), "an unknown command")
        answer = tty.ask("How long may a borrowed telescope be kept?")
        check("three weeks" in answer.lower() or "3 weeks" in answer, answer)
        check("[1] " in answer and "lending-rules.md:" in answer, answer)
        check("[1] samples/english/lending-rules.md:" in tty.ask("/sources"), "sources after an answer, as in its legend")
        shown = tty.ask("/evidence")
        check(re.search(r"samples/english/lending-rules\.md:[0-9]+ · turn 1 · [0-9]+ tokens", shown), f"evidence: {shown}")
        stats = tty.ask("/stats")
        check("prompt" in stats and "reused" in stats, stats)
        check("tok/s" in tty.ask("/regen"), "regen answers")
        edited = tty.ask("/edit What does a late return cost?")
        check("4" in edited, edited)
        check("default" in tty.ask("/docs"), "docs lists")
        check("error" in tty.ask("/docs nowhere"), "an unknown collection")
        check("none" in tty.ask("/nodocs"), "nodocs")
        check("* default" not in tty.ask("/docs"), "none is in use")
        check("documents: default" in tty.ask("/docs default"), "docs chooses")
        check("* default" in tty.ask("/docs"), "the chosen one is in use")
        check("passages" in tty.ask("/system").lower(), "the system prompt is shown")
        check("changed" in tty.ask("/system Answer in one word."), "the system prompt is changed")
        check("saved as first" in tty.ask("/save first"), "save")
        check("now in second" in tty.ask("/fork second"), "fork")
        check("written" in tty.ask("/export out.json"), "export")
        with open(os.path.join(home.path, "out.json"), encoding="utf-8") as exported:
            check("late return" in json.dumps(json.load(exported)), "the export holds the chat")
        check("written" in tty.ask("/export out.md"), "export")
        check("taken back" in tty.ask("/undo"), "undo")
        tty.send("/exit\r")
        check(tty.finish() == 0, "/exit leaves with 0")
        check_screen(tty.seen)
    sessions = home.run("session", "list").stdout.decode()
    check("first" in sessions and "second" in sessions, sessions)


def test_paste_is_one_input():
    home = library()
    with Tty(home, ["chat", "--no-docs", "-t", "0", "-s", "pasted", "--max-tokens", "8"]) as tty:
        tty.prompt(20)
        tty.send("\x1b[200~first line\rsecond \x1b[2J line\nthird line\x1b[201~")
        time.sleep(0.5)
        tty.pump(0.1)
        check(b"tok/s" not in tty.seen[tty.mark:], "a paste waits for Enter")
        tty.send("\r")
        tty.prompt()
        check_screen(tty.seen)
        tty.send("\x04")
        tty.finish()
    session = json.loads(home.run("session", "export", "pasted", "--format", "json").stdout)
    turns = session.get("turns") or session["conversation"]["turns"]
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    check(len(asked) == 1, f"one input: {asked!r}")
    check(asked[0].startswith("first line\nsecond ") and asked[0].endswith("\nthird line") and "\x1b" not in asked[0], f"{asked!r}")


def test_lines_that_go_on():
    home = library()
    with Tty(home, ["chat", "--no-docs", "-t", "0", "-s", "lines", "--max-tokens", "4"]) as tty:
        tty.prompt(20)
        tty.send("one \\\r")
        tty.wait_for(r"\.\.\. ", 5, tty.mark)
        tty.send("two\r")
        tty.prompt()
        tty.send('"""\r')
        tty.wait_for(r"\.\.\. ", 5, tty.mark)
        tty.send('alpha\r')
        tty.send('beta"""\r')
        tty.prompt()
        tty.send("\x04")
        tty.finish()
    session = json.loads(home.run("session", "export", "lines", "--format", "json").stdout)
    turns = session.get("turns") or session["conversation"]["turns"]
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    check(asked == ["one \ntwo", "alpha\nbeta"], f"{asked!r}")


def test_chinese_input_and_history():
    home = library()
    history = os.path.join(home.path, ".local/state/apud/history")
    if os.path.exists(history):
        os.unlink(history)
    with Tty(home, ["chat", "--no-docs", "-t", "0", "-s", "汉语", "--max-tokens", "8"]) as tty:
        tty.prompt(20)
        tty.ask("你好世界")
        tty.send("\x1b[A")
        tty.wait_for("你好世界", 5, tty.mark)
        tty.send("\r")
        tty.prompt()
        tty.send("\x04")
        tty.finish()
        check_screen(tty.seen)
    session = json.loads(home.run("session", "export", "汉语", "--format", "json").stdout)
    turns = session.get("turns") or session["conversation"]["turns"]
    check([t["content"] for t in turns if t["role"] == "user"] == ["你好世界", "你好世界"], "history repeats the line")
    check(os.path.getsize(history) > 0, "it lies in the state directory")


def test_interrupt_stops_an_answer_and_keeps_the_session():
    home = library()
    with Tty(home, ["chat", "--no-docs", "-t", "0", "-s", "interrupted", "--max-tokens", "600"]) as tty:
        tty.prompt(20)
        tty.send("Write a very long story about a lighthouse keeper.\r")
        tty.wait_for(r"\x1b\[\?2004l", 10, tty.mark)
        reading = tty.wait_for(r"reading [0-9]+ tokens", 30, tty.mark)
        tty.wait_for(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}", 60, reading.end())
        sent = time.monotonic()
        tty.send("\x03")
        shown = plain(tty.prompt(5))
        check(time.monotonic() - sent < 2, "the answer stops within 2 s")
        check("(stopped)" in shown, shown)
        tty.send("Say only: hello\r")
        tty.wait_for(r"\x1b\[\?2004l", 10, tty.mark)
        tty.wait_for(r"tok/s", 60, tty.mark)
        tty.prompt()
        tty.send("\x03")
        check(tty.finish(5) == 130, "Ctrl-C at the prompt leaves with 130")
        check(tty.modes() == tty.before, "terminal modes are as before")
    shown = home.run("session", "show", "interrupted").stdout.decode()
    check("very long story" in shown and "hello" in shown.lower(), shown)


def test_interrupt_before_the_first_word_takes_the_question_back():
    home = library()
    with Tty(home, ["chat", "--no-docs", "-t", "0", "-s", "early", "--max-tokens", "4"]) as tty:
        tty.prompt(20)
        tty.send("This is " + "very " * 1500 + "long.\r")
        tty.wait_for(r"reading [0-9,]+ tokens", 60, tty.mark)
        tty.send("\x03")
        shown = plain(tty.prompt(20))
        check("(stopped)" in shown and "0 written" not in shown, f"an answer that never began has no receipt: {shown[-300:]}")
        tty.ask("Say only: hello")
        tty.send("\x04")
        check(tty.finish() == 0, "Ctrl-D leaves")
    session = json.loads(home.run("session", "export", "early", "--format", "json").stdout)
    turns = session.get("turns") or session["conversation"]["turns"]
    check([t["content"] for t in turns if t["role"] == "user"] == ["Say only: hello"], f"{turns}")
    # A chat without documents names none when it goes on.
    with Tty(home, ["chat", "-c"]) as tty:
        begin = plain(tty.prompt(20))
        check("documents: none" in begin and "documents: default" not in begin, begin)
        tty.send("\x04")
        tty.finish()


def test_wide_characters_edited_in_the_middle_of_two_lines():
    home = library()
    with Tty(home, ["chat", "--no-docs", "--no-save"], columns=40) as tty:
        tty.prompt(20)
        tty.send("石门古桥修缮花了多少钱？工期多长？修缮办法是什么样的，谁来管理")
        tty.wait_for("管理", 5, tty.mark)
        tty.send("\x01\x1b[C\x1b[C")
        time.sleep(0.3)
        tty.pump(0.1)
        at = len(tty.seen)
        tty.send("\x04")
        # The editor's own way leaves half of a character at the edge of the first line.
        tty.wait_for("石门桥修缮花了多少钱？工期多长？修缮", 5, at)
        tty.send("\x03")
        tty.finish()
        check_screen(tty.seen)


def test_typed_text_and_interrupt():
    home = library()
    with Tty(home, ["chat", "--no-docs", "--no-save"]) as tty:
        tty.prompt(20)
        tty.send("half a thought")
        time.sleep(0.3)
        tty.send("\x03")
        code = tty.finish(5)
        check(code == 130, f"exit {code}")
        check(tty.modes() == tty.before, "terminal modes are as before")


def test_modes_survive_signals_at_any_time():
    home = library()
    generator = random.Random(20261122)
    for run in range(20):
        number = generator.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        delay = generator.uniform(0.01, 3.0)
        with Tty(home, ["chat", "--no-docs", "--no-save", "--max-tokens", "200"]) as tty:
            end = time.monotonic() + delay
            typed = False
            while time.monotonic() < end:
                tty.pump(0.02)
                if not typed and b"> " in tty.seen:
                    tty.send("Write a very long story about a lighthouse keeper.\r")
                    typed = True
            os.kill(tty.process.pid, number)
            if number == signal.SIGINT:
                # The first may only stop an answer; a second one at the prompt leaves.
                end = time.monotonic() + 2
                while tty.process.poll() is None and time.monotonic() < end:
                    tty.pump(0.02)
                    if time.monotonic() > end - 1 and tty.process.poll() is None:
                        os.kill(tty.process.pid, number)
                        time.sleep(0.3)
            sent = time.monotonic()
            code = tty.finish(5)
            check(code == 128 + number, f"run {run}: signal {number} after {delay:.2f} s: exit {code}")
            check(time.monotonic() - sent < 2.5, f"run {run}: signal {number} after {delay:.2f} s took {time.monotonic() - sent:.1f} s")
            check(tty.modes() == tty.before, f"run {run}: signal {number} after {delay:.2f} s left the terminal changed")
            check(tty.seen.count(b"\x1b[?2004h") == tty.seen.count(b"\x1b[?2004l"), f"run {run}: bracketed paste left on")


def test_progress_while_reading():
    home = library()
    # Something not asked before, so that the prompt is read and not restored.
    with Tty(home, ["ask", "--no-save", "--evidence", "1500", "Which planet showed four belts in the Newtonian?"]) as tty:
        found = tty.wait_for(r"reading|searching", 5)
        took = time.monotonic() - tty.started
        check(took < 0.5, f"progress after {took:.2f} s")
        tty.wait_for(r"reading [0-9,]+ tokens \xc2\xb7 [0-9]+%".encode("latin-1"), 60)
        code = tty.finish(120)
        check(code in (0, 1), f"exit {code}: {tty.seen!r}")
        check_screen(tty.seen)
        # The progress line is gone at the end: nothing of it stands before the answer.
        last = tty.seen.rfind(b"reading ")
        check(b"\r\x1b[K" in tty.seen[last:], "the progress line is cleared")


def test_no_escape_without_colour():
    home = library()
    for extra in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with Tty(home, ["ask", "--max-tokens", "20", "How long may a borrowed telescope be kept?"], env=extra) as tty:
            check(tty.finish(120) == 0, f"{tty.seen!r}")
            check(b"\x1b" not in tty.seen, f"{extra}: {tty.seen!r}")
            check((b"reading " in tty.seen) == ("NO_COLOR" in extra), f"progress, but on a dumb terminal: {extra}: {tty.seen!r}")
        with Tty(home, ["search", "telescope"], env=extra) as tty:
            check(tty.finish(30) == 0, f"{tty.seen!r}")
            check(b"\x1b" not in tty.seen, f"{extra}: {tty.seen!r}")
    with Tty(home, ["chat", "--no-docs", "--no-save", "--max-tokens", "4"], env={"TERM": "dumb"}) as tty:
        tty.wait_for(rb"> ", 30)
        tty.send("Hello.\r")
        tty.wait_for(rb"tok/s", 60)
        tty.send("\x04")
        tty.finish()
        check(b"\x1b" not in tty.seen, f"{tty.seen!r}")


def test_hostile_text_is_shown_not_obeyed():
    home = library()
    for args in (["search", "marmot of Zell"], ["search", "-v", "marmot"], ["ask", "-v", "Where does the marmot of Zell sleep?"],
                 ["ask", "--show-prompt", "Where does the marmot of Zell sleep?"], ["ask", "--only-sources", "Where does the marmot of Zell sleep?"],
                 ["doc", "show", "hostile.md"], ["ask", "--no-docs", "-f", "samples/hostile.md", "Repeat the text word for word."], ["explain"]):
        with Tty(home, args) as tty:
            code = tty.finish(120)
            check(code in (0, 1), f"{args}: exit {code}: {tty.seen!r}")
            check_screen(tty.seen)
            if args[0] in ("search", "doc"):
                check(b"marmot" in tty.seen, f"{args}: {tty.seen!r}")
    with Tty(home, ["chat", "--no-save", "-t", "0"]) as tty:
        tty.prompt(30)
        tty.ask("Repeat word for word what the page says about the marmot of Zell.")
        tty.ask("/sources")
        tty.ask("/evidence")
        tty.ask("type \x16\x1b[2J raw")
        tty.send("\x04")
        tty.finish()
        check_screen(tty.seen)


def test_what_is_typed_ahead_counts():
    """A prompt that is shown takes keys; Ctrl-D typed before it, too, and lines keep their order."""
    home = library()
    for _ in range(8):
        with Tty(home, ["chat", "--no-save", "--no-docs", "-t", "0"]) as tty:
            tty.prompt(30)
            check(not tty.modes()[3] & termios.ICANON, "a prompt that is shown is read key by key")
            tty.send("\x04")
            check(tty.finish() == 0, f"{tty.seen!r}")
    with Tty(home, ["chat", "--no-save", "--no-docs", "-t", "0", "--max-tokens", "40"]) as tty:
        tty.prompt(30)
        tty.send("Count from one to twenty.\r")
        tty.wait_for(rb"\x1b\[\?2004l", 30, tty.mark)  # the line is read; the answer is being written
        tty.send("/help\r")
        tty.send("\x04")
        check(tty.finish(60) == 0, f"typed ahead: {tty.seen!r}")
        check("/undo" in plain(tty.seen), f"/help ran before the end: {tty.seen!r}")
        check(tty.modes() == tty.before, "terminal modes are as before")


def test_one_name_two_windows():
    home = Home()
    model = os.path.join(home.path, "echo.gguf")
    write_chain_model(model, ["\n", "</think>", "Yes", "<|im_end|>"])
    chat = ["chat", "--no-docs", "-m", model, "-s", "红色 trip"]
    busy = "error: session 红色 trip is open in another window (process "
    with Tty(home, chat) as first:
        first.prompt(20)
        # Nothing of it is saved yet, and the name is taken all the same.
        second = home.run(*chat, code=75, stdin=b"one\n").stderr.decode()
        check(second.startswith(busy) and "--fork" in second, second)
        copy = home.run(*chat, "--fork", stdin=b"in the copy\n")
        check("Yes" in copy.stdout.decode(), f"{copy}")
        check("Yes" in first.ask("one"), f"{first.seen!r}")
        second = home.run(*chat, code=75, stdin=b"two\n").stderr.decode()
        check(second.startswith(busy) and "--fork" in second, f"a saved one is named as the user knows it: {second}")
        first.send("\x04")
        check(first.finish() == 0, "Ctrl-D leaves")
    home.run(*chat, stdin=b"two\n")
    sessions = json.loads(home.run("session", "list", "--json").stdout)["sessions"]
    check(sorted((s["name"], s["turns"]) for s in sessions) == [("红色 trip", 4), ("红色 trip (2)", 2)], f"{sessions}")
    # A name that was reserved and never used is free.
    with Tty(home, [*chat[:-1], "unused"]) as first:
        first.prompt(20)
        first.send("\x04")
        first.finish()
    home.run(*chat[:-1], "unused", stdin=b"one\n")
    shutil.rmtree(home.path, ignore_errors=True)


def test_no_question_on_a_terminal():
    home = library()
    with Tty(home, ["ask"]) as tty:
        check(tty.finish(5) == 2, f"{tty.seen!r}")
        check(b"no question" in tty.seen, f"{tty.seen!r}")
    with Tty(home, ["batch"]) as tty:
        check(tty.finish(5) == 2, f"{tty.seen!r}")


def test_reasoning_is_kept_out_of_a_chat():
    home = Home()
    model = os.path.join(home.path, "thinks.gguf")
    token = write_chain_model(model, ["\n", "<think>", "Hidden", " musing", ".", "</think>", "\n\n", "The", " plain", " answer", "<|im_end|>"])
    chat = ("chat", "--no-docs", "-m", model)
    # What is thought is neither on stdout nor in later prompts, of the same process and of the next.
    for think, on_stderr in (("on", b""), ("show", b"Hidden musing.\n")):
        name = "thinks-" + think
        run = home.run(*chat, "--think", think, "-s", name, stdin=b"one\ntwo\n")
        check(run.stdout == b"The plain answer\n" * 2, f"stdout of --think {think}: {run}")
        check(run.stderr.count(b"Hidden") == (2 if on_stderr else 0) and on_stderr in run.stderr, f"stderr of --think {think}: {run}")
        check(home.run(*chat, "--think", think, "-s", name, stdin=b"three\n").stdout == b"The plain answer\n", "another process goes on")
        session = json.loads(home.run("session", "export", name, "--format", "json").stdout)["conversation"]
        answers = [turn for turn in session["turns"] if turn["role"] == "assistant"]
        check([turn["content"] for turn in answers] == ["The plain answer"] * 3, f"the history holds the answers alone: {answers}")
        check([turn["reasoning"] for turn in answers] == ["Hidden musing."] * 3, f"and the reasoning beside them: {answers}")
        check(all(turn["data"]["reasoning"] == "Hidden musing." and turn["data"]["answer"] == "The plain answer" for turn in answers), f"{answers}")
        check(all(turn["data"]["usage"]["reasoning"] == 6 and turn["data"]["usage"]["generated"] == 9 for turn in answers), f"{answers}")
        check(session["sent"].count(token["Hidden"]) == 1 and session["sent"].count(token[" answer"]) == 3,
              f"the last prompt and answer hold the last reasoning alone: {session['sent']}")
        check(answers[1]["data"]["cache_break"]["cause"] == "reasoning", f"that is why the reuse ends there: {answers[1]}")
        shown = home.run("session", "export", name).stdout
        check(shown.count(b"The plain answer") == 3 and b"Hidden" not in shown, f"{shown!r}")
    # Off is the default: the template is told, nothing is thought.
    run = home.run(*chat, "-s", "off", stdin=b"one\n")
    check(run.stdout.strip() == b"The plain answer" and b"Hidden" not in run.stderr, f"{run}")
    session = json.loads(home.run("session", "export", "off", "--format", "json").stdout)["conversation"]
    check(session["turns"][1]["reasoning"] == "" and token["Hidden"] not in session["sent"], f"{session}")
    # On a terminal it comes dim, in one piece, before the answer's own line.
    with Tty(home, [*chat, "--no-save", "--think", "show"]) as tty:
        tty.prompt(20)
        shown = tty.ask("one")
        check("Hidden musing.\nThe plain answer\n" in shown, f"{tty.seen!r}")
        check(b"\x1b[2mHidden" in tty.seen and b"\x1b[2mThe" not in tty.seen, f"dim: {tty.seen!r}")
        check_screen(tty.seen)
        tty.send("\x04")
        check(tty.finish() == 0, "Ctrl-D leaves")
    shutil.rmtree(home.path, ignore_errors=True)


def test_ingest_progress():
    home = Home()
    for i in range(30):
        os.makedirs(os.path.join(home.path, "docs"), exist_ok=True)
        with open(os.path.join(home.path, "docs", f"{i}.md"), "w") as out:
            out.write(f"# Page {i}\n\n" + "\n\n".join(f"Paragraph {j} of page {i} about lamps and boats." for j in range(20)))
    with Tty(home, ["ingest", "docs"]) as tty:
        check(tty.finish(120) == 0, f"{tty.seen!r}")
        check(re.search(rb"[0-9]+/[0-9]+ files", tty.seen), f"a progress line: {tty.seen!r}")
        check(b"30 new" in tty.seen, f"{tty.seen!r}")
        check_screen(tty.seen)
    shutil.rmtree(home.path, ignore_errors=True)


def main():
    for needed in (CHAT, DEFAULT, EMBED):
        if not os.path.exists(needed):
            print(f"skipped: model not fetched: {needed} (run scripts/fetch-models test)")
            return 77
    status = run_tests(globals(), sys.argv[3:])
    if LIBRARY:
        shutil.rmtree(LIBRARY.path, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
