"""What an ini file of pytest's says to this plugin, read from its text."""

from __future__ import annotations

import configparser
import tomllib
from typing import Any

#: Sections, or tables, that pytest reads.
_SECTIONS = ("pytest", "tool:pytest")


def of_text(name: str, text: str) -> dict[str, Any]:
    """The keys that begin with ``ds_``, of a file with this name; empty where it cannot be read."""
    try:
        found = _of_toml(text) if name.endswith(".toml") else _of_ini(text)
    except (ValueError, configparser.Error):
        return {}
    return {key: value for key, value in found.items() if key.startswith("ds_")}


def _of_toml(text: str) -> dict[str, Any]:
    whole = tomllib.loads(text)
    tool = whole.get("tool", {}).get("pytest", {})
    return {**whole.get("pytest", {}), **tool, **tool.get("ini_options", {})}


def _of_ini(text: str) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return {k: v for section in _SECTIONS if section in parser for k, v in parser[section].items()}
