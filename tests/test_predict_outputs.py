"""What is written can be read back, says what the result says, and is whole; labels fit their picture."""

import csv
import json
import types

import av
import numpy as np
import pytest

from vidjax.data import video
from vidjax.predict import command, drawing, outputs, segments

NAMES = ["walking the dog", 'saying "hi", twice', "Übung 你好 --> go\n\nnow"]


@pytest.fixture
def result():
    """Of a video of 40 frames at 12.5 a second in three windows."""
    scores = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], np.float32)
    spans, times = np.array([[0, 16], [16, 32], [24, 40]]), np.arange(41) / 12.5
    return {
        "path": "a, b.mp4",
        "num_frames": 40,
        "fps": 12.5,
        "width": 64,
        "height": 48,
        "times": times,
        "start": times[spans[:, 0]],
        "end": times[spans[:, 1]],
        "frames": spans,
        "scores": scores,
        "video": scores.mean(0),
    }


def test_lines_for_people(result):
    lines = outputs.describe(result, NAMES, 2, segments.named(result, NAMES)).splitlines()
    assert lines[0] == "a, b.mp4"
    assert lines[1] == "  whole video        walking the dog 46.7%  Übung 你好 --> go now 30.0%"
    assert lines[2] == '     0.00 -   1.28 s  walking the dog 70.0%  saying "hi", twice 20.0%'
    assert "  segment 0.00 - 2.24 s: walking the dog 65.0%" in lines


def test_json_says_all(result):
    text = outputs.as_json(result, NAMES, 2, segments.named(result, NAMES))
    assert text.count("\n") == 1
    found = json.loads(text)
    assert (found["path"], found["num_frames"], found["fps"], found["duration"]) == ("a, b.mp4", 40, 12.5, 3.2)
    assert [one["label"] for one in found["top"]] == [NAMES[0], NAMES[2]]
    assert found["windows"][1]["frames"] == [16, 32]
    assert found["windows"][1]["start"] == 16 / 12.5
    assert found["windows"][2]["top"][0] == {"label": NAMES[2], "score": pytest.approx(0.7)}
    first, second = found["segments"]
    assert (first["frames"], first["start"], first["end"], first["windows"]) == ([0, 28], 0, 28 / 12.5, 2)
    assert (second["frames"], second["label"]) == ([28, 40], NAMES[2])


def test_csv_has_a_row_for_each_class_of_video_window_and_segment(result):
    head = ",".join(outputs.COLUMNS) + "\n"
    text = head + outputs.as_csv(result, NAMES, 2, segments.named(result, NAMES)) + outputs.failure_csv("x", "x: bad")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["kind"] for row in rows] == ["video"] * 2 + ["window"] * 6 + ["segment"] * 2 + ["error"]
    assert {row["file"] for row in rows[:-1]} == {"a, b.mp4"}
    assert rows[3]["class"] == NAMES[1]
    assert [float(rows[2][key]) for key in ("start", "end", "first_frame", "end_frame", "rank")] == [0, 1.28, 0, 16, 1]
    assert (rows[-2]["first_frame"], rows[-2]["class"]) == ("28", NAMES[2])
    assert (rows[-1]["file"], rows[-1]["error"]) == ("x", "x: bad")


def test_subtitles_are_read_as_written(result, tmp_path):
    outputs.subtitles(str(tmp_path / "deep" / "a.srt"), segments.named(result, NAMES))
    with av.open(str(tmp_path / "deep" / "a.srt")) as container:
        cues = [packet for packet in container.demux() if packet.size]
        found = [(p.pts * p.time_base, p.duration * p.time_base, bytes(p).decode()) for p in cues]
    assert [text for _, _, text in found] == ["walking the dog  65%", "Übung 你好 -> go now  70%"]
    assert [(float(start), float(start + long)) for start, long, _ in found] == [(0, 2.24), (2.24, 3.2)]


def test_times_of_subtitles():
    assert [outputs.clock(t) for t in (0, 3723004, 360000000)] == ["00:00:00,000", "01:02:03,004", "100:00:00,000"]
    assert "00:00:01,000 --> 00:00:01,001" in outputs.as_srt(
        [{"start": 1.0, "end": 1.0001, "label": "a", "score": 1.0}]
    )


def test_what_cannot_be_written_is_a_sentence(result, tmp_path):
    with pytest.raises(outputs.OutputError, match=r"cannot write .*none/x.json: No such file or directory; give"):
        outputs.lines(str(tmp_path / "none" / "x.json")).__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(outputs.OutputError, match="cannot write .*file/a.srt"):
        outputs.subtitles(str(tmp_path / "file" / "a.srt"), [])
    (tmp_path / "a.mp4").mkdir()
    video.write(tmp_path / "in.mp4", np.zeros((40, 48, 64, 3), np.uint8))
    with pytest.raises(outputs.OutputError, match=r"cannot write .*a.mp4: Is a directory"):
        outputs.annotated(str(tmp_path / "a.mp4"), result | {"path": str(tmp_path / "in.mp4")}, NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "file", "in.mp4"]


def test_outputs_never_take_a_videos_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.mp4").touch()
    with pytest.raises(outputs.OutputError, match=r"--video=\. would overwrite x.mp4: give another folder"):
        outputs.check(".", ".mp4", {"x.mp4": "x"}, "video")
    with pytest.raises(outputs.OutputError, match=r"--srt=one.srt is one file, but there are 2 videos"):
        outputs.check("one.srt", ".srt", {"x.mp4": "x", "y.mp4": "y"}, "srt")
    outputs.check("one.srt", ".srt", {"x.mp4": "x"}, "srt")


def test_the_label_of_each_moment_is_on_its_picture(result, tmp_path):
    path, target = str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")
    video.write(path, np.full((40, 48, 64, 3), 60, np.uint8), fps=12.5)
    drawing.annotate(path, target, result, ["a", "b", "c"], top=1)
    found = video.read(target, range(40)).astype(int)
    expected = video.read(path, range(40))
    captions = [drawing.caption([("a 70%", 255)], 48, 64), drawing.caption([("a 60%", 255)], 48, 64)]
    captions.append(drawing.caption([("c 70%", 255)], 48, 64))
    for number in range(40):
        drawing.blend(expected[number], captions[0 if number < 16 else 1 if number < 28 else 2])
    assert np.abs(found - expected).mean() < 2  # H.264 loses a little
    others = expected[[20]] - found[[5]]
    assert np.abs(others).max() > 60  # the labels do differ


LONG = "pretending to put something that cannot actually roll onto a slanted surface"


@pytest.mark.parametrize(("height", "width"), [(120, 160), (90, 160), (1080, 1920), (1920, 1080), (32, 32), (8, 300)])
@pytest.mark.parametrize("name", ["run", LONG, "a" * 200, "你好" * 40], ids=["run", "long", "word", "han"])
def test_captions_fit(height, width, name):
    box = drawing.caption([(f"{name}  87%", 255), (f"{name}  7%", 160)], height, width)
    assert box.shape[0] <= max(height // 2 + drawing.leading(drawing.SMALLEST), height if height < 20 else 0)
    assert box.shape[1] <= width
    assert box[:, -1].max() == 0  # nothing is cut off at the right
    assert box.max() > 200  # strokes of small letters are thinner than a pixel
    drawing.blend(np.zeros((height, width, 3), np.uint8), box)


def test_long_names_lose_no_word_where_there_is_room():
    rows = drawing.wrapped([(f"{LONG}  87%", 255)], 9.0, 160)
    assert " ".join(text for text, _ in rows) == f"{LONG} 87%"
    assert all(drawing.measure(text, 9.0) <= 160 for text, _ in rows)
    assert len(drawing.caption([(f"{LONG}  87%", 255)], 120, 160)) >= len(rows) * drawing.leading(9.0)


def test_the_font_grows_with_the_picture():
    heights = [len(drawing.caption([("walking  87%", 255)], side, side)) for side in (120, 480, 1080)]
    assert heights == sorted(set(heights))
    assert heights[-1] >= 1080 // 20


def test_older_opencv_writes_letters_of_its_own(monkeypatch):
    monkeypatch.setattr(drawing, "FONT", None)
    drawing.measure.cache_clear()
    box = drawing.caption([("Übung 你好 long enough to be wrapped  87%", 255)], 120, 160)
    drawing.measure.cache_clear()
    assert box.max() > 200
    assert box.shape[1] <= 160
    assert drawing.plain("é…") == "?..."


def test_a_video_is_written_before_the_next_is_done(result, capsys, tmp_path):
    """So that Ctrl-C, or a killed machine, leaves what was done."""
    values = {"stride": "", "window": "", "protocol": "", "threads": 1, "srt": str(tmp_path), "video": "", "top": 1}
    values |= {"json": str(tmp_path / "a.jsonl"), "csv": str(tmp_path / "a.csv"), "threshold": 0.3}

    def many(found, **how):
        yield "one.mp4", result
        yield "two.mp4", video.VideoError("two.mp4: is broken")
        raise KeyboardInterrupt

    predictor = types.SimpleNamespace(many=many, class_names=NAMES, multi_label=False)
    with pytest.raises(KeyboardInterrupt):
        command.run(predictor, {"one.mp4": "one", "two.mp4": "two"}, types.SimpleNamespace(**values))
    one, two = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert (one["num_frames"], two["error"]) == (40, "two.mp4: is broken")
    assert len(list(csv.reader((tmp_path / "a.csv").read_text().splitlines(keepends=True)))) == 1 + 1 + 3 + 2 + 1
    assert (tmp_path / "one.srt").read_text(encoding="utf-8").startswith("1\n00:00:00,000 --> 00:00:02,240\n")
    assert "skipped two.mp4: is broken" in capsys.readouterr().err
