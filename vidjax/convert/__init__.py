"""Foreign checkpoints to vidjax variables: the one file that knows how other libraries store and name tensors."""

import re

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vidjax import models

TRANSFORMS = {  # name in a table: (rank of the reference's tensor, reference -> vidjax, its inverse)
    "oithw_to_thwio": (5, lambda x: x.transpose(2, 3, 4, 1, 0), lambda x: x.transpose(4, 3, 0, 1, 2)),
    "oihw_to_1hwio": (4, lambda x: x.transpose(2, 3, 1, 0)[None], lambda x: x[0].transpose(3, 2, 0, 1)),
    "oi_to_io": (2, lambda x: x.T, lambda x: x.T),
}


class ConvertError(ValueError):
    """A foreign checkpoint does not fit; the message is one sentence that lists the names."""


def from_reference(source, arch, state_dict):
    """Variables of `models.for_reference(source, arch, classes)` from the reference's tensors by name.

    The number of classes is the length of the head's bias, 0 of a net without one. ConvertError unless every tensor
    finds its place.
    """
    row = models.reference(source, arch)
    tensors = row["prepare"](state_dict) if "prepare" in row else state_dict
    for key in ("head", "stem"):
        if row.get(key, next(iter(tensors), None)) not in tensors:
            raise ConvertError(f"These are not weights of {source} {arch}: the tensor {row[key]!r} is missing.")
    model = models.for_reference(source, arch, len(tensors[row["head"]]) if "head" in row else 0)
    size, frames = row["preprocess"]["size"], row["preprocess"]["frames"]
    channels = tensors[row["stem"]].shape[1] if "stem" in row else 3
    example = row.get("input", (frames, size, size, channels))
    example = example(tensors) if callable(example) else example
    return convert(row["table"], tensors, models.shapes(model, models.batched(example)))


def convert(table, tensors, target):
    """{reference name: array} -> variables with the paths, shapes and dtypes of `target` (nested ShapeDtypeStructs).

    `table` is [(regex of the whole reference name, our path or None to drop it, transform)]; a transform is a key of
    TRANSFORMS, a triple like its values, or None.
    ConvertError unless every name matches exactly one rule, every leaf is filled exactly once and shapes agree.
    """
    leaves = traverse_util.flatten_dict(target, sep="/")
    unmatched, ambiguous, foreign, misshaped, sources = [], [], [], [], {}
    filled = {}
    for name, tensor in tensors.items():
        rules = [(rule, match) for rule in table if (match := re.fullmatch(rule[0], name))]
        if len(rules) != 1:
            (ambiguous if rules else unmatched).append(name)
            continue
        (_, path, transform), match = rules[0]
        if path is None:
            continue
        path = match.expand(path)
        sources.setdefault(path, []).append(name)
        if path not in leaves:
            foreign.append(f"{name} -> {path}")
            continue
        filled[path], problem = _fit(np.asarray(tensor), transform, leaves[path])
        misshaped += [f"{name} -> {path} {problem}"] if problem else []
    problems = {
        "names that no rule matches": unmatched,
        "names that several rules match": ambiguous,
        "names whose parameter the model lacks": foreign,
        "parameters filled more than once": [f"{p} from {' and '.join(n)}" for p, n in sources.items() if len(n) > 1],
        "tensors of another shape or kind": misshaped,
        "parameters left empty": sorted(leaves.keys() - sources.keys()),
    }
    if any(problems.values()):
        found = [f"{len(names)} {what} ({listed(names)})" for what, names in problems.items() if names]
        raise ConvertError(f"The tensors do not fit the model: {'; '.join(found)}.")
    return traverse_util.unflatten_dict(filled, sep="/")


def guess(tensors):
    """The (source, arch) of all references that tensors fit whole, by their names and shapes."""
    found, known = [], {}
    for (source, arch), row in models.references().items():
        try:
            own = row["prepare"](tensors) if "prepare" in row else tensors
        except (KeyError, ValueError, IndexError, AttributeError):  # another net's names
            continue
        key = id(row["table"]), row.get("prepare")
        if key not in known:
            rules = [re.compile(pattern) for pattern, *_ in row["table"]]
            known[key] = all(any(r.fullmatch(name) for r in rules) for name in own)
        head, classes = own.get(row.get("head")), row.get("classes")
        if known[key] and not (isinstance(classes, tuple) and head is not None and len(head) != len(classes)):
            try:
                from_reference(source, arch, {name: _stub(tensor) for name, tensor in tensors.items()})
            except (ValueError, TypeError, KeyError):  # one of the same names and other sizes
                continue
            found.append((source, arch))
    return found


def _stub(tensor):
    """A tensor of the same shape and type without its memory."""
    return np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)


def _fit(tensor, transform, leaf):
    """(a copy like `leaf`, '') or (None, what is wrong)."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return None, f"is {tensor.dtype}, not floating point"
    if transform is not None:
        rank, forward, _ = TRANSFORMS[transform] if isinstance(transform, str) else transform
        if tensor.ndim != rank:
            return None, f"has {tensor.ndim} axes, needs {rank}"
        tensor = forward(tensor)
    if tensor.shape != leaf.shape:
        return None, f"is {tensor.shape}, needs {leaf.shape}"
    return np.array(tensor, leaf.dtype, order="C"), ""


def listed(names, most=12):
    """The first names, comma separated, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
