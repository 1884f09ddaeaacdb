"""The operator's word: heard by every arm that should hear it, and by no other."""

import os
import socket
from time import time

import pytest

from robot_bridge import orders
from robot_bridge.orders import SOCKET, OrderSocket, addressed, give_order, listening_runs, main
from vla.errors import UnderstudyError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """``runs(name)``: a run that listens."""
    monkeypatch.setattr(orders, "runs_folder", lambda: tmp_path)
    made = []

    def make(name):
        folder = tmp_path / f"understudy-run-{name}"
        folder.mkdir()
        made.append(OrderSocket(folder))
        return folder, made[-1]

    yield make
    for one in made:
        one.close()


def killed(folder, *, age_s=10.0):
    """What a run leaves that had no time to tidy up."""
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(folder / SOCKET))
    os.utime(folder / SOCKET, (time() - age_s,) * 2)
    return folder


def test_what_is_no_order_is_dropped(runs):
    folder, heard = runs("one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        for word in (b"", b"stop ", b"STOP", b"\xff\x00", b"arm" * 1000, b"stop", b"stopstop", b"arm"):
            made.sendto(word, str(folder / SOCKET))
    assert heard.read() == ["stop", "arm"]
    assert heard.read() == []
    with pytest.raises(UnderstudyError, match="an order is"):
        give_order(folder, "jump")


def test_the_socket_is_its_owners_alone(runs):
    folder, heard = runs("one")
    assert (folder / SOCKET).stat().st_mode & 0o077 == 0
    heard.close()
    with pytest.raises(UnderstudyError, match="nobody listens"):
        give_order(folder, "stop")


def test_stop_goes_to_every_run(runs, capsys):
    heard = [runs(name)[1] for name in ("one", "two", "three")]
    assert main(["stop"]) == 0
    assert [one.read() for one in heard] == [["stop"]] * 3
    assert capsys.readouterr().out.count("said stop to understudy-run-") == 3


@pytest.mark.parametrize("word", ["arm", "reset"])
def test_what_moves_an_arm_goes_to_the_only_run_or_to_the_one_that_is_named(runs, word):
    folder, first = runs("one")
    assert main([word]) == 0
    assert first.read() == [word]
    _, second = runs("two")
    with pytest.raises(UnderstudyError, match=r"2 runs .* --run"):
        main([word])
    assert first.read() == second.read() == []
    assert main([word, "--run", str(folder)]) == 0
    assert (first.read(), second.read()) == ([word], [])


def test_runs_that_were_killed_are_skipped_and_swept_away(runs, tmp_path):
    dead = killed(tmp_path / "understudy-run-zz")
    folder, heard = runs("one")
    assert main(["arm"]) == 0
    assert heard.read() == ["arm"]
    assert listening_runs() == [folder]
    assert not dead.exists()


def test_a_run_that_is_just_being_made_is_not_swept_away(runs, tmp_path):
    young = killed(tmp_path / "understudy-run-young", age_s=0.0)
    assert listening_runs() == []
    assert young.exists()
    with pytest.raises(UnderstudyError, match="no run is under way"):
        addressed("stop")


def test_folders_of_others_are_left_alone(runs, tmp_path, monkeypatch):
    runs("one")
    dead = killed(tmp_path / "understudy-run-dead")
    elsewhere = killed(tmp_path / "elsewhere")
    (tmp_path / "understudy-run-link").symlink_to(elsewhere)
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert listening_runs() == []
    assert dead.exists()
    monkeypatch.undo()
    monkeypatch.setattr(orders, "runs_folder", lambda: tmp_path)
    assert [folder.name for folder in listening_runs()] == ["understudy-run-one"]
    assert elsewhere.exists()
    assert not dead.exists()


def test_one_run_that_does_not_hear_keeps_no_other_from_hearing(runs, monkeypatch):
    deaf, _ = runs("deaf")
    _, heard = runs("one")
    say = orders.give_order

    def full(folder, word):
        if folder == deaf:
            raise UnderstudyError(f"nobody listens in {folder}: Resource temporarily unavailable")
        say(folder, word)

    monkeypatch.setattr(orders, "give_order", full)
    with pytest.raises(UnderstudyError, match="nobody listens"):
        main(["stop"])
    assert heard.read() == ["stop"]
