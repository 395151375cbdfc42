"""The live line on a terminal by itself: where it stands, what fits, what is left of it."""

import os
import signal

import pytest
from _pytest._io import TerminalWriter
from terminals import Terminal

from pytest_deepspeed.live.line import Line


class Shown:
    """A terminal with pytest's writer and a live line on it."""

    def __init__(self, columns=80, rows=24, encoding="utf-8"):
        self.terminal = Terminal(columns, rows)
        file = os.fdopen(os.dup(self.terminal.theirs), "w", encoding=encoding, buffering=1)
        self.writer = TerminalWriter(file)
        self.line = Line(self.writer, os.dup(self.terminal.theirs))

    @property
    def lines(self):
        self.writer.flush()
        return self.terminal.see()

    @property
    def cursor(self):
        return self.terminal.screen.cursor.x, self.terminal.screen.cursor.y


@pytest.fixture
def on(monkeypatch):
    """A terminal without colours, unless a test asks for them."""
    monkeypatch.setenv("PY_COLORS", "0")
    return Shown()


def test_it_stands_below_what_pytest_writes(on):
    """Protects: pytest's own line is whole, and its cursor is where pytest has left it."""
    on.writer.write("tests/test_a.py ..", flush=True)
    on.line.show("training zero2-bf16 · 1 s")

    assert on.lines == ["tests/test_a.py ..", "training zero2-bf16 · 1 s"]
    assert on.cursor == (18, 0)


def test_it_is_gone_before_pytest_writes(on):
    """Protects: nothing of a longer text is left beside or below what pytest writes next."""
    on.writer.write("tests/test_a.py ", flush=True)
    on.line.show("training zero2-bf16 · step 3/6 · loss 2.613 · 10 s")
    on.line.show("comparing zero2-bf16 · 10 s")
    assert on.lines == ["tests/test_a.py", "comparing zero2-bf16 · 10 s"]

    on.writer.line("F")
    on.writer.line("E")
    assert on.lines == ["tests/test_a.py F", "E"]


def test_at_the_bottom_of_the_screen(on):
    """Protects: the line makes itself room there, and pytest's lines stay one below another."""
    for i in range(30):
        on.writer.write(f"{i}", flush=True)
        on.line.show(f"training · {i} s")
        on.line.show(f"training · {i} s more")
        on.writer.line(" done")

    assert on.lines == [f"{i} done" for i in range(30)]
    assert on.terminal.without == on.lines


def test_no_more_than_fits():
    """Protects: a text as wide as the terminal or wider takes one line, by cells and not letters,
    and never the last column.
    """
    on = Shown(columns=20)
    on.line.show("x" * 50)
    assert on.lines == ["", "x" * 19]

    on.line.show("訓" * 50)
    assert on.lines == ["", "訓" * 9]


def test_a_long_name(on):
    """Protects: what changes is there to be seen beside a name of any length."""
    on.line.show(
        "training train.py zero3-optimizer_cpu-param_cpu-bf16-gas2 · step 3/6 · loss 2.613 · 4 s"
    )

    assert on.lines == [
        "",
        "training train.py zero3-optimizer_cpu-param_cp... · step 3/6 · loss 2.613 · 4 s",
    ]


def test_a_name_moves_no_cursor(on):
    """Protects: a config's name with control characters in it is text as any other."""
    on.line.show("training \x1b[2J\n\r.json · 1 s")

    assert on.lines == ["", "training ?[2J??.json · 1 s"]


def test_a_smaller_terminal(on):
    """Protects: the next text fits the terminal as it is by then."""
    on.line.show("training " + "x" * 60)
    on.terminal.resize(30)
    on.line.show("training " + "y" * 60)

    assert on.lines == ["", "training " + "y" * 17 + "..."]


def test_a_full_line_is_left_alone(on):
    """Protects: where the cursor waits behind the last column nothing is drawn, since no movement
    brings that state back.
    """
    on.writer.write("x" * 80, flush=True)
    on.line.show("training · 1 s")
    on.writer.write("y", flush=True)

    assert on.lines == ["x" * 80, "y"]


def test_what_a_signal_handler_writes(on):
    """Protects: a plugin that writes from a signal, such as pytest-timeout, finds a clean line."""
    before = signal.signal(signal.SIGUSR1, lambda *_: on.writer.line("+++ Timeout +++"))
    try:
        on.line.show("training · 1 s")
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert on.lines == ["+++ Timeout +++"]


def test_a_terminal_of_plain_letters(monkeypatch):
    """Protects: where the dot between the parts cannot be written, a dash stands for it."""
    monkeypatch.setenv("PY_COLORS", "0")
    on = Shown(encoding="ascii")
    on.line.show("training é · 1 s")

    assert on.lines == ["", "training ? - 1 s"]


@pytest.mark.parametrize(("colour", "dim"), [("1", b"\x1b[2m"), ("0", b"")])
def test_dim_where_there_is_colour(monkeypatch, colour, dim):
    """Protects: no colour where pytest has none."""
    monkeypatch.setenv("PY_COLORS", colour)
    on = Shown()
    on.line.show("training · 1 s")

    assert on.lines == ["", "training · 1 s"]
    assert on.terminal.raw.count(b"m") == (2 if dim else 0)
    assert dim in on.terminal.raw


def test_after_the_end(on):
    """Protects: nothing is drawn when the session has ended."""
    on.line.show("training · 1 s")
    on.line.close()
    on.line.show("training · 2 s")

    assert on.lines == []


def test_a_terminal_that_was_closed(on):
    """Protects: a session whose window is closed ends by what the system does, not by an error of
    this line.
    """
    on.line.show("training · 1 s")
    os.close(on.terminal.ours)
    on.line.show("training · 2 s")
    on.line.hide()
