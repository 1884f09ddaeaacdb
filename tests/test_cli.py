"""The command line: nothing is imported before a verb is chosen, and what goes wrong is told in one line."""

import errno
import json
import subprocess
import sys
from types import ModuleType

import pytest

from vla import cli
from vla.errors import UnderstudyError

HEAVY = {"torch", "numpy", "hydra", "omegaconf", "transformers", "mujoco", "lerobot", "rich", "argparse"}


@pytest.fixture
def verb(monkeypatch):
    """A call that makes its argument the ``main`` of a verb called ``fake``."""

    def register(main):
        module = ModuleType("fake_verb")
        module.main = main
        monkeypatch.setitem(sys.modules, "fake_verb", module)
        monkeypatch.setitem(cli.VERBS, "fake", cli.Verb("fake_verb:main", "does nothing", "vla fake"))

    return register


def raising(error):
    def main(argv):
        raise error

    return main


def test_help_lists_every_verb_with_its_example_and_imports_nothing_heavy(run_python):
    code = """
import json, sys
from vla.cli import run
run(["--help"])
sys.stderr.write(json.dumps(sorted(sys.modules)))
"""
    done = run_python(code)
    assert done.returncode == 0
    for name, verb in cli.VERBS.items():
        assert f"  {name} " in done.stdout
        assert verb.example.startswith(f"vla {name}")
        assert verb.example in done.stdout
    assert not HEAVY & set(json.loads(done.stderr))


@pytest.mark.parametrize("argv", [[], ["-h"], ["help"]])
def test_asked_for_nothing_it_shows_the_help(argv, capsys):
    assert cli.run(argv) == 0
    assert capsys.readouterr().out == cli.help_text()


def test_an_unknown_verb_names_the_nearest(capsys):
    assert cli.run(["trian"]) == 2
    assert capsys.readouterr().err == "vla: unknown verb 'trian'; did you mean 'train'?\n"


def test_the_installed_command_exits_with_the_code_and_no_traceback():
    done = subprocess.run([f"{sys.prefix}/bin/vla", "trian"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("name", "verb"), cli.VERBS.items(), ids=list(cli.VERBS))
def test_every_verb_is_a_function_that_explains_itself(name, verb, capsys):
    try:
        code = cli.run([*name.split(), "--help"])
    except SystemExit as stop:
        code = stop.code
    assert not code
    assert f"vla {name}" in capsys.readouterr().out


def test_a_verb_gets_the_arguments_after_it_and_gives_the_exit_code(verb):
    seen = []
    verb(lambda argv: seen.append(argv))
    assert cli.run(["fake", "a=1", "--long"]) == 0
    assert seen == [["a=1", "--long"]]
    verb(lambda argv: 3)
    assert cli.run(["fake"]) == 3


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UnderstudyError("no such\n  dataset"), 2, "vla fake: no such dataset"),
        (KeyboardInterrupt(), 130, "vla fake: stopped; what was finished is kept"),
        (OSError(errno.ENOSPC, "No space left on device", "a.mp4"), 2, "vla fake: disk full: "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "vla fake: disk full: "),
        (RuntimeError("writing weights: No space left on device"), 2, "vla fake: disk full: "),
    ],
)
def test_what_goes_wrong_outside_is_one_line(verb, capsys, error, code, line):
    verb(raising(error))
    assert cli.run(["fake"]) == code
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert told.count("\n") == 1


def test_a_full_disk_behind_another_error_is_seen(verb, capsys):
    def main(argv):
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "weights.bin")
        except OSError as error:
            raise RuntimeError("could not save") from error

    verb(main)
    assert cli.run(["fake"]) == 2
    assert "weights.bin" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake of ours"), OSError(errno.EACCES, "denied")])
def test_a_mistake_of_ours_keeps_its_traceback(verb, error):
    verb(raising(error))
    with pytest.raises(type(error)):
        cli.run(["fake"])


@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_reader_that_leaves_is_no_error(flags):
    code = "import sys, vla.cli; sys.stdin.read(); sys.argv = ['vla']; vla.cli.entry()"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, *flags, "-c", code], **streams)
    child.stdout.close()
    child.stdin.close()
    told = child.stderr.read()
    assert (child.wait(), told) == (141, b"")


def test_a_broken_pipe_to_a_worker_is_not_hidden(verb, monkeypatch):
    verb(raising(BrokenPipeError(errno.EPIPE, "worker died")))
    monkeypatch.setattr(sys, "argv", ["vla", "fake"])
    with pytest.raises(BrokenPipeError):
        cli.entry()


def test_our_progress_is_logged_and_libraries_are_quiet(run_python):
    code = """
import logging, sys, types
from vla import cli
def main(argv):
    logging.getLogger("policies.train").info("epoch 1")
    logging.getLogger("httpx").info("GET")
sys.modules["fake"] = types.SimpleNamespace(main=main)
cli.VERBS["fake"] = cli.Verb("fake:main", "", "")
cli.run(["fake"])
"""
    told = run_python(code).stderr
    assert told.endswith("policies.train: epoch 1\n")
    assert told.count("\n") == 1
