"""What users really have in their folders: each gets one clear sentence or a masked row, and nothing is lost."""

import csv
import logging
import shutil

import numpy as np
import pytest
import tiny

from vidjax import data, main, train
from vidjax.data import video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with spaces and non-ASCII in its path, sixteen good videos and six strange files."""
    root = tmp_path_factory.mktemp("mes vidéos 日本")
    rng = np.random.default_rng(0)
    for name in ("push up", "tai chi"):
        (root / name).mkdir()
        for i in range(8):
            video.write(root / name / f"clip {i}.mp4", rng.integers(0, 256, (12, 32, 40, 3), np.uint8))
    (root / "empty class").mkdir()
    (root / "push up" / "empty.mp4").touch()
    (root / "push up" / "notes.mp4").write_text("this is a text file")
    (root / "push up" / "readme.txt").write_text("not a video, and not taken for one")
    video.write(root / "tai chi" / "one frame.mp4", rng.integers(0, 256, (1, 32, 40, 3), np.uint8))
    video.write(root / "tai chi" / "four pixels.mp4", rng.integers(0, 256, (12, 2, 2, 3), np.uint8))
    whole = (root / "tai chi" / "clip 0.mp4").read_bytes()
    (root / "tai chi" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return root


def options(folder, **changes):
    cfg = tiny.make_config(folder, steps=3, **changes)
    cfg.data.update({"source": "auto", "max_bad": 0.25})
    cfg.eval.allow_bad = True
    return cfg


def test_a_folder_of_oddities_trains(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "vidjax"):
        report = train.train(options(folder), str(tmp_path))
    assert "empty class" in caplog.text
    assert report["class_names"] == ["push up", "tai chi"]
    train_split, eval_split = (data.source(options(folder).data, split) for split in ("train", "eval"))
    assert len(train_split) + len(eval_split) == 21
    rows = [split[i] for split in (train_split, eval_split) for i in range(len(split))]
    bad = {row["id"]: row["error"] for row in rows if row["error"]}
    assert set(bad) == {"push up/empty.mp4", "push up/notes.mp4"}  # the cut file shows only when it is read
    assert all(name.split("/")[1] in error for name, error in bad.items())
    with open(tmp_path / "bad_videos.csv", newline="", encoding="utf-8") as file:
        listed = {row["id"]: row["error"] for row in csv.DictReader(file)}
    ids = [{split[i]["id"] for i in range(len(split))} for split in (train_split, eval_split)]
    assert set(listed) == {*bad, "tai chi/cut.mp4"} & ids[0]
    assert "frame 5 of 6 cannot be decoded" in listed["tai chi/cut.mp4"]
    assert {row["id"] for row in report["data"]["bad"]} == set(bad) & ids[1]


def test_truncated_avi_gives_the_frames_it_has(golden, tmp_path):
    whole = sorted(golden.glob("ut_interaction/set1/*.avi"))[0]
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[:120_000])
    found, there = video.probe(str(tmp_path / "cut.avi"))["num_frames"], video.probe(str(whole))["num_frames"]
    assert 1 < found < there
    same = list(range(found))
    np.testing.assert_array_equal(video.read(str(tmp_path / "cut.avi"), same[:-1]), video.read(str(whole), same[:-1]))
    with pytest.raises(video.VideoError, match="cut.avi"):
        video.read(str(tmp_path / "cut.avi"), [there - 1])


def test_csv_with_a_missing_file_masks_its_row(folder, tmp_path):
    lines = [f"{file},{file.parent.name}" for file in sorted(folder.glob("*/clip*.mp4"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, f"{tmp_path}/gone.mp4,tai chi"]))
    report = train.train(options(tmp_path / "list.csv"), str(tmp_path / "run"))
    bad = [row["error"] for row in report["data"]["bad"]]
    listed = tmp_path / "run" / "bad_videos.csv"
    assert bad == ["no such file"] or "gone.mp4,no such file" in listed.read_text()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.mkdir(), "has no videos in class folders"),
        (lambda path: path.write_text("file,label\na.mp4,b\n"), "has no column 'path'"),
        (lambda path: None, "is not a folder"),
    ],
)
def test_a_path_without_videos_is_one_sentence(tmp_path, capsys, make, sentence):
    path = tmp_path / ("data.csv" if "column" in sentence else "data")
    make(path)
    words = [f"--config={tiny.ROOT}/configs/quickstart.py:smoke", f"--config.data.path={path}"]
    assert main.main(["train", *words, f"--workdir={tmp_path / 'run'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert str(path) in line


def test_full_disk_while_saving_loses_nothing(folder, tmp_path, monkeypatch):
    """Orbax's writer reports that the disk is full at step 2; the run ends with that, and step 1 continues."""
    from vidjax import checkpoint

    good = shutil.copytree(folder, tmp_path / "videos", ignore=shutil.ignore_patterns("e*", "n*", "o*", "f*", "cut*"))
    cfg = options(good, checkpoint_every=1)
    finish = checkpoint.Checkpoints._finish

    def full(self, act):
        def failing():
            act()
            if self.saving == 2:
                raise OSError(28, "No space left on device")

        finish(self, failing)

    monkeypatch.setattr(checkpoint.Checkpoints, "_finish", full)
    with pytest.raises(checkpoint.CheckpointError, match="cannot write checkpoint 2 .* no space left"):
        train.train(cfg, str(tmp_path / "run"))
    monkeypatch.undo()
    assert checkpoint.Checkpoints(str(tmp_path / "run"), write=False).latest_step() is not None
    assert train.train(cfg, str(tmp_path / "run"))["step"] == 3
