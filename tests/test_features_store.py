"""Rows of features on disk: round trips of the formats, memory that does not grow, whole files or none."""

import json
import weakref

import numpy as np
import pytest

from vidjax.features import store

FORMATS = ("npz", "parquet", "array_record")
ABOUT = {"layers": ["layer4", "tokens"], "weights": "0123"}


def pieces(count=5, rows=(3, 1, 4), seed=0):
    """Pieces of rows with every kind of column: texts that are no ASCII, whole numbers, floats, one and more axes."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = rows[i % len(rows)]
        yield {
            "id": np.array([f"clip {i} \u00e9\U0001f3a5" + "x" * i] * n),
            "label": rng.integers(-1, 5, n),
            "several": rng.integers(0, 2, (n, 3)).astype(np.int8),
            "start": rng.random(n, np.float32),
            "layer4": rng.standard_normal((n, 6), np.float32),
            "tokens": rng.standard_normal((n, 2, 3, 4), np.float32),
            "norm": rng.standard_normal((n,), np.float32),
        }


def whole(rows):
    return store.joined(list(rows))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("block", "shard"), [(1, 1), (300, 500), (1 << 20, 1 << 20)])
def test_what_was_written_is_read_bit_for_bit(tmp_path, monkeypatch, form, block, shard):
    monkeypatch.setattr(store, "BLOCK", block)
    monkeypatch.setattr(store, "SHARD", shard)
    manifest = store.save(tmp_path, "set", pieces(), ABOUT, form)
    assert manifest == store.manifest_of(tmp_path, "set")
    assert manifest["rows"] == sum(one["rows"] for one in manifest["files"]) == 3 + 1 + 4 + 3 + 1
    assert manifest["columns"]["tokens"] == {"dtype": "float32", "shape": [2, 3, 4]}
    assert manifest["columns"]["id"] == {"dtype": "str", "shape": []}
    expected = whole(pieces())
    found = store.columns(tmp_path, manifest, expected)
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x)
        assert found[name].dtype.kind == x.dtype.kind
        assert found[name].dtype == x.dtype or x.dtype.kind == "U"
    assert set(store.columns(tmp_path, manifest, ("label", "layer4"))) == {"label", "layer4"}
    files = {1: 5, 500: 4, 1 << 20: 1}[shard] if form != "npz" else 1
    assert len(manifest["files"]) == files
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["set.json", *(f["file"] for f in manifest["files"])])
    assert store.names(tmp_path) == ["set"]


@pytest.mark.parametrize("form", ["parquet", "array_record"])
def test_rows_are_let_go_of_as_they_are_written(tmp_path, monkeypatch, form):
    """When a row is asked for, those of earlier blocks are gone, but for the one that is being written."""
    monkeypatch.setattr(store, "BLOCK", 1)
    monkeypatch.setattr(store, "SHARD", 4000)
    alive = []

    def rows():
        for i in range(40):
            assert sum(one() is not None for one in alive) <= 3
            x = np.full((1, 256), i, np.float32)
            alive.append(weakref.ref(x))
            yield {"id": np.array([str(i)]), "layer": x}
            del x

    manifest = store.save(tmp_path, "set", rows(), {"layers": ["layer"]}, form)
    assert len(manifest["files"]) == 10
    assert store.columns(tmp_path, manifest, ("layer",))["layer"][:, 0].tolist() == list(range(40))


@pytest.mark.parametrize("form", FORMATS)
def test_an_error_leaves_what_was_there(tmp_path, form):
    first = store.save(tmp_path, "set", pieces(), ABOUT, form)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken():
        yield from pieces(2)
        raise ValueError("the net broke")

    with pytest.raises(ValueError, match="the net broke"):
        store.save(tmp_path, "set", broken(), ABOUT, form)
    with pytest.raises(store.FeaturesError, match="no video could be read"):
        store.save(tmp_path, "set", iter(()), ABOUT, form)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert first["rows"] == 12


def test_another_format_takes_the_place_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BLOCK", 1)
    monkeypatch.setattr(store, "SHARD", 1)
    store.save(tmp_path, "set", pieces(), ABOUT, "parquet")
    store.save(tmp_path, "other", pieces(), ABOUT, "npz")
    store.save(tmp_path, "set", pieces(), ABOUT, "array_record")
    assert sorted({path.suffix for path in tmp_path.glob("set*")}) == [".array_record", ".json"]
    assert store.names(tmp_path) == ["other", "set"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_cut_or_lost_file_is_told(tmp_path, form):
    manifest = store.save(tmp_path, "set", pieces(), ABOUT, form)
    path = tmp_path / manifest["files"][0]["file"]
    raw = path.read_bytes()
    for content in (raw[:-1], raw[:40] + bytes([raw[40] ^ 1]) + raw[41:], b""):
        path.write_bytes(content)
        with pytest.raises(store.FeaturesError, match=f"{path.name} is not the file of its manifest; run vidjax feat"):
            store.columns(tmp_path, manifest, ("layer4",))
    path.unlink()
    with pytest.raises(store.FeaturesError, match=f"{path.name} cannot be read"):
        store.columns(tmp_path, manifest, ("layer4",))


def test_a_manifest_that_is_none(tmp_path):
    for text in ("", "[]", "{", json.dumps({"files": []})):
        (tmp_path / "set.json").write_text(text)
        with pytest.raises(store.FeaturesError, match=r"set\.json cannot be read as a manifest of features"):
            store.manifest_of(tmp_path, "set")
    assert store.names(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(store.FeaturesError, match=r"cannot write features to .*/file: .*; free it or take another"):
        store.save(tmp_path / "file", "set", pieces(), ABOUT)


def test_parquet_without_its_package_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(store.FeaturesError, match=r"need the package pyarrow.*pip install 'vidjax\[search\]'"):
        store.save(tmp_path, "set", pieces(), ABOUT, "parquet")
    assert list(tmp_path.iterdir()) == []


def test_parquet_is_what_others_read(tmp_path):
    import pyarrow.parquet

    store.save(tmp_path, "set", pieces(), ABOUT, "parquet")
    table = pyarrow.parquet.read_table(tmp_path / "set-00000-of-00001.parquet")
    expected = whole(pieces())
    assert table["id"].to_pylist() == expected["id"].tolist()
    np.testing.assert_array_equal(np.array(table["layer4"].to_pylist(), np.float32), expected["layer4"])
