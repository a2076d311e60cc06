"""`vidjax predict` as it is typed: any number of videos, what is asked for written, one sentence for what is wrong."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import tiny

from vidjax import main
from vidjax.data import video

NAMES = ["left", "right", "up"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return str(tiny.save_untrained(tmp_path_factory.mktemp("net") / "run", NAMES))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos in folders, one of them with a name that is hard to read, and one that is broken."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name, length in (("a/one.mp4", 33), ("b/zwei — ü.mp4", 20)):
        (folder / name).parent.mkdir()
        noise = np.kron(rng.integers(0, 256, (length, 8, 10, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
        video.write(folder / name, noise, fps=10)
    (folder / "broken.avi").write_bytes(b"RIFF")
    return folder


def test_everything_at_once(run, videos, tmp_path, capsys):
    out = {flag: str(tmp_path / flag) for flag in ("json", "csv", "srt", "video")}
    words = [f"--{flag}={path}" for flag, path in out.items()]
    assert main.main(["predict", str(videos), f"--weights={run}", "--threshold=0", "--stride=4f", *words]) == 1
    said = capsys.readouterr()
    assert "skipped " in said.err
    assert "broken.avi" in said.err
    assert said.out.count("whole video") == 2
    lines = [json.loads(line) for line in (tmp_path / "json").read_text(encoding="utf-8").splitlines()]
    assert [os.path.basename(line["path"]) for line in lines] == ["one.mp4", "zwei — ü.mp4", "broken.avi"]
    assert "error" in lines[2]
    for line, name in zip(lines[:2], ("a/one", "b/zwei — ü"), strict=True):
        times = video.times(line["path"])
        assert [one["frames"][0] for one in line["windows"]] == [
            *range(0, line["num_frames"] - 8, 4),
            line["num_frames"] - 8,
        ]
        for one in line["windows"] + line["segments"]:
            assert [one["start"], one["end"]] == times[one["frames"]].tolist()
        ends = [frame for one in line["segments"] for frame in one["frames"]]
        assert (ends[0], ends[-1], ends[1:-1:2]) == (0, line["num_frames"], ends[2:-1:2])  # without a gap
        with av.open(f"{out['srt']}/{name}.srt") as container:
            cues = [packet for packet in container.demux() if packet.size]
            shown = [round(1000 * float(packet.pts * packet.time_base)) for packet in cues]
        assert shown == [round(1000 * one["start"]) for one in line["segments"]]
        assert video.probe(f"{out['video']}/{name}.mp4") == video.probe(line["path"])
    with open(out["csv"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["kind"] == "segment" for row in rows) == sum(len(line.get("segments", ())) for line in lines)
    assert not [path for _, _, names in os.walk(tmp_path) for path in names if path.endswith(".part")]


def test_one_output_file_for_one_video(run, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(videos / "a" / "one.mp4")
    assert main.main(["predict", path, f"--workdir={run}", "--srt=mine.srt", "--video=mine.mp4", "--top=1"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["mine.mp4", "mine.srt"]
    capsys.readouterr()
    shutil.copy(path, tmp_path / "here.mp4")
    assert main.main(["predict", "here.mp4", f"--workdir={run}", "--video=."]) == 1
    assert "--video=. would overwrite here.mp4" in capsys.readouterr().err
    assert main.main(["predict", str(videos), f"--workdir={run}", "--srt=mine.srt"]) == 1
    assert "there are 3 videos: give a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stride=5", "--stride is a time such as 0.5s or a number of frames such as 8f, not '5'"),
        ("--window=1s", "the net sees clips of 8 frames at stride 1, so windows are as long as these"),
        ("--protocol=slowfst", "there is no test protocol 'slowfst'; take slowfast_10x3"),
        ("--json=none/x.jsonl", "cannot write none/x.jsonl: No such file or directory"),
        ("--list=none.txt", "the list none.txt cannot be read"),
        ("--weights=elsewhere", "give a video file or a folder, and a run or weights"),
        ("--threshold=2", "--threshold=2"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(run, videos, capsys, tmp_path, monkeypatch, flag, message):
    monkeypatch.chdir(tmp_path)
    assert main.main(["predict", str(videos / "a"), f"--workdir={run}", flag]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_are_shown_as_well_as_can_be(run, videos, tmp_path, capsys):
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(videos / "a" / "one.mp4", path)
    words = [f"--json={tmp_path}/a.jsonl", f"--csv={tmp_path}/a.csv", f"--srt={tmp_path}", f"--video={tmp_path}/drawn"]
    assert main.main(["predict", str(tmp_path), f"--weights={run}", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/caf?.mp4"
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))["path"] == f"{tmp_path}/caf?.mp4"
    assert os.path.exists(path.replace("mp4", "srt"))
    assert os.listdir(bytes(tmp_path) + b"/drawn") == [b"caf\xe9.mp4"]


def test_a_copy_that_cannot_be_written_stops_no_other(run, videos, tmp_path, capsys):
    whole = (videos / "a" / "one.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole)
    (tmp_path / "b.mp4").write_bytes(whole)
    (tmp_path / "drawn" / "a.mp4").mkdir(parents=True)  # in its place
    words = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), f"--weights={run}", f"--video={tmp_path}/drawn"]
    assert main.main(["predict", *words]) == 1
    said = capsys.readouterr()
    assert f"skipped cannot write {tmp_path}/drawn/a.mp4: Is a directory" in said.err
    assert said.out.count("whole video") == 2
    assert video.probe(tmp_path / "drawn" / "b.mp4")["num_frames"] == 33


def test_a_folder_without_a_run_says_so(videos, tmp_path, capsys):
    for path in (tmp_path, tmp_path / "gone"):
        assert main.main(["predict", str(videos), f"--weights={path}"]) == 1
        assert f"no checkpoint in {path}" in capsys.readouterr().err
    assert main.main(["predict", str(videos), f"--weights={tmp_path}/gone.pth"]) == 1
    assert "There is no file" in capsys.readouterr().err


def test_a_published_file_predicts_without_a_run(golden, capsys):
    weights, clip = golden / "weights" / "keras" / "hac_convlstm31.h5", "v_BaseballPitch_g01_c01.avi"
    words = [f"--weights={weights}", "--from=keras_lrcn:hac_convlstm31", "--top=1"]
    assert main.main(["predict", str(golden / "video" / "clips" / clip), *words]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  whole video        BaseballPitch 99.6%"


def test_ctrl_c_keeps_what_was_written(run, videos, tmp_path):
    """In a process of its own: many copies of a video, stopped after the first line."""
    for i in range(400):
        shutil.copy(videos / "a" / "one.mp4", tmp_path / f"{i:03d}.mp4")
    words = ["predict", str(tmp_path), f"--workdir={run}", f"--json={tmp_path}/out.jsonl", f"--video={tmp_path}/drawn"]
    program = ["/usr/bin/env", "--default-signal=INT", sys.executable, "-c", "import vidjax.main; vidjax.main.run()"]
    with subprocess.Popen([*program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "out.jsonl").exists() or not (tmp_path / "out.jsonl").read_text().count("\n") > 1:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.endswith("vidjax predict: stopped\n")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert 1 < len(lines) < 400
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert len(drawn) in (len(lines), len(lines) - 1)
    assert all(name.endswith(".mp4") for name in drawn)
