"""Sources and the index on real files: folders, CSV lists, awkward names, damaged files, stale and torn caches."""

import logging
import os
import pickle
import shutil

import numpy as np
import pytest

from vidjax.data import index, lists, motion, sources, video


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """One real 5-frame video to copy around."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    video.write(path, np.random.default_rng(0).integers(0, 255, (5, 16, 24, 3), np.uint8), fps=10)
    return path


@pytest.fixture
def put(clip, tmp_path):
    """Copies the clip to each of the names below the test's folder."""

    def copy(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, tmp_path / name)
        return tmp_path

    return copy


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def write_csv(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_folder_with_splits_nested_folders_and_strange_names(put):
    root = put("train/b/ein Vidéo.mp4", "train/b/deep/er/日本.MOV", "train/a/1.avi", "val/a/2.mkv", "val/c/.hidden.mp4")
    put("train/a/notes.mp4.txt", "train/.git/x.mp4", "loose.mp4")
    train, held = (sources.build({"path": str(root), "source": "auto"}, split) for split in ("train", "eval"))
    assert train.classes == held.classes == ("a", "b")
    assert ids(train) == ["train/a/1.avi", "train/b/deep/er/日本.MOV", "train/b/ein Vidéo.mp4"]
    assert ids(held) == ["val/a/2.mkv"]
    assert train[2] == {
        "id": "train/b/ein Vidéo.mp4",
        "path": str(root / "train/b/ein Vidéo.mp4"),
        "label": 1,
        "num_frames": 5,
        "fps": 10.0,
        "error": "",
    }
    again = pickle.loads(pickle.dumps(train))
    assert [again[i] for i in range(len(again))] == [train[i] for i in range(len(train))]
    train[0]["label"] = 7
    assert train[0]["label"] == 0


def test_hash_split_is_stratified_and_stable(put):
    names = [f"{label}/{n}.mp4" for label in ("jump", "run", "walk") for n in range(40)] + [
        "solo/1.mp4",
        "duo/1.mp4",
        "duo/2.mp4",
    ]
    root = put(*names)
    before = {split: {row["id"] for row in rows} for split, rows in lists.folder(root).items()}
    assert before["train"] | before["eval"] == set(names)
    assert not before["train"] & before["eval"]
    assert "solo/1.mp4" in before["train"]
    assert len([name for name in before["eval"] if name.startswith("duo")]) == 1
    for label in ("jump", "run", "walk"):
        assert 2 <= len([name for name in before["eval"] if name.startswith(label)]) <= 16
    put("run/new.mp4")
    os.remove(root / "jump/3.mp4")
    after = {split: {row["id"] for row in rows} for split, rows in lists.folder(root).items()}
    for split in before:
        assert before[split] - {"jump/3.mp4"} == after[split] - {"run/new.mp4"}
    assert not lists.folder(root, held={"fraction": 0})["eval"]


def test_bad_files_are_rows_with_their_reason(put, tmp_path):
    root = put("a/good.mp4", "a/text.mp4", "a/empty.mp4", "a/cut.mp4")
    (root / "a/text.mp4").write_text("not a video")
    (root / "a/empty.mp4").write_bytes(b"")
    whole = (root / "a/cut.mp4").read_bytes()
    (root / "a/cut.mp4").write_bytes(whole[: len(whole) // 3])
    source = sources.build({"path": str(root), "eval_fraction": 0}, "train")
    errors = {source[i]["id"]: source[i]["error"] for i in range(4)}
    assert errors.pop("a/good.mp4") == ""
    for name, error in errors.items():
        assert os.path.basename(name) in error, error
        assert "\n" not in error
    assert source.counts == {"found": 4, "missing": 0, "unreadable": 3, "classes": {"a": 4}}


def test_empty_class_folder_is_named_and_no_class(put, caplog):
    root = put("a/1.mp4", "a/2.mp4")
    (root / "leer").mkdir()
    with caplog.at_level(logging.WARNING, "vidjax"):
        source = sources.build({"path": str(root)}, "train")
    assert source.classes == ("a",)
    assert [record.getMessage() for record in caplog.records] == [
        f"The class folder {root / 'leer'} has no videos: it is left out."
    ]


def test_separate_eval_path(put):
    root = put("mine/a/1.mp4", "mine/a/2.mp4", "mine/b/1.mp4", "theirs/test/b/9.mp4", "theirs/train/b/8.mp4")
    cfg = {"path": str(root / "mine"), "eval_path": str(root / "theirs")}
    assert ids(sources.build(cfg, "train")) == ["a/1.mp4", "a/2.mp4", "b/1.mp4"]
    held = sources.build(cfg, "eval")
    assert ids(held) == ["test/b/9.mp4"]
    assert held[0]["label"] == 1
    listed = write_csv(root / "held.csv", "path,label", "theirs/train/b/8.mp4,b")
    assert ids(sources.build(cfg | {"eval_path": str(listed)}, "eval")) == ["theirs/train/b/8.mp4"]


def test_csv_with_split_column_missing_file_and_comma_in_name(put, tmp_path):
    root = put("v/ä, b.mp4", "v/1.mp4")
    listed = root / "liste.csv"
    listed.write_bytes(
        '\ufeffpath,label,split\r\n"v/ä, b.mp4",zwei,train\r\nv/gone.mp4,eins,train\r\n./v/1.mp4,eins,VAL\r\n'.encode()
    )
    train, held = (sources.build({"path": str(listed)}, split) for split in ("train", "eval"))
    assert train.classes == ("eins", "zwei")
    assert ids(train) == ["v/ä, b.mp4", "v/gone.mp4"]
    assert [train[i]["error"] for i in range(2)] == ["", "no such file"]
    assert train[0]["num_frames"] == 5
    assert train.counts == {"found": 1, "missing": 1, "unreadable": 1, "classes": {"eins": 1, "zwei": 1}}
    assert ids(held) == ["v/1.mp4"]
    put("v/gone.mp4")
    assert sources.build({"path": str(listed)}, "train")[1]["error"] == ""


def test_csv_groups_are_held_out_whole(put):
    root = put(*(f"{n}.mp4" for n in range(6)))
    listed = write_csv(root / "l.csv", "file,what,take", *(f"{n}.mp4,c{n % 2},{n // 2}" for n in range(6)))
    cfg = {"path": str(listed), "path_column": "file", "label_column": "what"}
    cfg |= {"group_column": "take", "eval_groups": (1,)}
    assert ids(sources.build(cfg, "eval")) == ["2.mp4", "3.mp4"]
    assert ids(sources.build(cfg, "train")) == ["0.mp4", "1.mp4", "4.mp4", "5.mp4"]
    with pytest.raises(ValueError, match="'take' has none of 7, only 0, 1, 2"):
        sources.build(cfg | {"eval_groups": 7}, "eval")


def test_csv_without_split_uses_the_hash(put):
    root = put(*(f"{n}.mp4" for n in range(6)))
    listed = write_csv(root / "l.csv", "path,label", *(f"{n}.mp4,c{n % 2}" for n in range(6)))
    held = ids(sources.build({"path": str(listed)}, "eval"))
    assert len(held) >= 2
    assert sorted(held + ids(sources.build({"path": str(listed)}, "train"))) == [f"{n}.mp4" for n in range(6)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'path'"),
        ("path,label\n", "lists no videos"),
        ("path;label\n1.mp4;a\n", "has no column 'path', only 'path;label'"),
        ("path,class\n1.mp4,a\n", "has no column 'label', only 'path', 'class'"),
        ("path,label\n1,2.mp4,a\n", "line 2: more fields than columns"),
        ("path,label\n1.mp4,\n", "line 2: column 'label' is empty"),
        ("path,label\n1.mp4,a\n,a\n", "line 3: column 'path' is empty"),
        ("path,label,split\n1.mp4,a,maybe\n", "line 2: column 'split' says 'maybe', not train or eval"),
        ("path,label\n1.mp4,a\nx/../1.mp4,b\n", "line 3: 1.mp4 is already listed in line 2"),
        ("path,label\n1.mp4,a\n", "no videos for the eval split"),
    ],
)
def test_bad_csv_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        sources.build({"path": str(path)}, "eval")
    assert str(path) in str(caught.value)


def test_csv_in_another_encoding_and_no_csv(tmp_path):
    (tmp_path / "l.csv").write_bytes("path,label\nä.mp4,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        sources.build({"path": str(tmp_path / "l.csv")}, "train")
    with pytest.raises(ValueError, match="cannot be opened: No such file"):
        sources.build({"path": str(tmp_path / "none.csv")}, "train")


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"eval_fractoin": 0.1}, "no key 'eval_fractoin'; did you mean 'eval_fraction'"),
        ({"source": "tfds"}, "data.source must be one of auto, folder, csv, records, .*, not 'tfds'"),
        ({"path": ""}, "data.path is empty"),
        ({"path": "/no/such"}, "/no/such is not a folder"),
        ({"eval_fraction": 1.0}, "data.eval_fraction"),
        ({"eval_groups": ("take",)}, "names groups of data.group_column"),
        ({"classes": ("b",)}, "a/1.mp4 has label 'a', which is not in data.classes"),
        ({"motion": {"fames": 3}}, "data.motion: no key 'fames'"),
    ],
)
def test_bad_section_is_one_sentence(put, cfg, message):
    root = put("a/1.mp4", "a/2.mp4")
    with pytest.raises(ValueError, match=message):
        sources.build({"path": str(root)} | cfg, "train")


def test_folder_without_videos(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/readme.txt").write_text("")
    with pytest.raises(ValueError, match="has no videos in class folders"):
        sources.build({"path": str(tmp_path)}, "train")


def test_class_order_can_be_given(put):
    root = put("a/1.mp4", "b/1.mp4")
    source = sources.build({"path": str(root), "classes": ("b", "x", "a"), "eval_fraction": 0}, "train")
    assert source.classes == ("b", "x", "a")
    assert [source[i]["label"] for i in range(2)] == [2, 0]


def test_motion_source_renders_once(tmp_path):
    cfg = {"motion": {"out": str(tmp_path / "m"), "train": 9, "evaluation": 8, "size": 16, "frames": 3}}
    train, held = (sources.build(cfg, split) for split in ("train", "eval"))
    assert len(train) == 9
    assert len(held) == 8
    assert train.classes == tuple(sorted(motion.CLASSES))
    assert train[0]["num_frames"] == 3
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    sources.build(cfg, "train")
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    flipped = sources.flip_labels(train.classes, motion.FLIP_PAIRS)
    assert {name: train.classes[flipped[i]] for i, name in enumerate(train.classes) if flipped[i] != i} == motion.FLIP


def test_flip_labels():
    assert sources.flip_labels(("a", "b", "c"), ()) == (0, 1, 2)
    assert sources.flip_labels(("a", "b", "c"), (("c", "a"),)) == (2, 1, 0)
    with pytest.raises(ValueError, match="flip_pairs: no class 'd'; classes are a, b, c"):
        sources.flip_labels(("a", "b", "c"), (("a", "d"),))


@pytest.fixture
def probed(monkeypatch):
    """The names of the files that are really probed."""
    names, probe = [], video.probe
    monkeypatch.setattr(video, "probe", lambda path: names.append(os.path.basename(path)) or probe(path))
    return names


def test_index_probes_new_and_changed_files_only(put, probed):
    root = put("a/1.mp4", "a/2.mp4")
    paths = [root / "a/1.mp4", root / "a/2.mp4"]
    calls = []
    first = index.build(paths, root, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    assert sorted(probed) == ["1.mp4", "2.mp4"]
    assert [row["id"] for row in first] == ["a/1.mp4", "a/2.mp4"]
    assert first[0] | {"mtime_ns": 0, "size": 0} == {
        "id": "a/1.mp4",
        "path": str(paths[0]),
        "size": 0,
        "mtime_ns": 0,
        "num_frames": 5,
        "fps": 10.0,
        "width": 24,
        "height": 16,
        "duration": 0.5,
        "error": "",
    }
    probed.clear()
    assert index.build(paths, root) == first
    assert probed == []
    video.write(paths[1], np.zeros((7, 16, 16, 3), np.uint8))
    put("a/3.mp4")
    changed = index.build([*paths, root / "a/3.mp4"], root)
    assert sorted(probed) == ["2.mp4", "3.mp4"]
    assert changed[0] == first[0]
    assert (changed[1]["num_frames"], changed[1]["width"]) == (7, 16)
    os.utime(paths[0], ns=(1, 1))
    probed.clear()
    index.build(paths, root)
    assert probed == ["1.mp4"]
    probed.clear()
    index.build([root / "a/3.mp4"], root)
    assert probed == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "\0" * 300,
        lambda text: text.replace("num_frames", "frames"),
        lambda text: text + "too,short\n",
        lambda text: text.replace(",5,", ",five,"),
    ],
)
def test_damaged_index_is_ignored_and_rebuilt(put, probed, caplog, damage):
    root = put("a/1.mp4", "a/2.mp4")
    paths = [root / "a/1.mp4", root / "a/2.mp4"]
    first = index.build(paths, root)
    whole = (root / index.FILE).read_text()
    (root / index.FILE).write_text(damage(whole))
    probed.clear()
    with caplog.at_level(logging.WARNING, "vidjax"):
        assert index.build(paths, root) == first
    assert sorted(probed) == ["1.mp4", "2.mp4"]
    assert "is damaged" in caplog.text
    assert sorted((root / index.FILE).read_text().splitlines()) == sorted(whole.splitlines())


def test_index_is_saved_during_a_long_scan(put, monkeypatch):
    monkeypatch.setattr(index, "SAVE_EVERY", 0.0)
    root = put("a/1.mp4", "a/2.mp4", "a/3.mp4")

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.build([root / f"a/{n}.mp4" for n in (1, 2, 3)], root, progress=stop)
    assert len(index.load(root / index.FILE)) == 2
    assert not [path for path in root.iterdir() if path.name.endswith(".part")]


def test_index_of_read_only_data_goes_to_the_cache(put, monkeypatch, tmp_path_factory):
    root, home = put("a/1.mp4"), tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    root.chmod(0o555)
    rows = index.build([root / "a/1.mp4"], root)
    root.chmod(0o755)
    assert [path.name for path in root.iterdir()] == ["a"]
    (cached,) = (home / "vidjax/index").iterdir()
    assert index.load(cached) == {"a/1.mp4": rows[0]}


def test_index_that_cannot_be_written_costs_a_warning(put, caplog):
    root = put("a/1.mp4")
    (root / "file").write_text("")
    with caplog.at_level(logging.WARNING, "vidjax"):
        rows = index.build([root / "a/1.mp4"], root, root / "file" / "index.csv")
    assert rows[0]["num_frames"] == 5
    assert "cannot be written" in caplog.text


def test_file_that_cannot_be_opened_is_tried_again(put):
    root = put("a/1.mp4")
    (root / "a/2.mp4").mkdir()
    rows = index.build([root / "a/1.mp4", root / "a/2.mp4", root / "a/3.mp4"], root)
    assert [row["error"] for row in rows] == ["", f"{root}/a/2.mp4 cannot be opened: Is a directory", "no such file"]
    assert list(index.load(root / index.FILE)) == ["a/1.mp4"]


def test_summary(put):
    root = put("a/1.mp4", "a/2.mp4")
    (root / "a/3.mp4").write_text("x")
    text = index.summary(index.build([root / f"a/{n}.mp4" for n in (1, 2, 3)], root))
    assert text.splitlines()[:4] == [
        "3 videos, 2 readable, 1 not",
        "frames 5 to 5 (median 5), 0.00 hours",
        "sizes 24x16 (2)",
        "fps 10 (2)",
    ]
    assert "unreadable a/3.mp4: " in text
    assert index.summary([]) == "0 videos, 0 readable, 0 not"


def test_probe_lists_any_folder_or_csv(put, probed):
    root = put("deep/er/1.mp4", "2.mp4")
    listed = write_csv(root / "l.csv", "path,label", "2.mp4,a", "gone.mp4,a")
    assert [row["id"] for row in sources.probe(str(root))] == ["2.mp4", "deep/er/1.mp4"]
    assert [row["error"] for row in sources.probe(listed)] == ["", "no such file"]
    assert sorted(probed) == ["1.mp4", "2.mp4"]
    for path, message in ((root / "2.mp4", "neither a folder nor a CSV"), (root / ".none", "neither")):
        with pytest.raises(ValueError, match=message):
            sources.probe(path)
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no videos"):
        sources.probe(root / "empty")


def test_real_footage_by_sequence(golden, monkeypatch, tmp_path):
    """UT-Interaction: 120 clips, every one readable; a held-out sequence is in no training row."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cfg = {"path": str(golden / "ut_interaction/manifest.csv"), "label_column": "class_name"}
    cfg |= {"group_column": "sequence", "eval_groups": (1, 2, 3)}
    train, held = (sources.build(cfg, split) for split in ("train", "eval"))
    assert len(train) + len(held) == 120
    assert len(train.classes) == 6
    assert train.counts["unreadable"] == held.counts["unreadable"] == 0
    frames = {row["path"]: int(row["frames"]) for _, row in lists.read_csv(golden / "ut_interaction/manifest.csv", ())}
    for source in (train, held):
        assert all(frames[source[i]["id"]] == source[i]["num_frames"] for i in range(len(source)))
