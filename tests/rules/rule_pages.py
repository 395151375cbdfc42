"""The pages of the rules, taken apart: their bad and their good examples.

`python tests/rules/rule_pages.py > docs/rules/README.md` writes their index.

A ``json`` block below ``## Bad`` or ``## Good`` is a config. What `pyproject.toml` says of it
stands in the line above: ``<!-- settings: {"world_sizes": [3], "huggingface": true} -->``. A
``text`` block below a bad one is what the rule says of it. Of a rule about Lightning scripts, a
``python`` block is a script.
"""

import dataclasses
import json
import re
from pathlib import Path

from pytest_deepspeed.configs import known, lint, reading
from pytest_deepspeed.configs.lightning import lint as script_lint
from pytest_deepspeed.configs.lightning import reading as script_reading
from pytest_deepspeed.configs.rule import FAMILIES, RULES, SCRIPT_FAMILIES, SCRIPT_RULES
from pytest_deepspeed.configs.subject import Subject

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"(?:^<!-- settings: (?P<settings>\{[^\n]*\}) -->\n)?"
    r"^```json\n(?P<config>.*?)^```\n"
    r"(?:\n*^```text\n(?P<says>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Example:
    """A config of a page, with what is said of it."""

    text: str
    settings: dict
    says: str

    def problems(self, only=None):
        """What the rules find in it."""
        document = reading.parse(self.text)
        settings = dict(self.settings)
        if "world_sizes" in settings:
            settings["world_sizes"] = tuple(settings["world_sizes"])
        subject = Subject(document, Path("ds_config.json"), known.load(), **settings)
        return lint.lint(subject, only)

    @property
    def config(self):
        """It as a dict, which DeepSpeed takes too."""
        return reading.parse(self.text).data


_SCRIPT = re.compile(_BLOCK.pattern.replace("```json", "```python"), _BLOCK.flags)


@dataclasses.dataclass(frozen=True)
class ScriptExample:
    """A script of a page, with what is said of it."""

    text: str
    says: str

    def problems(self, only=None):
        """What the rules find in it."""
        try:
            script = script_reading.parse(self.text, Path("train.py"))
        except reading.Unreadable as error:
            return [script_lint.unreadable(error)]
        return script_lint.problems(script, only=only)


def page(rule_id):
    """The text of a rule's page."""
    return (ROOT / (RULES | SCRIPT_RULES)[rule_id].page).read_text()


def _section(rule_id, kind):
    found = re.search(rf"^## {kind}\n(.*?)(?=^## |\Z)", page(rule_id), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def script_examples(rule_id, kind):
    """The scripts below the heading ``Bad`` or ``Good``."""
    found = _SCRIPT.finditer(_section(rule_id, kind))
    return [ScriptExample(m["config"], m["says"] or "") for m in found]


def examples(rule_id, kind):
    """The examples below the heading ``Bad`` or ``Good``."""
    return [
        Example(m["config"], json.loads(m["settings"] or "{}"), m["says"] or "")
        for m in _BLOCK.finditer(_section(rule_id, kind))
    ]


def bad(rule_id, number=0):
    """A bad example, as the dict that DeepSpeed would have of it."""
    return examples(rule_id, "Bad")[number].config


def good(rule_id, number=0):
    """A good example, as the dict that DeepSpeed would have of it."""
    return examples(rule_id, "Good")[number].config


_INDEX = """\
# Rules

What `pytest` says of a DeepSpeed config without training under it: the test `schema` of
[a config file](../test-your-configs.md). An **error** fails it: DeepSpeed ignores, drops, rejects,
changes or deprecates what stands there. A *warning* is shown and green: a hazard, or style. Each
page has an example and the place in DeepSpeed's source; each rule is proved by a test against the
installed DeepSpeed, so that one whose reason is gone in a new release is found.

How to leave rules out, for a line, a file or a project, is
[told there](../test-your-configs.md#leave-rules-out).
"""


_OF_SCRIPTS = """\
# Rules about Lightning scripts

What is said of a script that makes a `DeepSpeedStrategy`, from its text alone; each rule is proved
by a test against the installed Lightning and DeepSpeed. The rules above judge the config that
Lightning makes of the strategy's literal arguments, or of the running strategy, with two
exceptions for what the script does not give and Lightning sets by itself. An error in that is not
shown, nor that DeepSpeed does not use it (DS6): no argument takes it away. Of the seven strategies
that have a name, `"deepspeed_stage_3_offload_nvme"` alone is warned of, for its swap directory
(DS704), its buffers (DS706) and resuming (DS904).

A comment leaves a rule out, in the line of a finding or on its own above it:
`# ds-ignore: PL101 (why)`.
"""


def index():
    """The text of the index of all rules."""
    configs, scripts = _tables("DS", FAMILIES, RULES), _tables("PL", SCRIPT_FAMILIES, SCRIPT_RULES)
    return "\n".join([_INDEX, *configs, _OF_SCRIPTS, *scripts])


def _tables(letters, families, rules):
    lines = []
    for digit, family in families.items():
        lines += [
            f"## {letters}{digit}: {family}",
            "",
            "| rule | | what it finds |",
            "|---|---|---|",
        ]
        for rule in sorted(rules.values(), key=lambda rule: rule.id):
            if rule.family == family:
                page = Path(rule.page).name
                severity = "**error**" if rule.severity == "error" else "*warning*"
                lines.append(f"| [{rule.id} {rule.name}]({page}) | {severity} | {rule.summary} |")
        lines.append("")
    return lines


if __name__ == "__main__":
    print(index(), end="")
