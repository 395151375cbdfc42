"""What the docs show, taken apart: files, commands with their output, excerpts of output.

- A ``python``, ``json``, ``toml`` or ``ini`` block that begins with ``# name`` is a file of it.
- ``<!-- file name: path -->`` is a file too: one of the repository, under that name.
- A ``console`` block has commands, ``$ command``, and the whole output of each. What follows the
  prompt ``(Pdb)`` is typed.
- A ``text`` block is an excerpt: lines in a row from the output of one of the page's commands.

Files are there from the start; on a page that says ``<!-- a tutorial -->`` from where they stand.

In shown output ``...`` stands for any text. Numbers that differ from run to run (those with a
point, milliseconds, rates, process ids) are compared as numbers only. A block that is not run says
why in the line above: ``<!-- not run: reason -->``.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import inner

from pytest_deepspeed.processes.ops import cache_dir

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+) -->\n)?"
    r"^```(?P<language>\w*)\n(?:(?P<name># \S+\.(?:py|ini|json|toml))\n)?(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

_VOLATILE = (
    (r" \(\d+:\d\d:\d\d\)", ""),  # a session of more than a minute
    (r"\d+(\.\d+)+", "N"),
    (r"\d+ ms\b", "N ms"),
    (r"[\d,]+ images/s", "N images/s"),
    (r"(-> N +)\d+( +N s)", r"\1N\2"),  # samples/s of the table
    (r"\(pid \d+\)", "(pid N)"),
    (r"0x[0-9a-f]+", "0xN"),
    (r"([=_>-])\1{3,}", r"\1\1\1\1"),  # rules are as wide as the terminal
    (r" +", " "),
    (r" +$", ""),
    (r"\(Pdb\) ?", "(Pdb)"),
)


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, file name, text, and why it is not run."""

    where: str
    language: str
    name: str
    text: str
    reason: str

    def commands(self):
        """Each command with the output that is shown below it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, shown = re.fullmatch(r"((?:.*\\\n)*.*)\n((?s:.*))", part).groups()
            yield command, shown


def blocks(page):
    """The fenced blocks of a page."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        name = (match["name"] or "").removeprefix("# ")
        yield Block(
            where=f"{page.relative_to(ROOT)}:{line}",
            language=match["language"],
            name=name,
            # The line with the name stays, so that line numbers in shown output are the reader's.
            text=(f"{match['name']}\n" if name.endswith(("py", "ini", "toml")) else "")
            + match["text"],
            reason=match["reason"] or "",
        )


def copy_files(page, folder):
    """Puts there what a page takes from the repository."""
    for name, path in re.findall(r"^<!-- file (\S+): (\S+) -->$", page.read_text(), re.MULTILINE):
        folder.joinpath(name).write_text((ROOT / path).read_text())


def is_tutorial(page):
    """Whether a page is read from its start to its end, and files come as it goes."""
    return "<!-- a tutorial -->" in page.read_text()


def run(command, typed, folder):
    """What a person sees who types the command, and then ``typed``, in ``folder``."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=inner.environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # pytest-randomly and pytest-asyncio are here for other tests.
            PYTEST_ADDOPTS="-p no:randomly -p no:asyncio",
            # DeepSpeed's own builds, in what torchrun starts, go where the agent's are.
            TORCH_EXTENSIONS_DIR=str(cache_dir("cpu")),
        ),
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    return done.stdout


def typed(shown):
    """What is typed at the prompts of shown output, and that output as a pipe gets it."""
    return (
        "".join(re.findall(r"^\(Pdb\) (.*\n)", shown, re.MULTILINE)),
        re.sub(r"^\(Pdb\) .*\n", "(Pdb) ", shown, flags=re.MULTILINE),
    )


def plain(text):
    """Without what differs from run to run."""
    for pattern, replacement in _VOLATILE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def pattern(shown):
    """What matches the output that is shown, with ``...`` for any text."""
    return re.escape(plain(shown)).replace(r"\.\.\.", "(?s:.*?)")
