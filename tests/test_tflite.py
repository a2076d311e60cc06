"""The reader of TFLite files: a file built here byte by byte, quantisation by hand, damage in every byte."""

import struct

import numpy as np
import pytest

from vidjax.convert import tflite


def table(fields):
    """A table's bytes and the places of its offsets: {field: ("number", bytes) or ("offset", object)}."""
    return {"table": dict(sorted(fields.items()))}


def number(kind, value):
    return struct.pack(kind, value)


def vector(kind, values):
    return {"vector": np.asarray(values, kind).tobytes(), "count": len(values)}


def tables(*items):
    return {"tables": items}


def build(root):
    """FlatBuffers' bytes of nested tables, each object behind the one that points to it."""
    data = bytearray(b"\0\0\0\0TFL3")

    def put(item):
        data.extend(b"\0" * (-len(data) % 4))
        if "vector" in item:
            at = len(data)
            data.extend(struct.pack("<I", item["count"]) + item["vector"])
            return at
        if "tables" in item:
            at, items = len(data), item["tables"]
            data.extend(struct.pack("<I", len(items)) + b"\0" * 4 * len(items))
            for i, inner in enumerate(items):
                place = at + 4 + 4 * i
                struct.pack_into("<I", data, place, put(inner) - place)
            return at
        fields = item["table"]
        size, places = max(fields, default=-1) + 1, {}
        vtable = len(data)
        data.extend(b"\0" * (4 + 2 * size))
        data.extend(b"\0" * (-len(data) % 4))
        at = len(data)
        data.extend(struct.pack("<i", at - vtable))
        for field, value in fields.items():
            places[field] = len(data)
            data.extend(value if isinstance(value, bytes) else b"\0" * 4)
        lengths = (4 + 2 * size, len(data) - at)
        struct.pack_into(f"<HH{size}H", data, vtable, *lengths, *(places.get(i, at) - at for i in range(size)))
        for field, value in fields.items():
            if not isinstance(value, bytes):
                struct.pack_into("<I", data, places[field], put(value) - places[field])
        return at

    struct.pack_into("<I", data, 0, put(root))
    return bytes(data)


def tensor(name, shape, kind, buffer, **quantization):
    fields = {
        0: vector("<i4", shape),
        1: number("<b", kind),
        2: number("<I", buffer),
        3: vector("u1", list(name.encode())),
    }
    if quantization:
        kinds = {"scale": (2, "<f4"), "zero": (3, "<i8")}
        inner = {kinds[k][0]: vector(kinds[k][1], v) for k, v in quantization.items() if k in kinds}
        fields[4] = table(inner | {6: number("<i", quantization.get("axis", 0))})
    return table(fields)


def model(tensors, buffers, version=3):
    data = [table({0: vector("u1", list(b))} if b else {}) for b in buffers]
    graph = table({0: tables(*tensors)})
    return build(table({0: number("<I", version), 2: tables(graph), 4: tables(*data)}))


FLOATS = np.arange(6, dtype="<f4").reshape(2, 3)
BYTES = np.array([[-128, 0, 127], [1, 2, 3]], "i1")
TENSORS = [
    tensor("plain", (2, 3), 0, 1),
    tensor("rows", (2, 3), 9, 2, scale=[0.5, 2.0], zero=[0, 1], axis=0),
    tensor("columns", (2, 3), 9, 2, scale=[1.0, 2.0, 4.0], axis=1),
    tensor("one", (2, 3), 9, 2, scale=[0.25], zero=[-3]),
    tensor("integers", (6,), 9, 2),
    tensor("made when run", (4, 4), 0, 0),
    tensor("plain", (6,), 0, 1),
]
FILE = model(TENSORS, [b"", FLOATS.tobytes(), BYTES.tobytes()])


def load(tmp_path, data):
    path = tmp_path / "net.tflite"
    path.write_bytes(data)
    return tflite.load(path)


def test_constants_by_name(tmp_path):
    found = load(tmp_path, FILE)
    wanted = {
        "plain": FLOATS,
        "rows": np.array([[-64, 0, 63.5], [0, 2, 4]], np.float32),
        "columns": np.array([[-128, 0, 508], [1, 4, 12]], np.float32),
        "one": (BYTES.astype(np.float32) + 3) / 4,
        "integers": BYTES.reshape(6),
        "plain#1": FLOATS.reshape(6),
    }
    assert list(found) == list(wanted)
    for name, x in wanted.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is not a TFLite file"),
        (b"PK\3\4" * 9, "is not a TFLite file"),
        (FILE[:40], "is a damaged TFLite file"),
        (model(TENSORS, [b"", FLOATS.tobytes(), BYTES.tobytes()], version=4), "its schema has version 4, not 3"),
        (model([tensor("x", (2,), 0, 7)], [b""]), "a tensor lies in buffer 7 of 1"),
        (
            model([tensor("x", (2, 3), 0, 0)], [FLOATS.tobytes()[:-1]]),
            r"x of shape \(2, 3\) and type float32 has 23 bytes",
        ),
        (model([tensor("x", (-1,), 9, 0)], [b"a"]), r"x of shape \(-1,\)"),
        (model([tensor("x", (1,), 5, 0)], [b"text"]), "x has the type 5, which is not numeric"),
        (model([tensor("x", (6,), 9, 0, scale=[1, 2])], [BYTES.tobytes()]), "has 2 scales along axis 0"),
        (model([tensor("x", (6,), 9, 0, scale=[1], zero=[1, 2])], [BYTES.tobytes()]), "1 scales and 2 zero points"),
        (model([tensor("x", (6,), 9, 0, scale=[1])] * 900, [BYTES.tobytes()]), None),
        (model([tensor("x", (9999,), 9, 0, scale=[1])] * 99, [b"a" * 9999]), "more than 16 times its size"),
    ],
)
def test_damage_is_one_sentence(tmp_path, data, sentence):
    if sentence is None:  # many tensors of few bytes are not too many
        assert len(load(tmp_path, data)) == 900
        return
    with pytest.raises(ValueError, match=sentence) as error:
        load(tmp_path, data)
    assert str(error.value).startswith(str(tmp_path))


def sentence_or_none(tmp_path, data):
    """What a file is refused with; None where it is read."""
    try:
        load(tmp_path, data)
    except ValueError as error:
        return str(error)
    return None


def test_every_byte_may_be_wrong(tmp_path):
    """A file with one byte changed is read or refused in a sentence: nothing else escapes."""
    wrong = [FILE[:at] + bytes([value]) + FILE[at + 1 :] for at in range(len(FILE)) for value in (0, 0xFF)]
    sentences = [sentence_or_none(tmp_path, data) for data in wrong]
    refused = [sentence for sentence in sentences if sentence]
    assert all(sentence.startswith(str(tmp_path)) for sentence in refused)
    assert len(FILE) // 4 < len(refused) < len(wrong)


@pytest.mark.parametrize("size", range(8, len(FILE), 7))
def test_cut_short(tmp_path, size):
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path, FILE[:size])
