"""Constants of TFLite flatbuffers, read as data: no operator is run, and TensorFlow is not needed.

Format: FlatBuffers' binary (little-endian tables of offsets) and tensorflow/lite/schema/schema.fbs, version 3. Every
offset and length is checked against the file before it is followed.
"""

import collections
import math
import pathlib
import struct

import numpy as np

TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1", 10: "<f8"}  # TensorType
MODEL = {"version": 0, "subgraphs": 2, "buffers": 4}  # places of fields in their tables
TENSOR = {"shape": 0, "type": 1, "buffer": 2, "name": 3, "quantization": 4}
QUANTIZATION = {"scale": 2, "zero_point": 3, "axis": 6}
SHARED = 16  # a damaged file may let its tensors share bytes; more output than so many times its size is refused


def load(path):
    """{tensor name: array} of a .tflite file's constants; quantised ones as float32 by their scales and zero points.

    A name that comes again is followed by "#1", "#2", ... ValueError, in one sentence, for another or a damaged file.
    """
    data = pathlib.Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path} is not a TFLite file: it does not begin with the mark TFL3.")
    try:
        return _constants(data)
    except (struct.error, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is a damaged TFLite file: {error}.") from error


def _constants(data):
    """{tensor name: array} of a whole file's bytes."""
    model = _follow(data, 0)
    if (version := _number(data, model, MODEL["version"], "<I")) != 3:
        raise ValueError(f"its schema has version {version}, not 3")
    buffers = [_bytes(data, buffer) for buffer in _tables(data, model, MODEL["buffers"])]
    found, again, total = {}, collections.Counter(), 0
    for graph in _tables(data, model, MODEL["subgraphs"]):
        for tensor in _tables(data, graph, 0):
            number = _number(data, tensor, TENSOR["buffer"], "<I")
            if number >= len(buffers):
                raise ValueError(f"a tensor lies in buffer {number} of {len(buffers)}")
            if not buffers[number].size:
                continue  # made when the net runs
            name = _vector(data, tensor, TENSOR["name"], "u1").tobytes().decode("utf-8", "replace")
            again[name] += 1
            name += f"#{again[name] - 1}" if again[name] > 1 else ""
            found[name] = _tensor(data, tensor, buffers[number], name)
            total += found[name].nbytes
            if total > SHARED * len(data):
                raise ValueError(f"its tensors are more than {SHARED} times its size")
    return found


def _tensor(data, tensor, values, name):
    """A tensor's array from the bytes of its buffer."""
    kind, shape = _number(data, tensor, TENSOR["type"], "<b"), _vector(data, tensor, TENSOR["shape"], "<i4")
    if kind not in TYPES:
        raise ValueError(f"{name} has the type {kind}, which is not numeric")
    kind, shape = np.dtype(TYPES[kind]), tuple(int(n) for n in shape)
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(values):
        raise ValueError(f"{name} of shape {shape} and type {kind.name} has {len(values)} bytes")
    array = np.frombuffer(values, kind).reshape(shape).astype(kind.newbyteorder("="))
    at = _place(data, tensor, TENSOR["quantization"])
    return array if at is None else _dequantised(data, _follow(data, at), array, name)


def _dequantised(data, table, array, name):
    """(array - zero point) * scale, both numbers or along an axis; as it is where there is no scale."""
    scale, zero = (_vector(data, table, QUANTIZATION[key], t) for key, t in (("scale", "<f4"), ("zero_point", "<i8")))
    if not scale.size or array.dtype.kind == "f":
        return array
    axis = _number(data, table, QUANTIZATION["axis"], "<i") if scale.size > 1 else 0
    zero = zero if zero.size else np.zeros(1, np.int64)
    if scale.size > 1 and not (0 <= axis < array.ndim and scale.size == array.shape[axis]):
        raise ValueError(f"{name} of shape {array.shape} has {scale.size} scales along axis {axis}")
    if zero.size not in (1, scale.size):
        raise ValueError(f"{name} has {scale.size} scales and {zero.size} zero points")
    along = [-1 if i == axis else 1 for i in range(array.ndim)]
    scale, zero = (v.reshape(along) if v.size > 1 else v.reshape(()) for v in (scale, zero))
    with np.errstate(over="ignore", invalid="ignore"):
        values = (array.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has scales that are not finite numbers or too large")
    return values


def _read(data, at, kind):
    """A number at a place of the file."""
    if at < 0:
        raise ValueError(f"an offset leads to {at}, before its beginning")
    return struct.unpack_from(kind, data, at)[0]


def _follow(data, at):
    """The place to which the offset at `at` leads."""
    return at + _read(data, at, "<I")


def _place(data, table, field):
    """The place of a table's field; None where it is left out."""
    fields = table - _read(data, table, "<i")
    size = _read(data, fields, "<H")
    offset = _read(data, fields + 4 + 2 * field, "<H") if 4 + 2 * field + 2 <= size else 0
    return table + offset if offset else None


def _number(data, table, field, kind):
    """A table's number; 0 where it is left out."""
    at = _place(data, table, field)
    return 0 if at is None else _read(data, at, kind)


def _vector(data, table, field, kind):
    """A table's vector of numbers; empty where it is left out."""
    at = _place(data, table, field)
    if at is None:
        return np.zeros(0, kind)
    at = _follow(data, at)
    count, begin = _read(data, at, "<I"), at + 4
    if begin + count * np.dtype(kind).itemsize > len(data):
        raise ValueError(f"a vector of {count} elements ends beyond it")
    return np.frombuffer(data, kind, count, begin)


def _tables(data, table, field):
    """Places of a table's tables."""
    at = _place(data, table, field)
    if at is None:
        return []
    at = _follow(data, at)
    offsets = _vector(data, table, field, "<u4")
    return [at + 4 + 4 * i + int(offset) for i, offset in enumerate(offsets)]


def _bytes(data, buffer):
    """A buffer's bytes; those of a file of more than 2 GB lie behind its tables."""
    if len(values := _vector(data, buffer, 0, "u1")):
        return values
    begin, size = (_number(data, buffer, field, "<Q") for field in (1, 2))
    if begin + size > len(data):
        raise ValueError(f"a buffer of {size} bytes ends beyond it")
    return np.frombuffer(data, "u1", size, begin) if begin > 1 else values
