"""Sizes as a person writes and reads them."""

import pytest

from pytest_deepspeed.values.size import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("512 B", 512),
        ("2 kB", 2000),
        ("2 KB", 2000),
        ("1.5 MB", 1_500_000),
        ("3GB", 3 * 10**9),
        ("0.1 TB", 10**11),
        ("1 KiB", 1024),
        (" 1.5 GiB ", 3 * 2**29),
        ("0.7 MiB", 734003),
        ("2 TiB", 2**41),
    ],
)
def test_parse(text, size):
    """Protects: each unit, SI apart from binary, exact and without a float on the way."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "bad", ["", "big", "-1 GiB", "1.5 G", "1,5 GiB", "1 gib", "1e9", 1.5, -1, True, None]
)
def test_refused(bad):
    """Protects: what is no size is refused, with what to write."""
    with pytest.raises(ValueError, match="size") as caught:
        parse_size(bad)

    assert str(caught.value) == (
        f'a size is a number and a unit, got {bad!r}: write "1.5 GiB"'
        " (units: B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB)"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536 * 2**20, "1.50 GiB"),
        (5 * 2**40, "5.00 TiB"),
        (-(2**20), "-1.00 MiB"),
    ],
)
def test_format(size, text):
    """Protects: the largest unit that leaves at least 1, and both signs."""
    assert format_size(size) == text
