"""Files that are no configs: each is refused at once, in one clear sentence."""

import dataclasses
import json
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from pytest_deepspeed.configs import known, lint, reading
from pytest_deepspeed.configs.subject import Subject

pytestmark = pytest.mark.timeout(60)


def refusal(path):
    """What is said of a file, as an item shows it."""
    with pytest.raises(reading.Unreadable) as refused:
        reading.read(path)
    problem = lint.unreadable(refused.value)
    return f"{problem.line}:{problem.column}: {problem.rule} {problem.message}"


def refusal_of(tmp_path, content):
    """The same of a content, which is written to a file first."""
    path = tmp_path / "ds_config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return refusal(path)


# --- what is no file


@pytest.mark.parametrize("content", [r'{"\u-0e0": 1,}', r'{"a": "\u-0e0",}', r"{a: '\u-001'}"])
def test_an_escape_below_0(tmp_path, content):
    """Protects: an escape that hjson takes for a number below 0 is refused, and ends no session."""
    assert "a string holds a backslash that means nothing" in refusal_of(tmp_path, content)


def test_directory(tmp_path):
    """Protects: a directory with the name of a config is refused."""
    (tmp_path / "ds_config.json").mkdir()

    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS002 not-a-file: it is a directory, no file: DeepSpeed cannot read a config from it;"
        " put a file in its place, or give it another name"
    )


def test_fifo_is_not_waited_for(tmp_path):
    """Protects: a FIFO that nobody writes to is refused, where DeepSpeed would wait for ever."""
    os.mkfifo(tmp_path / "ds_config.json")

    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS002 not-a-file: it is a FIFO, no file: DeepSpeed cannot read a config from it;"
        " put a file in its place, or give it another name"
    )


def test_socket(tmp_path, monkeypatch):
    """Protects: a socket is refused."""
    monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("ds_config.json")

        assert refusal(Path("ds_config.json")) == (
            "1:1: DS002 not-a-file: it is a socket, no file: DeepSpeed cannot read a config from"
            " it; put a file in its place, or give it another name"
        )


def test_endless_device(tmp_path):
    """Protects: a link to a device that never ends is refused unread."""
    (tmp_path / "ds_config.json").symlink_to("/dev/zero")

    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS002 not-a-file: it is a device, no file: DeepSpeed cannot read a config from it;"
        " put a file in its place, or give it another name"
    )


# --- what cannot be opened


def test_link_to_nothing(tmp_path):
    """Protects: a link whose target is gone is told from a file that is gone."""
    (tmp_path / "ds_config.json").symlink_to("gone.json")

    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS001 unreadable-file: it is a link to gone.json, which is not there: DeepSpeed"
        " cannot open it; let the link name a config"
    )


def test_links_in_a_circle(tmp_path):
    """Protects: links that lead back to themselves are refused."""
    (tmp_path / "ds_config.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("ds_config.json")

    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS001 unreadable-file: it is a link to b.json, and the links lead in a circle:"
        " DeepSpeed cannot open it; let the link name a config"
    )


def test_file_that_is_gone(tmp_path):
    """Protects: a file that vanished since it was collected is a failing item, no crash."""
    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS001 unreadable-file: it is not there: DeepSpeed cannot open it; write it"
    )


def test_name_that_no_file_can_have(tmp_path):
    """Protects: a name with a NUL, or one that is too long, is refused as any other."""
    assert refusal(Path("a\0.json")) == (
        "1:1: DS001 unreadable-file: it cannot be opened (embedded null byte): DeepSpeed cannot"
        " open it; put a file in its place"
    )
    assert refusal(tmp_path / ("a" * 300)) == (
        "1:1: DS001 unreadable-file: it cannot be opened (File name too long): DeepSpeed cannot"
        " open it; put a file in its place"
    )


NOBODY = """
import os, sys
from pathlib import Path
from pytest_deepspeed.configs import lint, reading
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    reading.read(Path(sys.argv[1]))
except reading.Unreadable as refused:
    print(lint.unreadable(refused).message)
"""


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_no_permission(closed):
    """Protects: a file that the user may not read is refused; shown by a process of nobody's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "configs", "ds_config.json")
        path.parent.mkdir()
        path.write_text("{}")
        Path(folder).chmod(0o755)
        (path if closed == "file" else path.parent).chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", NOBODY, path], capture_output=True, text=True, check=True
        )
        path.parent.chmod(stat.S_IRWXU)

    assert done.stdout == (
        "unreadable-file: you may not read it: DeepSpeed cannot open it; let your user read it,"
        " with chmod or chown\n"
    )


# --- what is too much


def test_huge_file_is_not_read(tmp_path):
    """Protects: 100 MB are refused by their size alone."""
    path = tmp_path / "ds_config.json"
    path.touch()
    os.truncate(path, 100 * 2**20)

    assert refusal(path) == (
        "1:1: DS003 too-large: it has 100.0 MiB, and is not read: a config of DeepSpeed has some"
        " KiB; give what is no config another name"
    )


@pytest.mark.skipif(
    not os.access("/proc/kallsyms", os.R_OK) or Path("/proc/kallsyms").stat().st_size > 0,
    reason="needs /proc/kallsyms, a file that says it is empty and is not",
)
def test_size_that_lies(tmp_path):
    """Protects: no more is read than a config may have, whatever size the file says it has."""
    with Path("/proc/kallsyms").open("rb") as file:
        if len(file.read(reading.MAX_BYTES + 1)) <= reading.MAX_BYTES:
            pytest.skip("/proc/kallsyms is small here")
    (tmp_path / "ds_config.json").symlink_to("/proc/kallsyms")

    assert refusal(tmp_path / "ds_config.json") == (
        "1:1: DS003 too-large: it has more than 256 KiB, and is not read: a config of DeepSpeed has"
        " some KiB; give what is no config another name"
    )


@pytest.mark.parametrize(("opening", "column"), [("[", 106), ('{"a":', 506)])
def test_deep_nesting(tmp_path, opening, column):
    """Protects: 10,000 levels end in a sentence, not in a RecursionError."""
    assert refusal_of(tmp_path, '{"a":' + opening * 10_000) == (
        f"1:{column - 5 * (opening != '[') - (opening == '[')}: DS006 nested-too-deep: objects and"
        " lists are nested more than 100 deep, as no setting of DeepSpeed is: its reader ends in a"
        " RecursionError at some 490; take the needless ones away"
    )


def test_hundred_levels_are_read():
    """Protects: what DeepSpeed reads, is read: one hundred levels, the root included."""
    text = '{"a":' * 100 + "1" + "}" * 100

    assert len(reading.parse(text).spans) == 101
    assert len(reading.parse(text + "# relaxed").spans) == 101


_MANY = reading.MAX_BYTES


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "1" * (_MANY // 2) + "," * (_MANY // 2 - 3),
        "a: n" + "," * (_MANY - 4),
        "a: [" + "'''a''' " * (_MANY // 8 - 1) + "]\n",
        '{"a": "' + "\\" * (_MANY - 7),
        "{" + '"a":{"a":1},' * (_MANY // 12 - 1) + "}",
        '{"a":' + "[" * 98 + "1," * (_MANY // 2 - 200) + "1" + "]" * 98 + "}",
        "/*" * (_MANY // 2),
        "a" + " " * (_MANY - 2) + ":",
    ],
    ids=["digits", "commas", "multiline", "backslashes", "twice", "list", "comments", "blanks"],
)
def test_time_grows_with_the_size_alone(text):
    """Protects: no text within the limit takes minutes, as some do in hjson; see the timeout."""
    assert len(text) <= _MANY
    try:
        said = reading.parse(text).data
    except reading.Unreadable as refused:
        said = str(refused)

    assert said if isinstance(said, dict) else len(said) < 400


# --- what is no text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"a": "é"}'.encode("latin-1"),
            (
                "1:8: DS004 not-utf8: its byte 0xe9 is not UTF-8: DeepSpeed ends in a"
                " UnicodeDecodeError; save it as UTF-8"
            ),
        ),
        (
            '{\n"a": "é\xff"}'.encode() + b"\xff",
            (
                "2:11: DS004 not-utf8: its byte 0xff is not UTF-8: DeepSpeed ends in a"
                " UnicodeDecodeError; save it as UTF-8"
            ),
        ),
        (
            '{"a": 1}'.encode("utf-16"),
            (
                "1:1: DS004 not-utf8: it is UTF-16: DeepSpeed opens it as UTF-8, and ends in a"
                " UnicodeDecodeError; save it as UTF-8"
            ),
        ),
        (
            '{"a": 1}'.encode("utf-16-le"),
            (
                "1:2: DS004 not-utf8: it holds a NUL byte, as no text does: DeepSpeed"
                " reads something"
                " else than what you see; save it as UTF-8"
            ),
        ),
        (
            b'{"a": "\xed\xa0\x80"}',
            (
                "1:8: DS004 not-utf8: its byte 0xed is not UTF-8: DeepSpeed ends in a"
                " UnicodeDecodeError; save it as UTF-8"
            ),
        ),
        (
            b'{"a": 1,\n "b": "\0"}',
            (
                "2:8: DS004 not-utf8: it holds a NUL byte, as no text does: DeepSpeed"
                " reads something"
                " else than what you see; save it as UTF-8"
            ),
        ),
    ],
    ids=["latin1", "one-byte", "utf16", "utf16-without-mark", "surrogate", "nul"],
)
def test_other_encodings(tmp_path, content, message):
    """Protects: what is not UTF-8 is refused at the first such byte, wherever it stands."""
    assert refusal_of(tmp_path, content) == message


# --- what is no config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            (
                "1:1: DS009 empty-file: the file is empty: DeepSpeed misses the batch"
                " size, and ends in"
                ' an AssertionError; write {"train_micro_batch_size_per_gpu": 1}'
            ),
        ),
        (
            "# to do\n",
            (
                "1:1: DS009 empty-file: the file holds comments alone: DeepSpeed misses"
                " the batch size,"
                ' and ends in an AssertionError; write {"train_micro_batch_size_per_gpu": 1}'
            ),
        ),
        (
            '\n[{"stage": 3}]',
            (
                "2:1: DS008 not-an-object: the file is a list, no object: DeepSpeed ends in an"
                " AttributeError; write the settings in braces:"
                ' {"train_micro_batch_size_per_gpu": 1}'
            ),
        ),
        (
            "3",
            (
                "1:1: DS008 not-an-object: the file is a number, no object: DeepSpeed ends in a"
                ' TypeError; write the settings in braces: {"train_micro_batch_size_per_gpu": 1}'
            ),
        ),
        (
            "null",
            (
                "1:1: DS008 not-an-object: the file is null, no object: DeepSpeed ends in a"
                ' TypeError; write the settings in braces: {"train_micro_batch_size_per_gpu": 1}'
            ),
        ),
        (
            "see the wiki",
            (
                "1:1: DS008 not-an-object: the file is a text, no object: DeepSpeed ends in an"
                " AttributeError; write the settings in braces:"
                ' {"train_micro_batch_size_per_gpu": 1}'
            ),
        ),
        (
            '{"a": 1e400}',
            (
                "1:7: DS010 impossible-number: 1e400 is beyond what a float holds:"
                " DeepSpeed ends in an"
                " OverflowError; write a number below 1e308"
            ),
        ),
        (
            '{"a": ' + "9" * 4301 + "}",
            (
                f"1:7: DS010 impossible-number: {'9' * 40}... has more digits than Python reads:"
                " DeepSpeed ends in a ValueError; write a number below 1e308"
            ),
        ),
    ],
    ids=["empty", "comment", "list", "number", "null", "text", "1e400", "digits"],
)
def test_no_config(tmp_path, text, message):
    """Protects: a text that DeepSpeed has no settings from is refused with what it ends in."""
    assert refusal_of(tmp_path, text) == message


_TAKES_IN = "has no quotes, so that it takes in its line to the end"


@pytest.mark.parametrize(
    ("text", "place", "does", "instead"),
    [
        (
            '{\n"a": "x,\n"b": 1}',
            "2:9",
            "a string is not closed before its line ends",
            "write the missing quote",
        ),
        ('{"a', "1:2", "the string that begins here is never closed", 'write " at its end'),
        ('{"a": "\t"}', "1:8", r"a string holds the control character '\t'", "take it out"),
        (
            '{"a": "C:\\User"}',
            "1:11",
            "a string holds a backslash that means nothing",
            r"write \\ for a backslash",
        ),
        ('{"stage" 3}', "1:10", 'a ":" is expected behind the key, not 3}', 'write "key": value'),
        (
            '{\n "a": {"b": 1}\n',
            "3:1",
            'the file ends, and the "{" of line 1 is not closed',
            'write a "}"',
        ),
        (
            '{"a": [1, 2',
            "1:12",
            'the file ends, and the "[" of line 1 is not closed',
            'write a "]"',
        ),
        (
            '{"a": [1,\n2}',
            "2:2",
            '"}" comes before the "[" of line 1 is closed',
            'write "]" for it or before it',
        ),
        (
            '{"a": [1, "b": 2}',
            "1:14",
            '":" stands in a list: the "[" of line 1 is not closed',
            'write a "]" before the key',
        ),
        (
            '{"a": 1}}',
            "1:9",
            "the config is closed before this line goes on with }",
            'take that away, or a "}" before it',
        ),
        (
            '{"a": 1,, "b": 2}',
            "1:9",
            '"," stands where a key is expected',
            'write the key, or take "," away',
        ),
        (
            '{"a": }',
            "1:7",
            '"}" stands where a value is expected',
            'write the value, or take "}" away',
        ),
        ("{a b: 1}", "1:3", "a key holds a blank", "put the key in quotes, or a comma before it"),
        ('{"a": 1 /* x', "1:9", "what begins here is never closed with */", "write */ at its end"),
        ("{'a': True, 'b': 1}", "1:7", "the value True, 'b': 1} " + _TAKES_IN, "write true"),
        (
            '{"a": NaN}',
            "1:7",
            "the value NaN} " + _TAKES_IN,
            "put it in quotes, or write a number, true, false or null",
        ),
        ('{"a": 2 "b": 3}', "1:7", 'the value 2 "b": 3} ' + _TAKES_IN, "write 2,"),
        (
            '{\n<<<<<<< HEAD\n"a": 1\n=======\n',
            "2:8",
            "git left a merge conflict in it",
            "resolve the conflict",
        ),
    ],
)
def test_syntax_error(tmp_path, text, place, does, instead):
    """Protects: each common slip is named, at its place, with what to write instead."""
    assert refusal_of(tmp_path, text) == (
        f"{place}: DS005 syntax-error: DeepSpeed cannot read the file: {does}; {instead}"
    )


def test_line_of_a_syntax_error_is_shown():
    """Protects: the line is there to be shown; of a long one, the part around the column."""
    with pytest.raises(reading.Unreadable) as short:
        reading.parse('{"a": 1,\r\n  "b" 2\r\n}')
    with pytest.raises(reading.Unreadable) as long:
        reading.parse('{"a": "' + "x" * 500 + '", "b" 2, "c": "' + "y" * 500 + '"}')

    assert short.value.shown == '  "b" 2'
    assert len(long.value.shown) <= 121
    assert '"b" 2' in long.value.shown


def test_what_a_terminal_would_obey_is_escaped():
    """Protects: a message has no control characters and no lone surrogates from a file."""
    document = reading.parse(r'{"\u001b[31m\ud800\n": 1, "\u001b[31m\ud800\n": 2}')

    (problem,) = lint.lint(Subject(document, Path("ds_config.json"), known.load()), ["DS007"])

    assert problem.message == (
        r'duplicate-key: "\x1b[31m\ud800\n" is given more than once, on line 1: DeepSpeed ends in a'
        " ValueError; keep one of them"
    )


def test_escapes_in_a_file_that_cannot_be_read(tmp_path):
    """Protects: nor has the message of a file that is refused, nor its shown line."""
    (tmp_path / "ds_config.json").symlink_to(b"\x1b[2J\xff.json".decode(errors="surrogateescape"))

    assert refusal(tmp_path / "ds_config.json") == (
        r"1:1: DS001 unreadable-file: it is a link to \x1b[2J\udcff.json, which is not there:"
        " DeepSpeed cannot open it; let the link name a config"
    )
    with pytest.raises(reading.Unreadable) as refused:
        reading.parse('{"a" \x1b[2J}')
    assert refused.value.shown == '{"a" \ufffd[2J}'
    assert refused.value.does.isprintable()


# --- the rules on whatever can be read

_SEEDS = 2000
_ODD = [None, True, False, 0, -1, 1e308, 10**400, 2.5, "", "auto", "false", "nvme", "x\n", [], {}]
_ODD += [[[]], {"": {}}, {"stage": "3"}, [{"a": 1}], ["a", "b"], "\ud800", 10**4299, {"params": 3}]


def _config(seed, top):
    """A config of DeepSpeed's own keys, with values of which any may be nonsense."""
    draw = random.Random(seed)

    def block(path, depth):
        found = top.blocks.get(path)
        names = draw.sample(sorted(found.keys), min(len(found.keys), draw.randrange(7)))
        config = {name: value((*path, name), depth + 1) for name in names}
        if draw.random() < 0.2:
            config[draw.choice(["x", "", "Stage", "enabled", "params"])] = draw.choice(_ODD)
        return config

    def value(path, depth):
        if path in top.blocks and draw.random() < 0.8:
            return block(path, depth)
        return draw.choice([*_ODD, 1, 2, 3, "cpu", True, 1e-3, [0.9, 0.999], "AdamW"])

    return block((), 0)


@hypothesis.settings(max_examples=_SEEDS, deadline=None, database=None)
@hypothesis.given(st.integers(0, 2**63), st.sampled_from([(), (3,), (1, 2, 4)]), st.booleans())
def test_no_rule_ever_raises(seed, world_sizes, huggingface):
    """Protects: whatever stands in a config, the rules end with problems, not with an exception."""
    top = known.load()
    document = reading.parse(json.dumps(_config(seed, top), indent=2 if seed % 2 else None))
    subject = Subject(document, Path("ds_config.json"), top, world_sizes, huggingface=huggingface)

    problems = lint.lint(subject)
    on_cpu = lint.lint(dataclasses.replace(subject, device="cpu", nodes=2))

    assert all(problem.message.isprintable() for problem in (*problems, *on_cpu))


@pytest.mark.parametrize("value", _ODD, ids=[str(number) for number in range(len(_ODD))])
def test_no_rule_raises_for_an_odd_value_anywhere(value):
    """Protects: each key of DeepSpeed's may hold any odd value without an exception."""
    top = known.load()
    for path, block in top.blocks.items():
        for key in block.keys:
            config = {key: value}
            for name in reversed(path):
                config = {name: config}
            subject = Subject(reading.parse(json.dumps(config)), Path("ds_config.json"), top, (2,))

            assert isinstance(lint.lint(subject), list), textwrap.shorten(str(config), 200)
