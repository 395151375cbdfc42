"""``--ds-report``: what it takes, in three spellings, and what it says of what it cannot take."""

from pathlib import Path

import inner
import pytest

from pytest_deepspeed.reporting.targets import Target, parse

_HELP = (
    "give a file that ends in .html, .md, .sarif or .json, or say what it shall be: html:FILE,"
    " md:FILE, sarif:FILE, json:FILE, codequality:FILE; github takes no file"
)


def test_formats(tmp_path, monkeypatch):
    """Protects: the format comes from the ending or stands before the file, several in one text."""
    monkeypatch.chdir(tmp_path)
    text = "out/a.html, a.md\na.sarif,a.sarif.json,a.json,codequality:gl.json,html:page,github"

    assert parse(text, "--ds-report") == (
        Target("html", tmp_path / "out" / "a.html"),
        Target("md", tmp_path / "a.md"),
        Target("sarif", tmp_path / "a.sarif"),
        Target("sarif", tmp_path / "a.sarif.json"),
        Target("json", tmp_path / "a.json"),
        Target("codequality", tmp_path / "gl.json"),
        Target("html", tmp_path / "page"),
        Target("github", None),
    )


@pytest.mark.parametrize("text", ["report.txt", "report", "xml:a.xml", "github:a.txt", "html:"])
def test_unknown_formats(text):
    """Protects: what is no format is refused with all that there are."""
    with pytest.raises(pytest.UsageError) as caught:
        parse(text, "ds_report in pytest.ini")

    assert str(caught.value) == f"ds_report in pytest.ini: unknown report {text!r}: {_HELP}"


def test_files_that_cannot_be(tmp_path):
    """Protects: a directory, a file in a file and a file taken twice are told before any test."""
    (tmp_path / "file").write_text("")
    folder, inside = f"md:{tmp_path}", f"{tmp_path}/file/a.md"
    expected = {
        folder: f"{folder} is a directory: name a file in it",
        inside: f"{inside}: {tmp_path}/file is no directory: name a file elsewhere",
        "a.md,md:a.md": "two reports in one file: md:a.md: name another file",
    }
    said = {}
    for text in expected:
        with pytest.raises(pytest.UsageError) as caught:
            parse(text, "--ds-report")
        said[text] = str(caught.value).removeprefix("--ds-report: ")

    assert said == expected


def test_three_spellings(tmp_path):
    """Protects: the option, more than once, wins over the environment, that over the ini file."""
    source = "def test_passes(): pass"
    written = []
    cases = [
        (["--ds-report=a.md", "--ds-report=md:b,c.json"], {"PYTEST_DS_REPORT": "d.md"}),
        ([], {"PYTEST_DS_REPORT": "d.md"}),
        ([], {}),
    ]
    for number, (args, env) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        inner.write(folder, source)
        with (folder / "pytest.ini").open("a") as ini:
            ini.write("ds_report = e.md\n    f.html\n")
        assert inner.start(folder, *args, **env).wait(60) == 0
        own = {"pytest.ini", "test_passes.py", "output", "junit.xml", "__pycache__"}
        written.append({path.name for path in folder.glob("[!.]*")} - own)

    assert written == [{"a.md", "b", "c.json"}, {"d.md"}, {"e.md", "f.html"}]


def test_a_wrong_value_ends_the_session(inner_session, tmp_path):
    """Protects: a wrong value is one line of pytest's, and no test runs."""
    session = inner_session("def test_passes(): pass", args=["--ds-report=a.txt"])

    assert session.status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: --ds-report: unknown report 'a.txt': {_HELP}\n" in session.output


def test_what_cannot_be_written(inner_session, tmp_path):
    """Protects: a report that cannot be written is told at the end, and hinders no other."""
    source = """
        from pathlib import Path

        def test_takes_the_place():
            Path("out").write_text("a file where a directory should be")
    """
    session = inner_session(source, args=["--ds-report=out/a.html", "--ds-report=b.md"])

    assert session.status == 0
    assert (
        "deepspeed report not written: out/a.html: File exists: name another file,"
        " --ds-report=html:FILE\ndeepspeed report: b.md\n"
    ) in session.output
    assert (tmp_path / "b.md").read_text().startswith("## ✓ DeepSpeed: 1 passed\n")


def test_nothing_is_written_unasked(inner_session, tmp_path):
    """Protects: without the option there is no file, and none with ``--collect-only``."""
    inner_session("def test_passes(): pass", args=["--collect-only", "--ds-report=a.md"])

    assert not (tmp_path / "a.md").exists()


def test_an_old_report_is_replaced_whole(inner_session, tmp_path):
    """Protects: a report takes the place of an older one, with the mode of any new file."""
    old = tmp_path / "a.md"
    old.write_text("x" * 10_000)
    session = inner_session("def test_passes(): pass", args=["--ds-report=a.md"])
    Path(tmp_path / "new").write_text("")

    assert "x" * 100 not in old.read_text()
    assert old.stat().st_mode == (tmp_path / "new").stat().st_mode
    assert session.status == 0
    assert not list(tmp_path.glob(".a.md*"))
