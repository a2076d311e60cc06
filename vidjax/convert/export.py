"""Our variables as another library's file: the tables of the models' files, read backwards.

A rule of a table is a regex of the reference's name and a path of ours with the regex's groups in it. The path, with
the groups' own patterns put in, is a regex of ours, and what its groups match, put into the reference's pattern, is the
name. So a name is known only if all that varies in it stands in our path; a rule that leaves something open is refused.
"""

import pathlib
import re

import numpy as np
from flax import traverse_util

from vidjax import checkpoint, convert, models

COUNTED = ".running_var"  # PyTorch counts batches beside it


class ExportError(ValueError):
    """Variables that cannot be written as another library's; the message says why."""


def to_reference(source, arch, variables):
    """{reference name: array} of the net that `source` calls `arch`, from variables of `models.for_reference`.

    The inverse of `convert.from_reference`, equal to the last bit; counters of batches, which no result depends on,
    are 0. ExportError names what the reference has no place for, or why its names are not known.
    """
    row = models.reference(source, arch)
    if "prepare" in row and "restore" not in row:
        raise ExportError(f"{source} {arch} is read through a rearrangement that vidjax cannot undo.")
    found = invert(row["table"], variables, f"{source} {arch}")
    counts = [name.replace(COUNTED, ".num_batches_tracked") for name in found if name.endswith(COUNTED)]
    dropped = [pattern for pattern, path, _ in row["table"] if path is None]
    counts = [name for name in counts if any(re.fullmatch(pattern, name) for pattern in dropped)]
    found |= {name: np.zeros((), np.int64) for name in counts}
    if "constants" in row:
        found |= row["constants"](models.for_reference(source, arch, len(found[row["head"]])))
    return row["restore"](found) if "restore" in row else found


def invert(table, variables, what):
    """{reference name: array} by a table read backwards; ExportError names the leaves without a name, or with two."""
    found, lost, several, rules = {}, [], [], [rule for rule in table if rule[1] is not None]
    for path, value in traverse_util.flatten_dict(variables, sep="/").items():
        names = {name: rule for rule in rules if (name := name_of(*rule[:2], path))}
        if len(names) != 1:
            (several if names else lost).append(path)
            continue
        ((name, (_, _, transform)),) = names.items()
        value = np.asarray(value)
        if transform is not None:
            _, _, inverse = convert.TRANSFORMS[transform] if isinstance(transform, str) else transform
            value = inverse(value)
        found[name] = np.ascontiguousarray(value)
    if lost or several:
        kind, paths = ("has no place for", lost) if lost else ("has several names for", several)
        raise ExportError(f"{what} {kind} {convert.listed(paths)}: these variables are another net's.")
    return found


def name_of(pattern, template, path):
    """The reference's name of our `path` by one rule, or '' if the rule is not about it or leaves the name open."""
    parts = pieces(pattern)
    if parts is None:
        return ""
    groups = {key: inner for text, keys, inner in parts for key in keys}
    ours, seen = "", set()
    for literal, number, word in re.findall(r"([^\\]+)|\\(\d)|\\g<(\w+)>", template):
        key = number or word
        if not key:
            ours += re.escape(literal)
        elif key in seen:
            ours += f"(?P=g{key})"
        else:
            seen.add(key)
            ours += f"(?P<g{key}>{groups[key]})"
    match = re.fullmatch(ours, path)
    if not match or any(keys and not seen & set(keys) for _, keys, _ in parts):
        return ""
    name = "".join(text if not keys else match[f"g{min(seen & set(keys))}"] for text, keys, _ in parts)
    again = re.fullmatch(pattern, name)
    return name if again and again.expand(template) == path else ""


def pieces(pattern):
    """A regex as [(literal text, (), '') or ('', names of a group, its inner pattern)]; None if it is more than that.

    Groups go by their number and, if they have one, their name; there may be no groups in groups but (?:...).
    """
    parts, at, number = [], 0, 0
    while at < len(pattern):
        if pattern[at] == "(":
            end, depth = at, 0
            while True:
                depth += {"(": 1, ")": -1}.get(pattern[end], 0)
                end += 1
                if not depth:
                    break
            inner, number = pattern[at + 1 : end - 1], number + 1
            named = re.match(r"\?P<(\w+)>", inner)
            inner = inner[named.end() :] if named else inner
            if inner.startswith("?") or re.search(r"\((?!\?:)", inner) or pattern[end : end + 1] in tuple("?*+{"):
                return None
            parts.append(("", (str(number), *([named[1]] if named else [])), inner))
            at = end
        elif pattern[at] == "\\" and not pattern[at + 1].isalnum():
            parts.append((pattern[at + 1], (), ""))
            at += 2
        elif pattern[at] in "\\*+?[]{}|^$":
            return None
        else:  # a dot that is not escaped stands for itself in every table
            parts.append((pattern[at], (), ""))
            at += 1
    return parts


def write(source, arch, workdir, file, step=None):
    """Writes a run's weights as `file`, a .safetensors of the reference's names; -> number of tensors.

    ExportError if the run's model is not that net, or the file is there already.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ExportError("Writing .safetensors needs safetensors: pip install safetensors.") from error
    file = pathlib.Path(file)
    if file.exists():
        raise ExportError(f"{file} is already there; give another name or remove it.")
    variables, meta, _ = checkpoint.load_variables(workdir, step=step)
    row, built = models.reference(source, arch), meta["config"]["model"]
    if (built["name"], built["variant"]) != (row["model"], row["variant"]):
        raise ExportError(
            f"{workdir} holds {built['name']} {built['variant']}, and {source} {arch} is {row['model']} "
            f"{row['variant']}: give --as=SOURCE:ARCH of that net."
        )
    tensors = to_reference(source, arch, {key: variables[key] for key in ("params", "batch_stats") if key in variables})
    part = file.with_name(f".{file.name}.part")
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ExportError(f"Cannot write {file}: {error.strerror}; free space or choose another folder.") from error
    return len(tensors)
