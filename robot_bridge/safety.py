"""The last thing between a policy and a motor: an action is either inside its bounds or it is not sent."""

import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError
from vla.types import ActionSpec


def governed(action: NDArray[np.float32], spec: ActionSpec) -> NDArray[np.float32]:
    """``action`` [A] clipped to ``spec.low``…``spec.high``.

    Raises `UnderstudyError` for NaN, infinity or a wrong length: such an action is refused, never repaired.
    """
    if action.shape != (spec.dim,):
        raise UnderstudyError(f"an action must have {spec.dim} entries ({', '.join(spec.names)}), got {action.shape}")
    if not np.isfinite(action).all():
        bad = [name for name, value in zip(spec.names, action, strict=True) if not np.isfinite(value)]
        raise UnderstudyError(f"the action is not finite in {', '.join(bad)}: it was not sent")
    return np.clip(action, spec.low, spec.high).astype(np.float32)
