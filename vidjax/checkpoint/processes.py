"""What the processes of a run agree on: the worst outcome, one reading or one error, process 0's value."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from vidjax.checkpoint.errors import CheckpointError, Damaged


def worst(code):
    """The greatest of all processes' codes."""
    return code if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.array(code)).max())


def agree(read, folder, step, *args):
    """read(folder, step, *args), raising on every process if it raises on one: none waits for the others for ever."""
    error, found = None, None
    try:
        found = read(folder, step, *args)
    except CheckpointError as e:
        error = e
    code = worst(0 if error is None else 1 if isinstance(error, Damaged) else 2)
    if code:
        elsewhere = (Damaged, CheckpointError)[code - 1]
        raise error or elsewhere(f"checkpoint {step} in {folder} cannot be read by another process")
    return found


def from_main(value):
    """Process 0's value of a bool or int, on every process."""
    return value if jax.process_count() == 1 else type(value)(multihost_utils.broadcast_one_to_all(np.array(value)))
