"""TFDS builders: official files in, ArrayRecord out, read back; without TensorFlow and without an ffmpeg binary."""

import json
import logging
import shutil
import sys

import cv2
import numpy as np
import pytest

from vidjax.data import builders, video
from vidjax.data.builders import frames, schema, tfds


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two real videos: 5 frames of 24x16 at 10 a second, 3 of 16x16 at 25."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    video.write(folder / "five.mp4", rng.integers(0, 255, (5, 16, 24, 3), np.uint8), fps=10)
    video.write(folder / "three.mp4", rng.integers(0, 255, (3, 16, 16, 3), np.uint8), fps=25)
    return folder


@pytest.fixture
def put(clips, tmp_path):
    """Makes {name: text, or a clip's path to copy} below the test's folder `source`."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                shutil.copy(content, path)
        return tmp_path / "source"

    return write


# TFDS 4.9.10, finding a built set again, asks protobuf in a way that protobuf has deprecated.
@pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")
def test_ucf101_is_built_per_split_and_tells_what_it_lacks(put, clips, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no program can be called
    before = "tensorflow" in sys.modules
    source = put(
        {
            "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g08_c01.avi 3\nBiking/v_Biking_g08_c01.avi 11\n"
            "Archery/v_Archery_g09_c01.avi 3\n",
            "ucfTrainTestlist/testlist01.txt": "YoYo/v_YoYo_g01_c01.avi\nYoYo/v_YoYo_g01_c02.avi\n",
            "ucfTrainTestlist/trainlist02.txt": "YoYo/v_YoYo_g01_c01.avi 101\n",
            "UCF-101/Archery/v_Archery_g08_c01.avi": clips / "five.mp4",
            "UCF-101/Biking/v_Biking_g08_c01.avi": "not a video",
            "UCF-101/Archery/v_Archery_g09_c01.avi": clips / "three.mp4",
            "UCF-101/YoYo/v_YoYo_g01_c01.avi": clips / "three.mp4",
        }
    )
    with caplog.at_level(logging.WARNING, "vidjax"):
        built = tfds.build("ucf101", source, tmp_path / "data", "1")
    train, held = (built.as_data_source(split=side) for side in ("train", "eval"))
    assert [each["id"] for each in train] == [b"Archery/v_Archery_g08_c01.avi", b"Archery/v_Archery_g09_c01.avi"]
    assert dict(train[0]) == {
        "id": b"Archery/v_Archery_g08_c01.avi",
        "video": (clips / "five.mp4").read_bytes(),
        "label": 2,
        "num_frames": 5,
        "fps": 10.0,
        "width": 24,
        "height": 16,
    }
    assert np.array_equal(video.read(train[0]["video"], [4, 1]), video.read(clips / "five.mp4", [4, 1]))
    assert [(each["id"], each["label"], each["num_frames"]) for each in held] == [(b"YoYo/v_YoYo_g01_c01.avi", 100, 3)]
    damaged, about = "Biking/v_Biking_g08_c01.avi", built.info.metadata
    assert about["missing"] == ["YoYo/v_YoYo_g01_c02.avi"]
    assert list(about["unreadable"]) == [damaged]
    assert [record.getMessage() for record in caplog.records] == [
        f"{damaged} is left out: {about['unreadable'][damaged]}"
    ]
    assert about["report"] == builders.report(builders.listing("ucf101", source))
    assert ("tensorflow" in sys.modules) == before

    again = tfds.build("ucf101", "/nowhere", tmp_path / "data", "1")  # what is built needs no source
    assert again.info.metadata["missing"] == about["missing"]
    assert again.info.features["label"].names == list(builders.labels("ucf101"))
    other = tfds.build("ucf101", source, tmp_path / "data", "2").as_data_source()
    assert {side: [each["id"] for each in examples] for side, examples in other.items()} == {
        "train": [b"YoYo/v_YoYo_g01_c01.avi"]
    }


def test_charades_keeps_labels_and_intervals(put, clips, tmp_path):
    head = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    source = put(
        {
            "Charades_v1_train.csv": head + "46GP8,,,,,,,,,c092 11.90 21.20;c147 0.00 12.60;c092 0.50 2.00,24.83\n",
            "Charades_v1_test.csv": head + "YSKX3,,,,,,,,,,30.00\n",
            "Charades_v1/46GP8.mp4": clips / "five.mp4",
            "Charades_v1/YSKX3.mp4": clips / "three.mp4",
        }
    )
    built = tfds.build("charades", source, tmp_path / "data")
    one, none = (built.as_data_source(split=side)[0] for side in ("train", "eval"))
    assert list(one["labels"]) == [92, 147]
    assert list(one["intervals"]["label"]) == [92, 147, 92]
    assert list(one["intervals"]["start"]) == list(np.float32([11.9, 0, 0.5]))
    assert list(one["intervals"]["end"]) == list(np.float32([21.2, 12.6, 2]))
    assert "label" not in one
    assert len(none["labels"]) == len(none["intervals"]["start"]) == 0


def test_something_something_v2_keeps_captions_and_mirror_images(put, clips, tmp_path):
    row = {"id": "7", "label": "pushing a pen from left to right", "template": "Pushing [something] from left to right"}
    source = put({"train.json": json.dumps([row]), "20bn-something-something-v2/7.webm": clips / "five.mp4"})
    built = tfds.build("something_something_v2", source, tmp_path / "data")
    found = built.as_data_source(split="train")[0]
    assert (found["id"], found["label"], found["caption"]) == (b"7", 93, b"pushing a pen from left to right")
    assert ["Pushing something from left to right", "Pushing something from right to left"] in built.info.metadata[
        "flip_pairs"
    ]


def test_folders_of_frames_become_videos(put, tmp_path):
    source = put({"jester-v1-train.csv": "4;Thumb Up\n"})
    pictures = [np.full((16, 24, 3), (0, 0, 60 * k), np.uint8) for k in range(4)]  # BGR: red grows
    (source / "20bn-jester-v1/4").mkdir(parents=True)
    for k, picture in enumerate(pictures, 1):
        cv2.imwrite(str(source / f"20bn-jester-v1/4/{k:05d}.jpg"), picture)
    found = tfds.build("jester", source, tmp_path / "data").as_data_source(split="train")[0]
    assert (found["num_frames"], found["fps"], found["width"], found["height"]) == (4, 12.0, 24, 16)
    red = video.read(found["video"], range(4)).mean(axis=(1, 2))
    expected = np.stack([picture[0, 0, ::-1] for picture in pictures])
    assert np.abs(red - expected).max() < 6  # JPEG and H.264 round the colour; the steps are 60


def test_frames_that_make_no_video_are_named(tmp_path):
    with pytest.raises(video.VideoError, match=f"^{tmp_path}: there is no JPEG frame$"):
        frames.encoded(tmp_path)
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((16, 16, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "2.jpg"), np.zeros((16, 32, 3), np.uint8))
    with pytest.raises(video.VideoError, match=f"^{tmp_path}/2.jpg: 32x16 pixels, but 16x16 before$"):
        frames.encoded(tmp_path)
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(video.VideoError, match=f"^{tmp_path}/2.jpg: cannot be read as a picture$"):
        frames.encoded(tmp_path)


def test_features_of_every_data_set_have_the_common_schema():
    common = {"id", "video", "num_frames", "fps", "width", "height"}
    for name in tfds.BUILDERS:
        blank = builders.blank(name)
        label = "labels" if blank.multi_label else "label"
        assert set(schema.features(blank)) == common | {label} | set(blank.extras)


def test_what_cannot_be_built_is_named(tmp_path):
    with pytest.raises(ValueError, match="^no TFDS builder for 'folder'; there are ucf101, hmdb51, "):
        tfds.build("folder", tmp_path, tmp_path / "data")
    with pytest.raises(ValueError, match="^hmdb51 has no split ''; splits are '1', '2', '3'$"):
        tfds.build("hmdb51", tmp_path, tmp_path / "data")
    with pytest.raises(ValueError, match=f"^hmdb51: no file brush_hair_test_split1.txt or .* in {tmp_path}"):
        tfds.build("hmdb51", tmp_path, tmp_path / "data", "1")
