"""Somebody at a terminal: `chat_at_a_terminal.py PROGRAM FOLDER PACK`. The model of the pack thinks."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

program, folder, pack = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    flags = ["--device", "cpu", "--temp", "0", "--chat-dir", folder, "-m", pack, "--think-budget", "0"]
    os.execv(program, [program, "chat", *flags])

# 30 lines of 100 characters
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
seen = ""


def read_until(pattern, seconds=60):
    """Reads until what was not matched yet has the pattern; gives what came up to its end."""
    global seen
    end = time.monotonic() + seconds
    while True:
        found = re.search(pattern, seen, re.S)
        if found:
            before, seen = seen[: found.end()], seen[found.end() :]
            return before
        assert time.monotonic() < end, f"no {pattern!r} in {seen!r}"
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536).decode()
            except OSError:  # the program has ended
                found = re.search(pattern, seen, re.S)
                assert found, f"ended without {pattern!r}: {seen!r}"


def type_in(text):
    """Types once the prompt is there: what is typed ahead is dropped."""
    read_until("> ")
    os.write(terminal, text.encode())


greeting = read_until("Ctrl-D ends")
assert "\x1b[2m" in greeting, greeting
type_in("What is the capital of Peru?\r")
read_until("Lima\r\n")
read_until("prefill \\d+ tok .* t/s")
# the line before, from the history, with its last word changed
type_in("\x1b[A")
read_until("Peru\\?")
os.write(terminal, ("\x7f" * len("Peru?") + "France?\r").encode())
read_until("Paris\r\n")
# the clipboard is the terminal's
type_in("/copy\r")
read_until("\x1b\\]52;c;UGFyaXM=\x07")
type_in("/retry\r")
read_until("Paris\r\n")
# Tab completes a command and a setting
type_in("/sta\t\r")
read_until("prefill \\d+ tok")
type_in("/set min\t 0.1\r")
read_until("min-p is 0.1 from")
type_in("/set min-p auto\r")
type_in("/nonsense\r")
read_until("error: there is no command /nonsense.*hint: /help")
# thoughts are dimmed
type_in("/set think-budget 2\r")
type_in("/set temp 50\r")
type_in("/set max-tokens 8\r")
type_in("/set top-k 0\r")
type_in("/set top-p 1\r")
type_in("What is the capital of Peru?\r")
read_until("\x1b\\[2m.*\x1b\\[0m\r\n\r\n")
# a long prompt has a bar; Ctrl-C stops it, not the program, and it is not part of the conversation
question = os.path.join(folder, "question.txt")
with open(question, "w") as file:
    file.write("dog cat " * 3000)
type_in(f"/read {question}\r")
read_until("reading the prompt.*tokens")
os.write(terminal, b"\x03")
read_until("note: stopped")
type_in("/set think-budget 0\r")
type_in("/set temp 0\r")
type_in("/clear\r")
type_in("What is the capital of Peru?\r")
read_until("Lima\r\n")
type_in("/quit\r")
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
with open(os.path.join(folder, "history.txt")) as history:
    assert "What is the capital of France?" in history.read()

# without a model it says what the one in the program is
seen = ""
child, terminal = pty.fork()
if child == 0:
    os.execv(program, [program, "run", "--device", "cpu", "-n", "1", "Hello"])
read_until("this is the toy in the program.*flashflood models")
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
