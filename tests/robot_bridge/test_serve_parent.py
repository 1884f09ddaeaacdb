"""A server that another process has started for itself does not outlive it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import sys, time
from robot_bridge import serve
from toys import ToyBrain

def load(*given, **named):
    sys.stdout.write("loading\\n")
    sys.stdout.flush()
    time.sleep(float(sys.argv[1]))
    return ToyBrain()

serve.load_policy = load
serve.LOOK_S, serve.ENDING_S = 0.02, 1.0
if sys.argv[2] == "hangs":
    serve.PolicyServer.stop = lambda server: None
serve.PolicyServer._bind_really = serve.PolicyServer._bind

def bind(server, router):
    server._bind_really(router)
    sys.stdout.write("serving\\n")
    sys.stdout.flush()

serve.PolicyServer._bind = bind
serve.main(["nowhere", "--address", "tcp://127.0.0.1:0", "--with-parent", sys.argv[3]])
"""
PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:], str(os.getpid())]).wait()
"""


@pytest.fixture
def start():
    """``start(load_s, how)``: the parent; its output ends when both have gone."""
    made = []

    def parent(load_s, how):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        command = [sys.executable, "-c", PARENT, SERVER, str(load_s), how]
        made.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
        )
        return made[-1]

    yield parent
    for one in made:
        one.kill()
        one.communicate()


def said(parent, word):
    for line in parent.stdout:
        if word in line:
            return
    raise AssertionError(f"it never said {word}")


@pytest.mark.parametrize(
    ("load_s", "how", "at"),
    [(0.0, "well", "serving"), (60.0, "well", "loading"), (0.0, "hangs", "serving")],
    ids=["serving", "loading", "hanging"],
)
def test_killed_it_takes_its_server_with_it(start, load_s, how, at):
    parent = start(load_s, how)
    said(parent, at)
    with pytest.raises(subprocess.TimeoutExpired):
        parent.wait(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=15)
