"""``limit_rank_memory`` on tests that run on ranks."""
# ruff: noqa: E501 (what a person sees is shown as it is)

import re

import inner
import pytest


@pytest.mark.world_size(2)
@pytest.mark.limit_rank_memory("64 MiB")
def test_a_body_within_its_limit_passes(rank):
    """Protects: the agent's heap, which a fork shares, is not charged to the rank."""
    kept = bytearray(2**20 * (rank + 1))

    assert len(kept) > 0


OVER = """
    import pytest, torch

    @pytest.fixture
    def weights(rank):
        return torch.ones(100 + 20 * rank, 2**18)

    @pytest.mark.world_size(2)
    @pytest.mark.limit_rank_memory("110 MiB")
    def test_takes_more_on_one_rank(weights):
        passing = torch.ones(100)
"""


@pytest.mark.inner(OVER)
def test_a_rank_over_its_limit_fails(shown):
    """Protects: fixtures count, the rank is named, and its largest tensors are shown."""
    sizes = re.sub(r"start: 12\d\.\d\d MiB", "start: SIZE", shown.failure)
    sizes = re.sub(r"host: 1[23]\d(,\d{3}){2} bytes", "host: N bytes", sizes)

    assert sizes.partition("\nrepeat it")[0] == inner.text("""
        test_takes_more_on_one_rank
        rank 1: peak of host memory above what the rank had at its start: SIZE, more than the 110.00 MiB that limit_rank_memory allows (host: N bytes of 115,343,360)
        still held in tensors at the end of the body: 120.00 MiB
        largest tensors:
           120.00 MiB  (120, 262144) (other, float32, cpu)
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: failed first, in call
    """)


BY_INI = """
    import pytest, torch

    @pytest.mark.world_size(1)
    @pytest.mark.ds_config(stage=3)
    def test_matched():
        torch.ones(60, 2**18)

    @pytest.mark.world_size(1)
    @pytest.mark.ds_config(stage=2)
    def test_of_another_stage():
        torch.ones(60, 2**18)

    @pytest.mark.world_size(1)
    def test_of_no_config():
        torch.ones(60, 2**18)
"""


def test_a_limit_of_the_ini_file(inner_session, monkeypatch):
    """Protects: lines of the ini file hold for the configs that they match, and for no other test;
    memory that is freed again before the end is seen.
    """
    lines = "ds_limit_rank_memory =\n  zero3-*: 40 MiB\n"
    monkeypatch.setattr(inner, "_INI", inner._INI + lines)
    session = inner_session(BY_INI)

    (line,) = re.findall(r"^FAILED .*", session.output, re.MULTILINE)
    assert line.startswith("FAILED test_matched.py::test_matched - rank 0: ")
    assert "that ds_limit_rank_memory = zero3-*: 40 MiB allows" in session.output
    assert "2 passed" in session.output
