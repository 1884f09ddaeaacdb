"""Clients as the other projects' own ones speak, for servers that are to serve them."""

import io
from dataclasses import replace

import msgpack
import numpy as np
import zmq
from robot_bridge_toys import SPEC

WIDE = replace(SPEC, action=replace(SPEC.action, low=(-1e10,) * 3, high=(1e10,) * 3))
"""The toy's bounds, wide enough for what it says: what it saw, the seed, how many letters it was told."""


def pack_npy(value):
    """Arrays as GR00T up to N1.6 sends them."""
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    raise TypeError(type(value))


def pack_nd(value):
    """Arrays as GR00T N1.7 sends them."""
    if isinstance(value, np.ndarray):
        return {b"nd": True, b"type": value.dtype.str, b"kind": b"", b"shape": value.shape, b"data": value.tobytes()}
    raise TypeError(type(value))


def unpacked(found):
    """Either kind of array, and a modality's config as its content."""
    if found.get("__ndarray_class__"):
        return np.load(io.BytesIO(found["as_npy"]), allow_pickle=False)
    if found.get(b"nd"):
        return np.ndarray(found[b"shape"], found[b"type"], found[b"data"])
    return found["as_json"] if "__ModalityConfig_class__" in found else found


class Gr00tClient:
    """One REQ socket: what is asked is answered, or the test fails after ten seconds."""

    def __init__(self, address, *, token=None, pack=pack_npy):
        self.token, self.pack = token, pack
        self.socket = zmq.Context.instance().socket(zmq.REQ)
        self.socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def raw(self, data):
        self.socket.send(data)
        return self.socket.recv()

    def call(self, endpoint, data=None):
        request = {"endpoint": endpoint} | ({} if data is None else {"data": data})
        request |= {"api_token": self.token} if self.token else {}
        answer = msgpack.unpackb(self.raw(msgpack.packb(request, default=self.pack)), object_hook=unpacked)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def get_action(self, observation):
        return self.call("get_action", {"observation": observation, "options": None})
