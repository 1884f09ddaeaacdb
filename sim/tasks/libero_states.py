"""LIBERO's initial states, read from the files of its package without running what stands in them.

They were written by `torch.save`: a zip with a pickle that makes one NumPy array. Unpickling runs a program of the
file's choosing; so the steps of that program are only listed here and compared with those that make an array of
float64, and the shape and the bytes are taken from among them.
"""

import pickletools
import zipfile
from pathlib import Path

import numpy as np

from vla.errors import UnderstudyError

_BUILDERS = ["numpy.core.multiarray _reconstruct", "numpy ndarray", "_codecs encode", "numpy dtype"]
_BEFORE_THE_BYTES = ["b", "latin1", "f8", "<"]
# fmt: off
_STEPS = [
    "PROTO", "GLOBAL", "GLOBAL", "BININT1", "TUPLE1", "GLOBAL", "BINUNICODE", "BINUNICODE", "TUPLE2", "REDUCE",
    "TUPLE3", "REDUCE", "MARK", "BININT1", "INT", "INT", "TUPLE2", "GLOBAL", "BINUNICODE", "NEWFALSE", "NEWTRUE",
    "TUPLE3", "REDUCE", "MARK", "BININT1", "BINUNICODE", "NONE", "NONE", "NONE", "BININT", "BININT", "BININT1",
    "TUPLE", "BUILD", "NEWFALSE", "BINGET", "BINUNICODE", "BINGET", "TUPLE2", "REDUCE", "TUPLE", "BUILD", "STOP",
]
# fmt: on
_ROWS, _COLUMNS = 14, 15  # the steps that name the shape


def initial_states(path: Path) -> np.ndarray:
    """[N, 1 + nq + nv] float64, MuJoCo states as robosuite flattens them; raises `UnderstudyError` for another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            steps = [
                (step.name, given)
                for step, given, _ in pickletools.genops(archive.read(name))
                if "PUT" not in step.name
            ]
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise UnderstudyError(f"{path} holds no initial states of LIBERO: {problem}") from problem
    words = [given for step, given in steps if step == "BINUNICODE"]
    alike = len(steps) == len(_STEPS) and all(
        step == wanted or (wanted == "INT" and step in ("BININT1", "BININT2"))
        for (step, _), wanted in zip(steps, _STEPS, strict=True)
    )
    if not alike or words[:4] != _BEFORE_THE_BYTES or [given for step, given in steps if step == "GLOBAL"] != _BUILDERS:
        raise UnderstudyError(f"{path} holds something else than one array of float64: it is not read")
    states = np.frombuffer(words[4].encode("latin1"), "<f8")
    shape = (steps[_ROWS][1], steps[_COLUMNS][1])
    if states.size != np.prod(shape):
        raise UnderstudyError(f"{path} is cut off: {states.size} numbers for a shape of {shape}")
    return states.reshape(shape)
