"""Reads a compiled module's text: its collectives and its memory traffic, loops counted as often as they run.

XLA's own cost analysis counts the body of a loop once, so it is of no use for blocks that are scanned.
"""

import dataclasses
import functools
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0}
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
CONTROL = ("while", "conditional", "call", "fusion", "async-start")
CALLS = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=")
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "domain", "async-start", "async-update", "async-done"),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), rest`."""

    name: str
    shape: str
    opcode: str
    operands: tuple
    rest: str
    root: bool
    inside: str = ""  # what stands between its parentheses


def size(shape, fast=True):
    """Bytes of a shape or a tuple of them; without `fast`, of what lies in main memory alone: a TPU's S(1) does not."""
    total = 0
    for kind, dims, layout in ARRAY.findall(shape):
        if not fast and re.search(r"S\([1-9]", layout):
            continue
        total += _bytes(kind, dims)
    return int(total)


def _bytes(kind, dims):
    """Bytes of an array such as bf16 8,128."""
    bits = BITS.get(kind) or (8 if kind.startswith("f8") else int(re.sub(r"\D", "", kind) or 0))
    return math.prod(int(n) for n in dims.split(",") if n) * bits / 8


def parse(text):
    """A module's text -> ({computation: [Instruction]}, the entry's name)."""
    found, entry, current = {}, None, None
    for line in text.splitlines():
        if line.endswith("{") and ("->" in line) and not line.startswith(" "):
            words = line.split()
            current = words[1] if words[0] == "ENTRY" else words[0]
            entry = current if words[0] == "ENTRY" else entry
            found[current] = []
        elif line.startswith("}"):
            current = None
        elif current and " = " in line and (one := _instruction(line)):
            found[current].append(one)
    if entry is None:
        raise ValueError("The compiled module's text has no entry computation.")
    return found, entry


def _instruction(line):
    left, right = line.strip().split(" = ", 1)
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].lstrip()
    if not (found := re.match(r"([\w\-]+)\(", rest)):
        return None
    close = _closing(rest, found.end() - 1)
    operands = tuple(re.findall(r"%[\w.\-]+", rest[found.end() : close]))
    return Instruction(
        left.split()[-1],
        shape,
        found[1],
        operands,
        rest[close + 1 :],
        left.startswith("ROOT "),
        rest[found.end() : close],
    )


def _closing(text, start):
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    return len(text) - 1


def _called(instruction):
    """Names of the computations that an instruction calls."""
    names = []
    for found in CALLS.finditer(instruction.rest):
        words = instruction.rest[found.end() :]
        names += re.findall(r"%[\w.\-]+", words[: words.index("}")] if words.startswith("{") else words.split(",")[0])
    return names


def trips(instruction, computations):
    """How often a while loop runs: as the compiler noted, or the integer that its condition compares with; else 1.

    Loops that JAX makes of `scan`, `map` and `fori_loop` count from 0 by 1.
    """
    if found := re.search(r'"known_trip_count":\s*\{"n":"(\d+)"', instruction.rest):
        return int(found[1])
    names = [x for x in _called(instruction) if f"condition={x}" in instruction.rest]
    names += [inner for name in names for one in computations.get(name, []) for inner in _called(one)]
    body = [one for name in names for one in computations.get(name, [])]
    integers = [
        int(one.inside) for one in body if one.opcode == "constant" and one.shape.startswith(("s32[]", "s64[]"))
    ]
    return max(integers, default=1)


def runs(computations, entry):
    """How often each computation runs in one call of the module, and of which fusions it is: ({name: times}, fused)."""
    times, fused = {entry: 1}, set()
    order = [entry]
    for name in order:
        for one in computations[name]:
            for inner in _called(one):
                if inner not in computations or one.opcode not in CONTROL:
                    continue  # how two numbers are summed or compared
                if one.opcode == "fusion" or name in fused:
                    fused.add(inner)
                if inner not in times:
                    order.append(inner)
                times[inner] = times.get(inner, 0) + times[name] * (
                    trips(one, computations) if one.opcode == "while" else 1
                )
    return times, fused


def collectives(text):
    """A module's collectives on one device: [{kind, count, bytes, group}], one for each kind and size of group.

    `bytes` are of the whole array once for each time it runs: what an all-gather gives, what others take. A TPU's
    compiler writes one that runs beside arithmetic three times, as its start, its middle and its end: a chain.
    """
    computations, entry = parse(text)
    times, _ = runs(computations, entry)
    found, chains = {}, set()
    for name, n in times.items():
        shapes = {one.name: one.shape for one in computations[name]}
        for one in computations[name]:
            kind = one.opcode.removesuffix("-start")
            chain = re.search(r'chain_id="(\d+)"', one.rest)
            if kind not in KINDS or chain and (kind, chain[1]) in chains:
                continue
            chains |= {(kind, chain[1])} if chain else set()
            group = group_size(one.rest)
            whole = sum(size(shapes.get(operand, "")) for operand in one.operands)
            whole *= group if kind == "all-gather" else 1
            kind = "reduce-scatter" if kind == "all-reduce" and "all-reduce-scatter" in name else kind
            row = found.setdefault((kind, group), {"kind": kind, "count": 0, "bytes": 0, "group": group})
            row["count"] += n
            row["bytes"] += n * whole
    return [found[key] for key in sorted(found)]


def group_size(rest):
    """Devices that a collective joins, from any of the forms in which replica groups are written; 1 if none is."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))?\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", found[2]))
    if "source_target_pairs={" in rest:
        pairs = rest.split("source_target_pairs={", 1)[1].split("}}")[0]
        return len(set(re.findall(r"\d+", pairs)))
    return 1


def traffic(text):
    """Bytes that one device reads from and writes to its main memory: what each instruction or fusion takes and gives.

    Of an array that is only sliced the slice counts, and of one that is updated in place the update.
    """
    computations, entry = parse(text)
    times, fused = runs(computations, entry)
    taken = functools.cache(lambda name: _taken(computations, name))
    total = 0
    for name, n in times.items():
        if name in fused or name.startswith("%async"):
            continue
        shapes = {one.name: one.shape for one in computations[name]}
        for one in computations[name]:
            if one.opcode in FREE or one.opcode.endswith("-done"):
                continue
            total += n * _moved(one, shapes, taken)
    return total


def _moved(one, shapes, taken):
    """Bytes that one instruction moves to and from main memory."""
    inputs = [size(shapes.get(operand, ""), fast=False) for operand in one.operands]
    output = size(one.shape, fast=False)
    match one.opcode:
        case "fusion" if called := _called(one):
            parts, given = taken(called[0])
            reads = sum(min(n, parts.get(i, n)) for i, n in enumerate(inputs))
            return reads + (min(output, given) if given is not None else output)
        case "dynamic-slice" | "slice" | "gather":
            return 2 * output
        case "dynamic-update-slice":
            return 2 * inputs[1]
        case "custom-call" if not one.operands:
            return 0
        case "slice-start":  # the tuple is (the source, the slice, a flag)
            slices = ARRAY.findall(one.shape)[len(inputs) : 2 * len(inputs)]
            return output - sum(inputs) + sum(_bytes(kind, dims) for kind, dims, _ in slices) * (sum(inputs) > 0)
        case "copy-start" | "all-gather-start" | "collective-permute-start":  # its tuple has the source too
            return output
    return sum(inputs) + output


def _taken(computations, name):
    """Of a fused computation: ({parameter: bytes}, bytes given), where these are less than the arrays' own."""
    body = computations.get(name, [])
    shapes = {one.name: one.shape for one in body}
    users = {}
    for one in body:
        for place, operand in enumerate(one.operands):
            users.setdefault(operand, []).append((one, place))
    parts = {}
    for one in body:
        if one.opcode == "parameter":
            parts[int(one.inside)] = _read(one.name, users, shapes, computations)
    given = None
    for one in body:
        if one.root:
            given = _written(one, {x.name: x for x in body}, shapes)
    return {i: n for i, n in parts.items() if n is not None}, given


def _read(name, users, shapes, computations):
    """Bytes read of an array inside a fusion; None where it is read whole."""
    total = 0
    for one, place in users.get(name, []):
        if one.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
            total += size(one.shape)
        elif one.opcode == "dynamic-update-slice" and place == 0:
            continue
        elif one.opcode in ("bitcast", "reshape"):
            if (inner := _read(one.name, users, shapes, computations)) is None:
                return None
            total += inner
        elif one.opcode == "fusion" and (called := _called(one)):
            inner = _taken(computations, called[0])[0].get(place)
            if inner is None:
                return None
            total += inner
        else:
            return None
    return total


def _written(root, body, shapes):
    """Bytes that a fusion's root writes, where it updates an array in place; None where it writes all of it."""
    while root.opcode in ("bitcast", "reshape") and root.operands and root.operands[0] in body:
        root = body[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return size(shapes.get(root.operands[1], ""))
    if root.opcode == "tuple":
        parts = [(_written(body[x], body, shapes), size(body[x].shape)) for x in root.operands if x in body]
        return sum(whole if part is None else part for part, whole in parts)
    return None
