"""Every command that the README shows can be given: the verb exists and its own parser takes the arguments."""

import argparse
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from vla import cli, config

REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
OTHERS = (
    *("policies/README.md", "policies/uva/README.md"),
    *("robot_bridge/retarget/README.md", "robot_bridge/foreign/README.md", "sim/README.md"),
)
PAGES = (README, *(REPO / page for page in OTHERS))
TEXT = "\n".join(page.read_text("utf-8") for page in PAGES if page.exists())


def commands(text: str) -> list[str]:
    """The lines of all ``bash`` blocks, continuation lines joined, prompts and comments taken off."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.startswith("#")]


VLA = [command for command in commands(TEXT) if command.startswith("vla ")]
MAKE = [command for command in commands(TEXT) if command.startswith("make ")]


class UnderstoodError(Exception):
    """The arguments were taken; the verb need not run."""


@pytest.fixture
def only_parse(monkeypatch):
    """A call that gives a verb its arguments and stops it once they have been taken."""
    parse, load = argparse.ArgumentParser.parse_args, config.load

    def parsed(self, *given, **options):
        raise UnderstoodError(parse(self, *given, **options))

    def loaded(*given, **options):
        raise UnderstoodError(load(*given, **options))

    def only_parse(command):
        _, *words = shlex.split(command, comments=True)
        verb = next(name for name in (" ".join(words[:2]), words[0]) if name in cli.VERBS)
        arguments = words[len(verb.split()) :]
        module, _, function = cli.VERBS[verb].target.partition(":")
        main = getattr(import_module(module), function)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        monkeypatch.setattr(f"{module}.load", loaded, raising=False)
        main(arguments)

    return only_parse


def test_the_fixture_tells_good_from_bad(only_parse):
    assert commands("```bash\n$ vla a \\\n  b\n\n# no\nmake c\n```\n```python\nx\n```\n") == ["vla a    b", "make c"]
    with pytest.raises(UnderstoodError):
        only_parse("vla train data=x # a comment")
    with pytest.raises(ValueError, match="unknown key 'polcy'"):
        only_parse("vla train data=x polcy=y")
    with pytest.raises(SystemExit):
        only_parse("vla compare --no-such-option")


@pytest.mark.xfail(not README.exists(), reason="README.md is not written yet", strict=False)
def test_the_readme_shows_commands():
    assert VLA
    assert any(command.startswith("make demo") for command in MAKE)


@pytest.mark.parametrize("command", VLA)
def test_every_command_is_understood(only_parse, command):
    with pytest.raises(UnderstoodError):
        only_parse(command)


@pytest.mark.parametrize("example", [verb.example for verb in cli.VERBS.values() if verb.example != "vla bench"])
def test_every_example_of_the_command_line_is_understood(only_parse, example):
    with pytest.raises(UnderstoodError):
        only_parse(example)


@pytest.mark.parametrize("command", MAKE)
def test_every_target_exists(command):
    subprocess.run(["make", "-n", *shlex.split(command, comments=True)[1:]], cwd=REPO, check=True, capture_output=True)
