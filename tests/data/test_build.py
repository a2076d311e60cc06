"""Built data sets: what is in the folder, killed and damaged builds, Beam, TFDS without TensorFlow."""

import dataclasses
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vidjax.data import build, records, shards, sources, video
from vidjax.data.builders import Listing

# TFDS asks protobuf for what protobuf now calls by another name
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten small videos of different lengths and sizes."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for i in range(10):
        frames = np.repeat(rng.integers(0, 255, (6 + i, 4, 6, 3), np.uint8), 8, 1).repeat(8 + i % 2, 2)
        video.write(folder / f"{i}.mp4", frames, fps=10)
    return folder


@pytest.fixture
def listing(videos):
    """Ten videos of two classes, seven to train on and three held out; an eleventh was not downloaded."""
    rows = [{"id": f"v{i}", "path": str(videos / f"{i}.mp4"), "label": i % 2} for i in range(10)]
    rows = tuple(row | {"sides": {"": "eval" if i > 6 else "train"}} for i, row in enumerate(rows))
    listed = {("", "train"): 8, ("", "eval"): 3}
    return Listing("toy", ("a", "b"), rows, {("", "train"): 9}, missing=("v10",), listed=listed)


def tree(folder):
    """Every file below a folder with its bytes, but for the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def damaged(listing, tmp_path, *numbers):
    """The listing with copies of its videos, some of them cut short."""
    rows = []
    for i, row in enumerate(listing.rows):
        path = tmp_path / "copies" / os.path.basename(row["path"])
        path.parent.mkdir(exist_ok=True)
        shutil.copy2(row["path"], path)
        if i in numbers:
            path.write_bytes(path.read_bytes()[:200])
        rows.append(row | {"path": str(path)})
    return dataclasses.replace(listing, rows=tuple(rows))


def test_a_built_set_holds_the_files_bytes_and_the_official_counts(listing, tmp_path):
    seen = []
    manifest = build.build(listing, tmp_path / "toy", shard_videos=3, progress=lambda *args: seen.append(args))
    assert [shard["file"] for shard in manifest["shards"]] == [
        "toy-eval.array_record-00000-of-00001",
        *(f"toy-train.array_record-0000{i}-of-00003" for i in range(3)),
    ]
    assert [shard["records"] for shard in manifest["shards"]] == [3, 2, 2, 3]
    assert manifest["counts"] == {"listed": 11, "stored": 10, "unreadable": 0, "missing": 1}
    assert manifest["splits"] == [
        {"split": "", "side": "train", "expected": 9, "listed": 8, "found": 7, "unreadable": 0},
        {"split": "", "side": "eval", "expected": None, "listed": 3, "found": 3, "unreadable": 0},
    ]
    assert manifest["missing"] == ["v10"]
    assert seen[-1] == (10, 10)
    assert sorted(os.listdir(tmp_path / "toy")) == sorted(
        [".lock", "build.json", "dataset_info.json", "features.json", "index.jsonl", "label.labels.txt"]
        + ["manifest.json", "shards", *(shard["file"] for shard in manifest["shards"])]
    )
    for side, ids in (("train", range(7)), ("eval", range(7, 10))):
        source = records.open(tmp_path / "toy", side)
        for i, record in zip(ids, source, strict=True):
            assert record["id"] == f"v{i}"
            assert records.encoded(record) == pathlib.Path(listing.rows[i]["path"]).read_bytes()


def test_tfds_reads_every_part_without_tensorflow(listing, tmp_path):
    build.build(listing, tmp_path, shard_videos=3)
    builder = tfds.builder_from_directory(tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"eval": 3, "train": 7}
    for part, rows in (("train", listing.rows[:7]), ("eval", listing.rows[7:])):
        for example, row in zip(builder.as_data_source(part), rows, strict=True):
            facts = video.probe(row["path"])
            assert example["id"].decode() == row["id"]
            assert example["video"] == pathlib.Path(row["path"]).read_bytes()
            assert example["label"] == row["label"]
            assert {key: example[key] for key in ("num_frames", "width", "height", "fps")} == {
                key: facts[key] for key in ("num_frames", "width", "height", "fps")
            }
    assert builder.info.features["label"].names == ["a", "b"]
    assert "tensorflow" not in sys.modules


def test_tfds_reads_packed_frames(listing, tmp_path):
    build.build(listing, tmp_path, store="frames", shard_videos=2)
    frames = tfds.builder_from_directory(tmp_path).as_data_source("train")
    assert len(frames) == sum(range(6, 13))
    first = video.read(listing.rows[0]["path"], range(6))
    assert [frames[i]["frame"] for i in range(6)] == [picture.tobytes() for picture in first]


def test_videos_of_several_splits_are_stored_once(listing, tmp_path):
    sides = [{"1": "train", "2": "eval"}, {"1": "eval", "2": "train"}, {}]
    rows = tuple(row | {"sides": sides[i % 3]} for i, row in enumerate(listing.rows))
    build.build(dataclasses.replace(listing, rows=rows, expected={}, listed={}), tmp_path)
    builder = tfds.builder_from_directory(tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"rest": 3, "videos": 7}
    ids = {key: [row["id"] for row in records.open(tmp_path, *key)] for key in (("train", "1"), ("eval", "1"))}
    assert ids == {("train", "1"): ["v0", "v3", "v6", "v9"], ("eval", "1"): ["v1", "v4", "v7"]}
    assert [row["id"] for row in records.open(tmp_path, "train", "2")] == ids["eval", "1"]


def test_labels_may_be_many_and_extras_travel(listing, tmp_path):
    rows = tuple(row | {"label": (0, 1) if i else (1,), "caption": f"c {i}"} for i, row in enumerate(listing.rows))
    many = dataclasses.replace(listing, rows=rows, multi_label=True, extras=("caption",), flip_pairs=(("a", "b"),))
    build.build(many, tmp_path)
    source = records.open(tmp_path)
    assert (source[0]["label"], source[3]["label"], source[3]["caption"]) == ((1,), (0, 1), "c 3")
    assert (source.multi_label, source.flip_pairs, source.counts["classes"]) == (True, (("a", "b"),), {"a": 6, "b": 7})
    example = tfds.builder_from_directory(tmp_path).as_data_source("train")[3]
    assert (list(example["labels"]), example["caption"]) == ([0, 1], b"c 3")


def test_a_source_of_official_lists_knows_the_official_count(listing, videos, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = [sources.of_listing(listing, videos, side, "", None) for side in ("train", "eval")]
    assert [(len(source), source.expected) for source in found] == [(7, 9), (3, 0)]


def test_unreadable_videos_are_listed_and_nothing_else_is_lost(listing, tmp_path):
    listing = damaged(listing, tmp_path, 1, 8)
    manifest = build.build(listing, tmp_path / "toy", shard_videos=4)
    assert [row["id"] for row in manifest["unreadable"]] == ["v8", "v1"]
    for row in manifest["unreadable"]:
        assert f"copies/{row['id'][1:]}.mp4" in row["error"]
        assert "\n" not in row["error"]
    train, held = records.open(tmp_path / "toy"), records.open(tmp_path / "toy", "eval")
    assert [row["id"] for row in train] == ["v0", "v2", "v3", "v4", "v5", "v6"]
    assert [records.encoded(row) for row in held] == [
        pathlib.Path(listing.rows[i]["path"]).read_bytes() for i in (7, 9)
    ]
    assert train.counts == {"found": 7, "missing": 1, "unreadable": 2, "classes": {"a": 4, "b": 2}}
    assert (train.expected, held.expected) == (9, 0)  # the data set's own count, where it is known


def test_a_shard_of_unreadable_videos_alone_is_empty(listing, tmp_path):
    manifest = build.build(damaged(listing, tmp_path, 7, 8, 9), tmp_path / "toy", shard_videos=2)
    assert [shard["records"] for shard in manifest["shards"]] == [0, 0, 1, 2, 2, 2]
    assert len(tfds.builder_from_directory(tmp_path / "toy").as_data_source("train")) == 7
    with pytest.raises(ValueError, match="has no eval videos, only train 7, eval 3$"):
        records.open(tmp_path / "toy", "eval")


@pytest.mark.parametrize("how", [{"workers": 2}, {"runner": "direct"}], ids=["processes", "beam"])
def test_processes_and_beam_write_the_same_bytes(listing, tmp_path, how):
    listing = damaged(listing, tmp_path, 4)
    for name, kind in (("a", {}), ("b", how)):
        build.build(listing, tmp_path / name, shard_videos=3, **kind)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


SCRIPT = """
import json, pathlib, sys, time
from vidjax.data import build, shards
from vidjax.data.builders import Listing

def slowly(*args, add=shards.add_video):
    time.sleep(0.2)
    return add(*args)

shards.add_video = slowly
fields = json.loads(pathlib.Path(sys.argv[1]).read_text())
say = lambda *args: print(*args, flush=True)
build.build(Listing(**fields, expected={}), sys.argv[2], shard_videos=2, progress=say)
"""


def test_killed_builds_resume_to_the_same_bytes(listing, tmp_path):
    build.build(dataclasses.replace(listing, expected={}, missing=(), listed={}), tmp_path / "whole", shard_videos=2)
    fields = {"name": "toy", "classes": ["a", "b"], "rows": listing.rows}
    (tmp_path / "listing.json").write_text(json.dumps(fields))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "listing.json"), str(tmp_path / "killed")]
    for lines in (1, 3):  # killed within the second shard; then, after a line for what was done, two shards later
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(lines):
                assert process.stdout.readline()
            time.sleep(0.1)
            process.send_signal(signal.SIGKILL)
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "shards").glob("*.json")}
    assert 3 <= len(finished) < 6  # of 6; 3 unless this machine stalls
    with pytest.raises(ValueError, match="killed is not finished: run `vidjax data build` again$"):
        records.open(tmp_path / "killed")
    (tmp_path / "killed" / "torn.123.part").write_bytes(b"half a shard")
    build.build(Listing(**fields, expected={}), tmp_path / "killed", shard_videos=2)
    expected, found = tree(tmp_path / "whole"), tree(tmp_path / "killed")
    assert found == expected
    kept = {name: (tmp_path / "killed" / "shards" / name).stat().st_mtime_ns for name in finished}
    assert kept == finished


def test_other_parameters_are_refused_and_changed_files_rebuilt(listing, tmp_path, caplog):
    listing = damaged(listing, tmp_path)
    build.build(listing, tmp_path / "toy", shard_videos=3)
    with pytest.raises(ValueError, match=r"toy was built with short_side=0, not 16: take another folder or remove it$"):
        build.build(listing, tmp_path / "toy", shard_videos=3, short_side=16)
    before = tree(tmp_path / "toy")
    shutil.copy(listing.rows[9]["path"], listing.rows[0]["path"])
    with caplog.at_level(logging.WARNING, "vidjax"):
        build.build(listing, tmp_path / "toy", shard_videos=3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'toy'}: the listing or its files have changed since it was built: 1 of 4 shards are built anew."
    ]
    after = tree(tmp_path / "toy")
    changed = {name for name in after if after[name] != before[name]}
    shard = "toy-train.array_record-00000-of-00003"
    assert changed == {shard, f"shards/{shard}.json", "index.jsonl", "manifest.json"}
    fewer = dataclasses.replace(listing, rows=listing.rows[:4])
    build.build(fewer, tmp_path / "toy", shard_videos=3)
    build.build(fewer, tmp_path / "new", shard_videos=3)
    assert tree(tmp_path / "toy") == tree(tmp_path / "new")


def test_a_file_that_was_away_is_taken_in_by_the_next_run(listing, tmp_path):
    listing = damaged(listing, tmp_path)
    away = pathlib.Path(listing.rows[2]["path"])
    away.rename(tmp_path / "away.mp4")
    assert build.build(listing, tmp_path / "toy")["counts"]["unreadable"] == 1
    (tmp_path / "away.mp4").rename(away)
    assert build.build(listing, tmp_path / "toy")["counts"]["unreadable"] == 0
    assert records.encoded(records.open(tmp_path / "toy")[2]) == away.read_bytes()


def test_reencoded_videos_have_short_groups_and_no_more_than_the_wanted_size(listing, tmp_path):
    manifest = build.build(listing, tmp_path, short_side=16, frame_stride=2)
    wanted = {"short_side": 16, "frame_stride": 2, "codec": "libx264", "gop": 12, "bframes": 3}
    assert {key: manifest["parameters"][key] for key in wanted} == wanted
    for i, record in enumerate(records.open(tmp_path)):
        assert (record["num_frames"], record["fps"]) == ((6 + i + 1) // 2, 5)
        frames = records.read(record, range(record["num_frames"]))
        assert frames.shape == (record["num_frames"], 16, 24 if i % 2 == 0 else 27, 3)
        original = video.read(listing.rows[i]["path"], range(0, 6 + i, 2), 16)
        assert np.abs(frames.astype(int) - original).mean() < 12  # of 255: what 4:2:0 and x264 lose of noise
    build.build(listing, tmp_path / "large", short_side=500)
    assert records.read(records.open(tmp_path / "large")[0], [0]).shape == (1, 32, 48, 3)


@pytest.mark.parametrize("how", [{}, {"short_side": 16}, {"store": "frames"}], ids=str)
def test_a_folder_of_pictures_is_a_video(tmp_path, how):
    for name, count in (("1", 5), ("2", 0)):
        (tmp_path / name).mkdir()
        for i in range(count):
            cv2.imwrite(str(tmp_path / name / f"{i:05d}.jpg"), np.full((32, 48, 3), 40 * i, np.uint8))
    rows = tuple({"id": name, "path": str(tmp_path / name), "label": 0, "sides": {"": "train"}} for name in "12")
    manifest = build.build(Listing("toy", ("a",), rows, {}), tmp_path / "out", **how)
    assert [(row["id"], row["error"]) for row in manifest["unreadable"]] == [
        ("2", f"{tmp_path / '2'}: there is no JPEG frame")
    ]
    (record,) = records.open(tmp_path / "out")
    assert (record["num_frames"], record["fps"]) == (5, 12)
    frames = records.read(record, range(5))
    assert (
        np.abs(frames.mean((1, 2, 3)) - [0, 40, 80, 120, 160]).max() < 6
    )  # of 255: JPEG, x264 once or twice, 16 to 235


def test_full_disk_is_one_sentence_and_the_build_goes_on_afterwards(listing, tmp_path, monkeypatch):
    from array_record.python import array_record_module

    real = array_record_module.ArrayRecordWriter
    written = []

    def writer(path, options):
        written.append(path)
        return real("/dev/full" if len(written) == 3 else path, options)

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", writer)
    with pytest.raises(ValueError, match="toy: the disk is full: make room and run the same command again, finished"):
        build.build(listing, tmp_path / "toy", shard_videos=3)
    assert sorted(path.suffix for path in (tmp_path / "toy" / "shards").iterdir()) == [".at", ".json", ".json"]
    build.build(listing, tmp_path / "toy", shard_videos=3)
    assert len(written) == 5
    assert records.verify(tmp_path / "toy") == {}


def test_two_builds_at_once_are_refused(listing, tmp_path):
    with build.alone(tmp_path), pytest.raises(ValueError, match="another build is writing to this folder"):
        build.build(listing, tmp_path)


def die(*args, add=shards.add_video):
    """Reads videos until one kills the process."""
    if args[0]["id"] in ("v1", "v5"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return add(*args)


def deadly(task):
    """A task of a build whose decoder crashes."""
    shards.add_video = die
    return REAL(task)


REAL = shards.write


def test_videos_that_kill_the_process_are_listed(listing, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "write", deadly)
    manifest = build.build(listing, tmp_path, workers=1)
    assert [(row["id"], row["error"]) for row in manifest["unreadable"]] == [
        (f"v{i}", f"{listing.rows[i]['path']}: while it was read its worker process died (signal SIGSEGV)")
        for i in (1, 5)
    ]
    assert manifest["counts"]["stored"] == 8


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"store": "jpeg"}, "store must be one of video, frames, not 'jpeg'"),
        ({"pixels": "hsv"}, "pixels must be rgb or yuv420, not 'hsv'"),
        ({"pixels": "yuv420"}, "pixels=yuv420 is for packed frames: give store=frames too"),
        ({"frame_stride": 0}, "frame_stride must be at least 1, not 0"),
        ({"short_side": -1}, "short_side must be at least 0, not -1"),
    ],
)
def test_parameters_that_cannot_be_meant(listing, tmp_path, options, problem):
    with pytest.raises(ValueError) as caught:
        build.build(listing, tmp_path, **options)
    assert str(caught.value) == problem
