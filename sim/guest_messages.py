"""What a suite in another process is asked, and what it answers: JSON, and arrays behind it as they lie in memory.

    send(wire, {"do": "step"}, action)
    told, arrays = receive(wire)             # {"steps": 1, …}, [the arrays that came behind]

Nothing is pickled. `multiprocessing.connection.Connection` frames the messages. A step takes 0.2 ms more than in one
process, two pictures of 256 pixels a side 1 ms, of the 60 that rendering them takes: shared memory would save little,
and would have to be cleared up after those who die.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sim.suite import SuiteSpec
from vla.types import CameraSpec, action_spec_from_dict

Told = dict[str, Any]


def send(wire: Connection, told: Mapping[str, Any], *arrays: np.ndarray) -> None:
    """Send plain JSON types, and arrays of numbers behind them; raises `OSError` where nobody listens any more."""
    arrays = tuple(np.ascontiguousarray(array) for array in arrays)
    shapes = [[array.dtype.str, *array.shape] for array in arrays]
    wire.send_bytes(json.dumps({**told, "arrays": shapes}).encode())
    for array in arrays:
        wire.send_bytes(array.reshape(-1).view(np.uint8))


def receive(wire: Connection) -> tuple[Told, list[np.ndarray]]:
    """The next message; raises `EOFError` where the other side has gone."""
    told = json.loads(wire.recv_bytes())
    arrays = [np.empty(shape, dtype) for dtype, *shape in told.pop("arrays")]
    for array in arrays:
        wire.recv_bytes_into(array.reshape(-1).view(np.uint8))
    return told, arrays


def spec_to_json(spec: SuiteSpec) -> Told:
    """Plain JSON types; `spec_from_json` turns them back."""
    return asdict(spec)


def spec_from_json(told: Mapping[str, Any]) -> SuiteSpec:
    """The inverse of `spec_to_json`."""
    return SuiteSpec(
        **{
            **told,
            "action": action_spec_from_dict(told["action"]),
            "cameras": tuple(CameraSpec(**camera) for camera in told["cameras"]),
            "proprio_names": tuple(told["proprio_names"]),
        }
    )
