"""Frames: whatever comes over a pipe is a frame or an error that says so."""

import contextlib
import itertools
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_deepspeed.processes import channel

CASES = int(os.environ.get("PYTEST_DS_CASES", "2000"))

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
_frames = st.lists(
    st.dictionaries(st.text(), _values, max_size=3).map(lambda frame: {**frame, "type": "x"}),
    max_size=4,
)


def read(data, cuts=()):
    """What a reader makes of bytes that come in these portions: frames, up to the first error."""
    reading, writing = os.pipe()
    reader, found = channel.FrameReader(reading), []
    try:
        edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        for start, end in itertools.pairwise(edges):
            if start < end:
                os.write(writing, data[start:end])
                found.extend(reader.read())
        return found
    finally:
        os.close(writing)
        reader.close()


@settings(max_examples=CASES, deadline=None)
@given(_frames, st.lists(st.integers(min_value=0), max_size=6))
def test_frames_in_any_portions(frames, cuts):
    """Protects: frames come out as they went in, wherever the pipe cuts them."""
    data = b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)[:60000]
    whole = data.count(b"\n")

    assert read(data, cuts) == frames[:whole]


@settings(max_examples=CASES, deadline=None)
@given(st.binary(max_size=2000), st.lists(st.integers(min_value=0), max_size=4))
def test_any_bytes(data, cuts):
    """Protects: bytes of a process gone mad are frames or a ValueError, and no other error."""
    frames = []
    with contextlib.suppress(ValueError):
        frames = read(data, cuts)
    assert all(isinstance(frame["type"], str) for frame in frames)


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"a":' * 100_000, b"1", b"{}", b'{"type": 1}', b"\xff\xfe", b"NaN"],
    ids=["deep list", "deep object", "number", "no type", "odd type", "no UTF-8", "NaN"],
)
def test_lines_that_are_no_frames(line):
    """Protects: a line that is no frame is told with its beginning, however deep it is nested."""
    with pytest.raises(ValueError, match=r"^not a frame: b'") as caught:
        channel.parse(line)

    assert len(str(caught.value)) < 1000


def test_a_frame_of_100_mb():
    """Protects: a report that is far too long arrives whole, in portions of the pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        channel.write(writing, {"type": "report", "text": "x" * 100_000_000})
        os._exit(0)
    os.close(writing)
    reader, frames = channel.FrameReader(reading), []
    while not reader.closed:
        frames.extend(reader.read())
    os.waitpid(pid, 0)
    reader.close()

    assert [len(frame["text"]) for frame in frames] == [100_000_000]
