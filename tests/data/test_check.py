"""Every kind of broken, short and odd video is found and named, here and in other processes, and good ones pass."""

import csv
import logging
import os
import shutil
import signal
import time

import av
import numpy as np
import pytest

from vidjax.data import build, check, index, records, sources, video
from vidjax.data.builders import Listing


def picture(number=0, height=32, width=48):
    return np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)


def encode(path, codec="libx264", pixels="yuv420p", times=range(20), rate=20, size=(32, 48)):
    """Writes a video whose frames are shown at the given ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        for tick in times:
            frame = av.VideoFrame.from_ndarray(picture(tick, *size), format="rgb24")
            frame.pts = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def verdicts(rows):
    return {row["id"]: (row["verdict"], row["reason"]) for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a file of each kind; see EXPECTED."""
    root = tmp_path_factory.mktemp("made")
    (root / "a").mkdir()
    video.write(root / "a" / "good.mp4", (picture() // 2 + np.uint8(3 * i) for i in range(30)), fps=10)
    whole = (root / "a" / "good.mp4").read_bytes()
    (root / "copy.mp4").write_bytes(whole)
    (root / "header.mp4").write_bytes(whole[:150])
    (root / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "text.mp4").write_text("not a video")
    (root / "empty.mp4").write_bytes(b"")
    encode(root / "whole.avi", "mpeg4")
    avi = (root / "whole.avi").read_bytes()
    (root / "half.avi").write_bytes(avi[: len(avi) // 2])
    encode(root / "uneven.mp4", times=[0, 1, 2, 3, 7, 8, 9, 14, 15, 16])
    encode(root / "fast.mp4", rate=240)
    encode(root / "tiny.mp4", size=(16, 16))
    encode(root / "grey.mkv", "ffv1", "gray")
    encode(root / "alpha.mkv", "ffv1", "bgra")
    video.write(root / "lone.mp4", (picture() for _ in range(70)), gop=1000)
    return root


EXPECTED = {
    "a/good.mp4": ("ok", ""),
    "copy.mp4": ("odd", "the same bytes as a/good.mp4"),
    "whole.avi": ("ok", ""),
    "uneven.mp4": ("odd", "variable frame rate (50 to 250 ms between frames)"),
    "fast.mp4": ("odd", "240 frames per second"),
    "tiny.mp4": ("odd", "pictures of 16x16 pixels"),
    "grey.mkv": ("odd", "pixel format gray"),
    "alpha.mkv": ("odd", "pixel format bgra"),
    "lone.mp4": ("odd", "no keyframe but the first in 70 frames: every read decodes from the beginning"),
}


@pytest.mark.parametrize("how", [{}, {"workers": 2}, {"deep": False}], ids=["here", "processes", "shallow"])
def test_each_kind_is_named(made, how):
    seen = []
    rows = check.check(made, progress=lambda *args: seen.append(args), **how)
    found = verdicts(rows)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    for name in ("header.mp4", "text.mp4", "empty.mp4"):
        assert found[name][0] == "broken"
        assert str(made / name) in found[name][1]
    assert found["half.avi"][0] == "short"
    assert found["half.avi"][1].startswith("the header claims 20 frames, there are ")
    assert found["half.mp4"][0] in ("short", "broken")
    assert "the header claims 30 frames, there are " in found["half.mp4"][1]
    assert seen[-1] == (len(rows), len(rows)) == (14, 14)
    good = next(row for row in rows if row["id"] == "a/good.mp4")
    assert good["decoded"] == (1 if how == {"deep": False} else 30)
    assert {key: good[key] for key in ("num_frames", "claimed", "fps", "width", "height", "keyframes", "codec")} == {
        "num_frames": 30,
        "claimed": 30,
        "fps": 10,
        "width": 48,
        "height": 32,
        "keyframes": 3,
        "codec": "h264",
    }


def test_summary_and_csv(made, tmp_path):
    rows = check.check(made)
    lines = check.summary(rows, shown=2).splitlines()
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in check.VERDICTS}
    assert lines[0] == "14 videos: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    assert f"and {counts['odd'] - 2} more odd" in lines
    assert "odd alpha.mkv: pixel format bgra" in lines
    check.write_csv(rows, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in row.items()} for row in rows] == read


def test_csv_lists_and_missing_files(made, tmp_path):
    shutil.copy(made / "whole.avi", tmp_path)
    (tmp_path / "list.csv").write_text("path,label\nwhole.avi,a\ngone.avi,a\n")
    assert verdicts(check.check(tmp_path / "list.csv")) == {
        "whole.avi": ("ok", ""),
        "gone.avi": ("broken", "no such file"),
    }
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has no videos"):
        check.check(tmp_path / "none")
    with pytest.raises(ValueError, match="is neither a folder nor a CSV file"):
        check.check(tmp_path / "list.txt")


def test_the_index_is_kept_for_the_source(made, tmp_path, monkeypatch):
    for name in ("whole.avi", "text.mp4"):
        (tmp_path / "a").mkdir(exist_ok=True)
        shutil.copy(made / name, tmp_path / "a")
    check.check(tmp_path)
    monkeypatch.setattr(index, "probe", lambda row: pytest.fail(f"{row} is probed again"))
    source = sources.build({"path": str(tmp_path), "eval_fraction": 0}, "train")
    assert [(row["num_frames"], bool(row["error"])) for row in source] == [(0, True), (20, False)]
    assert verdicts(check.check(tmp_path))["a/whole.avi"] == ("ok", "")


def deadly(task):
    """Reads a video; one kills the process and one hangs."""
    if task["row"]["id"] == "a/1.avi":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task["row"]["id"] == "a/2.avi":
        time.sleep(600)
    return INSPECT(task)


INSPECT = check.inspect


def test_a_file_that_crashes_or_hangs_the_decoder_is_one_broken_row(made, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for i in range(4):
        encode(tmp_path / "a" / f"{i}.avi", "mpeg4", times=range(5 + i))
    monkeypatch.setattr(check, "inspect", deadly)
    monkeypatch.setattr(check, "GRACE", 4)
    assert verdicts(check.check(tmp_path, workers=2, time_limit=1)) == {
        "a/0.avi": ("ok", ""),
        "a/1.avi": ("broken", "while it was read its worker process died (signal SIGSEGV)"),
        "a/2.avi": ("broken", "while it was read it took longer than 5 seconds"),
        "a/3.avi": ("ok", ""),
    }


def test_the_time_limit_holds_in_this_process(made):
    found = verdicts(check.check(made, time_limit=0))
    assert found["a/good.mp4"][0] == "broken"
    assert "reading it takes longer than the limit of 0 s" in found["a/good.mp4"][1]


def test_files_that_change_size_or_stop_are_found(golden, caplog):
    rows = check.check(golden / "video" / "awkward")
    found = verdicts(rows)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    assert found["corrupted.mp4"][0] == "broken"
    assert found["corrupted.mp4"][1].startswith("decoding ends after 28 frames (Invalid data")
    assert found["video_90.mov"] == ("odd", "rotated by 270 degrees")
    assert found["video_0.mov"] == ("ok", "")
    assert found["newtonscradle.gif"][1].endswith("pixel format bgra")
    assert check.check(golden / "video" / "clips", deep=False)[0]["verdict"] == "ok"


@pytest.mark.parametrize("store", ["video", "frames"])
def test_built_sets_are_checked_record_by_record(made, tmp_path, store):
    rows = [("one", made / "a" / "good.mp4"), ("two", made / "whole.avi"), ("three", made / "copy.mp4")]
    rows = tuple({"id": name, "path": str(path), "label": 0, "sides": {}} for name, path in rows)
    build.build(Listing("toy", ("a",), rows, {}), tmp_path, store=store)
    same = ("odd", "the same bytes as one")
    assert verdicts(check.check(tmp_path)) == {"one": ("ok", ""), "two": ("ok", ""), "three": same}
    shard = tmp_path / "toy-rest.array_record-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[data.index((made / "whole.avi").read_bytes()[2000:2100]) if store == "video" else len(data) // 2] ^= 1
    shard.write_bytes(data)
    records.reader.cache_clear()
    assert [row["verdict"] for row in check.check(tmp_path)].count("broken") == 1
