"""Limits as they are written, and what is wrong with some."""

import inner
import pytest

from pytest_deepspeed.training.memory.limits import LimitError, Mark, limits_of

INI = ["10 GiB", "zero3-*: 2 GiB, nvme=1 GB", "configs/*.json: optimizer=5 MiB"]


def mark(*args, **kwargs):
    """One marker's arguments."""
    return Mark(args, kwargs)


def test_ini_lines_by_pattern():
    """Protects: a line without pattern holds for all, later lines win, a path may match."""
    all_ = limits_of([], INI, "zero1-fp32")
    third = limits_of([], INI, "zero3-fp32", "configs/a.json")

    assert all_.sizes == {"host": 10 * 2**30}
    assert third.sizes == {"host": 2 * 2**30, "nvme": 10**9, "optimizer": 5 * 2**20}
    assert third.sources["host"] == "ds_limit_rank_memory = zero3-*: 2 GiB, nvme=1 GB"


def test_markers_win():
    """Protects: the closest marker wins over the one above it, that over the ini file, by name."""
    limits = limits_of([mark("1 MiB"), mark("2 MiB", device="3 MiB")], INI, "zero3-fp32")

    assert limits.sizes == {"host": 2**20, "device": 3 * 2**20, "nvme": 10**9}
    assert limits.sources["device"] == "limit_rank_memory"


def test_no_limit_is_false():
    """Protects: a case that no line matches has no limit."""
    assert not limits_of([], ["zero3-*: 1 GiB"], "zero2-fp32")
    assert not limits_of([], ["zero3-*: 1 GiB"])


NAMES = "host, device, tensors, parameters, gradients, masters, optimizer, nvme"
UNITS = 'write "1.5 GiB" (units: B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB)'


@pytest.mark.parametrize(
    ("marks", "ini", "message"),
    [
        ([mark()], [], 'limit_rank_memory limits nothing: write limit_rank_memory("1.5 GiB")'),
        (
            [mark("1 GiB", "2 GiB")],
            [],
            'limit_rank_memory takes one size, that of host: write limit_rank_memory("1.5 GiB")',
        ),
        (
            [mark("1 GiB", host="2 GiB")],
            [],
            'limit_rank_memory takes one size, that of host: write limit_rank_memory("1.5 GiB")',
        ),
        (
            [mark("1.5 gigs")],
            [],
            f"limit_rank_memory: host: a size is a number and a unit, got '1.5 gigs': {UNITS}",
        ),
        (
            [mark(ram="1 GiB")],
            [],
            (
                f"limit_rank_memory: 'ram' cannot be limited: use one of {NAMES}, as in"
                ' limit_rank_memory("1.5 GiB")'
            ),
        ),
        (
            [],
            ["zero3-*: much"],
            (
                "ds_limit_rank_memory = zero3-*: much: host: a size is a number and a unit, got"
                f" 'much': {UNITS}"
            ),
        ),
        (
            [],
            ["zero1-*: ram=1 GiB"],
            (
                "ds_limit_rank_memory = zero1-*: ram=1 GiB: 'ram' cannot be limited: use one of"
                f" {NAMES}, as in zero3-*: 1.5 GiB"
            ),
        ),
    ],
)
def test_what_is_written_wrong(marks, ini, message):
    """Protects: a wrong limit is refused with what to write, also where no case matches it."""
    with pytest.raises(LimitError) as caught:
        limits_of(marks, ini, "zero2-fp32")

    assert str(caught.value) == message


def refusal(session):
    """The usage error that a session ended with."""
    assert session.status == 4
    assert "Traceback" not in session.output
    return session.output[session.output.index("ERROR:") :].split("\n\n")[0].strip()


WRONG = {
    '@pytest.mark.world_size(2)\n@pytest.mark.limit_rank_memory("2 apples")': (
        f"limit_rank_memory: host: a size is a number and a unit, got '2 apples': {UNITS}"
    ),
    '@pytest.mark.limit_rank_memory("1 GiB")': (
        "limit_rank_memory holds for tests on ranks, and this one runs on none: add"
        " @pytest.mark.world_size(2)"
    ),
    '@pytest.mark.world_size(2)\n@pytest.mark.limit_rank_memory(nvme="1 GiB", host="1 GiB")': (
        "limit_rank_memory limits nvme, which is measured in tests with the fixture ds_check"
        " alone; limit host or device here"
    ),
}


@pytest.mark.parametrize("marks", WRONG)
def test_marker_that_is_refused(marks, inner_session):
    """Protects: a limit that is wrong, or that nothing would measure, ends the collection."""
    session = inner_session(f"import pytest\n\n{marks}\ndef test_limited():\n    pass\n")

    assert refusal(session) == f"ERROR: test_limited.py:3: test_limited: {WRONG[marks]}"


def test_ini_that_is_refused(inner_session, monkeypatch):
    """Protects: a wrong line of the ini file names the file."""
    monkeypatch.setattr(inner, "_INI", inner._INI + "ds_limit_rank_memory =\n  zero3-*: 1 apple\n")
    session = inner_session("def test_any():\n    pass\n")

    assert refusal(session) == (
        "ERROR: pytest.ini: ds_limit_rank_memory = zero3-*: 1 apple: host: a size is a number and"
        f" a unit, got '1 apple': {UNITS}"
    )
