"""`values.nodelist`, against Slurm's own reading where Slurm is installed."""

import itertools
import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_deepspeed.values import nodelist

LISTS = {
    "n1": ["n1"],
    "n[5]": ["n5"],
    "n[1-3]": ["n1", "n2", "n3"],
    "n[9-11]": ["n9", "n10", "n11"],
    "n[08-10]": ["n08", "n09", "n10"],
    "n[001-3]": ["n001", "n002", "n003"],
    "n[099-101]": ["n099", "n100", "n101"],
    "n[1-2,7,09-10]": ["n1", "n2", "n7", "n09", "n10"],
    "login,n[1-2],m[3,5]": ["login", "n1", "n2", "m3", "m5"],
    "rack-[1-2]-[01-02,4]": [f"rack-{i}-{j}" for i in (1, 2) for j in ("01", "02", "4")],
    "a[1-2][3-4]": ["a13", "a14", "a23", "a24"],
}
UNREADABLE = {
    "": 0,
    ",n1": 0,
    "n1,": 3,
    "n1,,n2": 3,
    "n1 n2": 2,
    "n[1-2": 1,
    "n1]": 2,
    "n[]": 2,
    "n[1-2,]": 6,
    "n[a-b]": 2,
    "n[1,3-2]": 4,
    "n[[1]]": 1,
    "n[0-65536]": 2,
}

prefixes = st.text("abz-", min_size=1, max_size=5).filter(lambda text: text[0] != "-")
numbers = st.tuples(st.integers(1, 4), st.integers(0, 1200), st.integers(0, 12))


@st.composite
def written(draw):
    """Items of a node list as ``(text, names)``: a name with up to two brackets."""
    text, parts = draw(prefixes), []
    parts.append([text])
    for _ in range(draw(st.integers(0, 2))):
        ranges, names = [], []
        for width, first, more in draw(st.lists(numbers, min_size=1, max_size=3)):
            low = f"{first:0{width}}"
            names += [f"{n:0{len(low)}}" for n in range(first, first + more + 1)]
            ranges.append(f"{low}-{first + more:0{width}}" if more else low)
        link = draw(st.sampled_from(["", "-", "x"])) if len(parts) > 1 else ""
        text += f"{link}[{','.join(ranges)}]"
        parts += [[link], names]
    return text, ["".join(name) for name in itertools.product(*parts)]


@pytest.fixture(scope="module")
def scontrol(tmp_path_factory):
    """Runs ``scontrol show``, which needs a configuration and no daemon."""
    if shutil.which("scontrol") is None:
        pytest.skip("scontrol is missing: apt-get install slurm-client")
    conf = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    conf.write_text("ClusterName=none\nSlurmctldHost=localhost\nNodeName=n1\n")

    def show(*arguments):
        return subprocess.run(
            ["scontrol", "show", *arguments],
            env={**os.environ, "SLURM_CONF": str(conf)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    return show


@pytest.mark.parametrize(("text", "names"), LISTS.items(), ids=LISTS)
def test_expands(text, names):
    """Protects: every form that Slurm prints gives the names of the nodes, in order."""
    assert nodelist.expand(text) == names


@pytest.mark.parametrize(("text", "names"), LISTS.items(), ids=LISTS)
def test_these_are_the_names_that_slurm_reads(scontrol, text, names):
    """Protects: what the table above expects is Slurm's reading, not ours."""
    assert scontrol("hostnames", text) == names


@pytest.mark.parametrize(("text", "position"), UNREADABLE.items(), ids=map(repr, UNREADABLE))
def test_refuses(text, position):
    """Protects: what is no node list is refused where it stops being one, and not half read."""
    with pytest.raises(ValueError, match="not a list") as raised:
        nodelist.expand(text)
    assert str(raised.value) == (
        f"not a list as Slurm prints it, from character {position} on: {text!r}"
    )


@given(st.lists(written(), min_size=1, max_size=4))
def test_expands_what_is_written(items):
    """Protects: any mix of names, ranges, widths and brackets."""
    text = ",".join(text for text, _ in items)
    assert nodelist.expand(text) == [name for _, names in items for name in names]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(written(), min_size=1, max_size=3))
def test_agrees_with_slurm(scontrol, items):
    """Protects: without ``scontrol`` on PATH the nodes are the same ones in the same order."""
    text = ",".join(text for text, _ in items)
    assert nodelist.expand(text) == scontrol("hostnames", text)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(written(), min_size=1, max_size=3))
def test_reads_back_what_slurm_writes(scontrol, items):
    """Protects: lists as Slurm compresses them, which no generator of ours has shaped."""
    names = list(dict.fromkeys(name for _, names in items for name in names))
    (text,) = scontrol("hostlist", ",".join(names))
    assert sorted(nodelist.expand(text)) == sorted(names)


@pytest.mark.parametrize(
    ("text", "counts"),
    {"4": [4], "16(x2)": [16, 16], "16(x2),8": [16, 16, 8], "1,2(x1),3": [1, 2, 3]}.items(),
)
def test_counts_per_node(text, counts):
    """Protects: CPUs are counted for the right node, equal neighbours included."""
    assert nodelist.per_node(text) == counts


@pytest.mark.parametrize(("text", "position"), {"": 0, "4,": 2, "4,x": 2, "4(2)": 0}.items())
def test_refuses_counts(text, position):
    """Protects: what is no list of counts is refused, not taken for zero CPUs."""
    with pytest.raises(ValueError, match="not a list") as raised:
        nodelist.per_node(text)
    assert str(raised.value) == (
        f"not a list as Slurm prints it, from character {position} on: {text!r}"
    )
