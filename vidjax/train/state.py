"""What training changes, and how a checkpoint holds it."""

import flax.struct
import jax
import optax

from vidjax import averages


@flax.struct.dataclass
class State:
    """What one step changes: the step, the model's collections, the optimizer's state."""

    step: jax.Array
    variables: dict
    opt_state: optax.OptState


def restore(checkpoints, abstract):
    """The newest intact checkpoint's (state, step, meta), None if there is none."""
    restored = checkpoints.restore(bundle(abstract))
    if not restored:
        return None
    variables, rest, meta, step = restored
    variables, opt_state = averages.swap(variables, rest["opt_state"])
    return State(rest["step"], variables, opt_state), step, meta


def bundle(state):
    """A state as a checkpoint holds it: where parameters are averaged, the averages are its variables."""
    variables, opt_state = averages.swap(state.variables, state.opt_state)
    return {"variables": variables, "train": {"step": state.step, "opt_state": opt_state}}
