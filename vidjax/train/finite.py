"""What a run does at a step whose loss or gradients are not finite: `config.on_nan` stop, skip or rollback.

The step's numbers are the same on every process, so all of them do the same.
"""

import json
import logging
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger("vidjax")
POLICIES = ("stop", "skip", "rollback")
IN_A_ROW = 6  # steps that are all not finite: then it is not their batches, and a rollback does not help


class NotFinite(ArithmeticError):
    """Step `step` is to be passed over from the newest checkpoint on."""

    def __init__(self, step):
        super().__init__(step)
        self.step = step


def guarded(step, cfg):
    """The training step; with on_nan "skip" one that is not finite changes nothing but the step's number."""
    if cfg.get("on_nan", "stop") != "skip":
        return step

    def skipping(state, batch, net=None):
        new, metrics = step(state, batch, net)
        good = jnp.all(jnp.array([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
        kept = jax.tree.map(lambda after, before: jnp.where(good, after, before), new, state)
        return kept.replace(step=new.step), metrics

    return skipping


class Passed:
    """The steps that a run passes over, remembered in `<workdir>/passed_over.json`."""

    def __init__(self, workdir):
        self.path, steps = os.path.join(workdir, "passed_over.json"), []
        if jax.process_index() == 0 and os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                steps = json.load(file)
        if jax.process_count() > 1:
            count = int(multihost_utils.broadcast_one_to_all(np.array(len(steps))))
            steps = multihost_utils.broadcast_one_to_all(np.array(steps or [0] * count, np.int32)) if count else []
        self.steps = {int(step) for step in steps}

    def __contains__(self, step):
        return step in self.steps

    def add(self, step):
        self.steps.add(step)
        if jax.process_index() == 0:
            with open(self.path + ".tmp", "w", encoding="utf-8") as file:
                json.dump(sorted(self.steps), file)
            os.replace(self.path + ".tmp", self.path)


def record(workdir, step, metrics, indices, source, policy):
    """Writes `nan_<step>.json` with the ids of the batch's videos, of all processes; returns its path."""
    if jax.process_count() > 1:
        indices = multihost_utils.process_allgather(np.asarray(indices)).ravel()
    path = os.path.join(workdir, f"nan_{step}.json")
    numbers = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
    ids = [source[int(i)]["id"] for i in dict.fromkeys(np.asarray(indices).tolist()) if i >= 0]
    if jax.process_index() == 0:
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            json.dump({"step": step, "on_nan": policy, "metrics": numbers, "videos": ids}, file, indent=2)
        os.replace(path + ".tmp", path)
    return path
