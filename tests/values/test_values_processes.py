"""Frames, collectives and stacks as values: what processes tell each other, without processes."""

import os

import pytest

from pytest_deepspeed.processes import channel, collectives, stacks


@pytest.fixture
def pipe():
    """A pipe: its reader, and the descriptor to write to."""
    read, write = os.pipe()
    reader = channel.FrameReader(read)
    yield reader, write
    reader.close()
    os.close(write)


def test_a_frame_cut_in_half(pipe):
    """A frame is given when its line is complete, and what follows it is kept for the next."""
    reader, write = pipe
    os.write(write, b'{"type": "rea')
    assert list(reader.read()) == []
    os.write(write, b'dy"}\n{"type": "fin')
    assert list(reader.read()) == [{"type": "ready"}]
    os.write(write, b'ished"}\n')
    assert list(reader.read()) == [{"type": "finished"}]
    assert not reader.closed


@pytest.mark.parametrize(
    "line", [b"Traceback (most recent call last):", b"[1]", b"null", b"\xff\x00", b""]
)
def test_garbage_is_no_frame(pipe, line):
    """A line that is no JSON object is an error that shows it."""
    reader, write = pipe
    os.write(write, line + b"\n")
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (compared as a whole)
        list(reader.read())
    assert str(raised.value) == f"not a frame: {line!r}"


def test_what_a_prologue_prints(pipe):
    """What a site's TaskProlog prints before the first frame is passed over, nothing after it."""
    reader, write = pipe
    reader = channel.FrameReader(os.dup(reader.fd), prologue=True)
    os.write(write, b'Welcome!\n{"no": "frame"}\n{"type": "hello"}\n')
    assert list(reader.read()) == [{"type": "hello"}]
    os.write(write, b"Welcome!\n")
    with pytest.raises(ValueError, match="not a frame: b'Welcome!'"):
        list(reader.read())
    reader.close()


def test_a_frame_of_10_megabytes(pipe):
    """A frame much larger than a pipe's buffer arrives whole, from a writer that blocks."""
    reader, write = pipe
    text = "0123456789" * 1_000_000
    if (pid := os.fork()) == 0:
        try:
            channel.write(write, {"type": "text", "text": text})
        finally:
            os._exit(0)
    frames = []
    while not frames:
        frames = list(reader.read())
    os.waitpid(pid, 0)
    assert frames == [{"type": "text", "text": text}]


def test_the_end_of_a_pipe():
    """The other side's end is told, and half a frame is never given."""
    read, write = os.pipe()
    reader = channel.FrameReader(read)
    os.write(write, b'{"type": "ready"}\n{"type"')
    os.close(write)
    assert list(reader.drain()) == [{"type": "ready"}]
    assert reader.closed
    reader.close()


def test_drain_does_not_wait(pipe):
    """What is there is taken, however much; nothing more is waited for while the pipe is open."""
    reader, write = pipe
    frames = [{"type": "frame", "number": number} for number in range(1000)]
    for frame in frames:
        channel.write(write, frame)
    assert list(reader.drain()) == frames
    assert not reader.closed


def test_values_come_back_as_they_were():
    """What a function returns on a rank is the same object after its way through a frame."""
    value = {"loss": [1.5, float("inf")], (0, 1): {"a"}, "raw": b"\x00\n"}
    assert channel.unpack(channel.pack(value)) == value


def calls(*ops, group="0", start=1):
    """A rank's history in one group."""
    return [
        {"group": group, "seq": seq, "op": op, "what": what}
        for seq, (op, _, what) in enumerate((op.partition(" ") for op in ops), start)
    ]


@pytest.mark.parametrize(
    ("histories", "sentence"),
    [
        ({0: [], 1: []}, ""),
        ({0: calls("barrier"), 1: calls("barrier")}, ""),
        (
            {0: calls("barrier", "allreduce (3,) float32"), 1: calls("barrier", "barrier")},
            "group 0, collective 2: rank 0 is in allreduce of (3,) float32; rank 1 is in barrier",
        ),
        (
            {0: calls("allreduce (3,) float32"), 1: calls("allreduce (4,) float32")},
            (
                "group 0, collective 1: rank 0 is in allreduce of (3,) float32;"
                " rank 1 is in allreduce of (4,) float32"
            ),
        ),
        (
            {0: calls("barrier", "barrier"), 1: calls("barrier"), 2: calls("barrier", "barrier")},
            "group 0, collective 2: rank 0 is in barrier; rank 1 never came; rank 2 is in barrier",
        ),
        (
            {0: calls("barrier"), 1: []},
            "group 0, collective 1: rank 0 is in barrier; rank 1 never came",
        ),
        (
            {
                0: calls("barrier") + calls("broadcast (1,) int64", group="1"),
                1: calls("barrier") + calls("barrier", group="1"),
            },
            "group 1, collective 1: rank 0 is in broadcast of (1,) int64; rank 1 is in barrier",
        ),
        ({0: calls("barrier", "barrier", start=64), 1: calls("barrier", start=65)}, ""),
    ],
    ids=["none", "same", "operation", "shape", "one rank short", "one rank never", "second group",
         "the oldest are forgotten"],
)  # fmt: skip
def test_the_first_divergence(histories, sentence):
    """The first collective in which ranks differ is named, with what each did instead."""
    assert collectives.divergence(histories) == sentence


def test_a_page_keeps_the_last_collectives():
    """The page holds the newest records in order, and a text too long for one is cut."""
    page = collectives.Page()
    for number in range(1, collectives.HISTORY + 3):
        page.write(f"0\t{number}\tallreduce\t({number},) float32")
    page.write(f"0\t{number + 1}\tbroadcast\t{'x' * 500}")
    records = page.read()
    page.close()
    assert len(records) == collectives.HISTORY
    assert [r["seq"] for r in records] == list(range(4, collectives.HISTORY + 4))
    assert records[0] == {"group": "0", "seq": 4, "op": "allreduce", "what": "(4,) float32"}
    assert records[-1]["op"] == "broadcast"
    assert 100 < len(records[-1]["what"]) < 200


def test_a_stack_with_its_source(tmp_path):
    """Each frame has its source line, those below the test are one line, the rest is untouched."""
    test = tmp_path / "test_a.py"
    test.write_text("def test_a():\n    wait(\n        60)\n")
    dump = f"""\
Current thread 0x00007f0000000000 (most recent call first):
  File "{test}", line 2 in test_a
  File "{tmp_path}/gone.py", line 7 in gone
  File "/site-packages/_pytest/python.py", line 157 in pytest_pyfunc_call
  File "/site-packages/pluggy/_callers.py", line 121 in _multicall
  File "<string>", line 1 in <module>
"""
    shown = f"""\
Current thread 0x00007f0000000000 (most recent call first):
  {test}:2 in test_a
    wait(
  {tmp_path}/gone.py:7 in gone
  (3 frames of pytest and pytest-deepspeed)"""
    assert stacks.with_source(dump) == shown
