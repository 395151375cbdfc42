"""Prints the page of a rule: ``python -m pytest_deepspeed.explain DS101``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_deepspeed.configs import lint  # noqa: F401 (fills RULES)
from pytest_deepspeed.configs.lightning import rules  # noqa: F401 (fills SCRIPT_RULES)
from pytest_deepspeed.configs.rule import RULES, SCRIPT_RULES, Rule

#: Where the pages are in an installed package, and in a clone.
_PAGES = (Path(__file__).with_name("pages"), Path(__file__).parents[1] / "docs" / "rules")


def page(rule: Rule) -> str:
    """The text of a rule's page, which a package and a clone have.

    Raises:
        FileNotFoundError: neither is there.
    """
    name = Path(rule.page).name
    found = next((folder / name for folder in _PAGES if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"the page {name} is not installed with pytest_deepspeed")
    return found.read_text(encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """The command line; 2 for a rule that there is not."""
    known = RULES | SCRIPT_RULES
    unknown = [name for name in arguments if name not in known]
    if unknown or not arguments:
        wrong = f"there is no rule {', '.join(unknown)}; " if unknown else ""
        sys.stderr.write(f"{wrong}usage: python -m pytest_deepspeed.explain DS101 ...\n")
        return 2
    sys.stdout.write("\n".join(page(known[name]) for name in arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
