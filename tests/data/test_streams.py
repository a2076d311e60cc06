"""Maps whose every value is known, in each of the forms that a stream may have."""

import os
import pathlib

import cv2
import numpy as np
import pytest

from vidjax.data import streams, video

FRAMES = 12


def maps(dtype, channels=1, frames=FRAMES, height=6, width=10):
    """Map k is all k * 100 + position, modulo what the type holds."""
    values = np.arange(frames)[:, None, None, None] * 100 + np.arange(height * width * channels).reshape(
        1, height, width, channels
    )
    return (values % 251 if dtype == "uint8" else values).astype(dtype)


def save(where, values):
    """Writes one form of a stream: an array file by its ending, a video, or a folder of pictures."""
    if where.suffix == ".npy":
        np.save(where, values)
    elif where.suffix == ".npz":
        np.savez_compressed(where, maps=values)
    else:
        where.mkdir()
        for number, value in enumerate(values):
            cv2.imwrite(str(where / f"depth_v2_{number + 1}.png"), value[..., ::-1] if value.shape[-1] == 3 else value)
    return where


@pytest.mark.parametrize("name", ["maps.npy", "maps.npz", "maps"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", streams.DTYPES)
def test_maps_are_as_stored(name, channels, dtype, tmp_path):
    if name == "maps" and dtype.startswith("float"):
        dtype = "uint16"  # what a PNG holds
    values = maps(dtype, channels)
    path = save(tmp_path / name, values)
    for indices in ([0], [11, 2, 2, 9], range(FRAMES)):
        found = streams.read(str(path), indices, FRAMES)
        np.testing.assert_array_equal(found, values[list(indices)])
        assert found.dtype == dtype
        assert type(found) is np.ndarray


@pytest.mark.parametrize("name", ["maps.npy", "maps.npz"])
def test_arrays_without_channels_and_of_other_byte_order(name, tmp_path):
    values = maps("uint16")
    path = save(tmp_path / name, np.asfortranarray(values[..., 0].astype(">u2")))
    found = streams.read(path, [3, 1])
    np.testing.assert_array_equal(found, values[[3, 1]])
    assert found.dtype.isnative


def test_a_video_is_a_stream(tmp_path):
    levels = np.linspace(20, 220, FRAMES).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (FRAMES, 32, 48, 3))
    video.write(tmp_path / "maps.mp4", frames)
    found = streams.read(tmp_path / "maps.mp4", [7, 0], FRAMES)
    assert found.shape == (2, 32, 48, 3)
    assert np.abs(found.astype(int) - frames[[7, 0]]).max() <= 3  # 8-bit limited-range YUV
    taken, present = streams.clip(record(tmp_path), [7, 0], pattern="maps.mp4")
    np.testing.assert_array_equal(taken, found[..., :1])
    assert present == 1


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    for number in (9, 10, 100, 2):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((4, 4), number, np.uint8))
    (tmp_path / "notes 5.txt").write_text("no picture")
    (tmp_path / ".7.png").write_text("hidden")
    assert streams.read(tmp_path, range(4), 4)[:, 0, 0, 0].tolist() == [2, 9, 10, 100]


def record(folder, name="clip.mp4", frames=FRAMES):
    return {"id": f"{folder.name}/{name}", "path": str(folder / name), "num_frames": frames}


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("{stem}.depth.npy", "videos/waving/clip.depth.npy"),
        ("{name}.npy", "videos/waving/clip.mp4.npy"),
        ("../../depth/{folder}/{stem}", "depth/waving/clip"),
        ("ROOT/{id}.npz", "waving/clip.npz"),
        ("~/{stem}.npy", "clip.npy"),
    ],
)
def test_find(pattern, place, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, pattern = tmp_path / "videos" / "waving", pattern.replace("ROOT", str(tmp_path))
    folder.mkdir(parents=True)
    assert streams.find(record(folder), pattern) is None
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    save(tmp_path / place, maps("uint8"))
    assert os.path.realpath(streams.find(record(folder), pattern)) == str(tmp_path / place)


def test_find_for_built_data_sets(tmp_path):
    built = {"id": "v_1.5x_g01", "blob": object(), "num_frames": FRAMES}
    path = save(tmp_path / "v_1.5x_g01.npy", maps("uint8"))
    assert streams.find(built, f"{tmp_path}/{{id}}.npy") == str(path)
    with pytest.raises(ValueError, match="must be an absolute path: v_1.5x_g01 is in a built data set"):
        streams.find(built, "{id}.npy")
    with pytest.raises(ValueError, match=r"names \{stem\}; v_1\.5x_g01 has \{id\}$"):
        streams.find(built, "{stem}.npy")


def test_a_clip_is_bytes_between_low_and_high(tmp_path):
    values = maps("uint16")
    save(tmp_path / "clip.npy", values)
    found, present = streams.clip(record(tmp_path), [5, 0, 5], pattern="{stem}.npy", low=50, high=1050)
    expected = [[[round(min(max((int(v) - 50) / 1000, 0), 1) * 255) for v in row] for row in m[..., 0]] for m in values]
    np.testing.assert_array_equal(found[..., 0], np.array(expected)[[5, 0, 5]])
    assert (found.dtype, present.dtype, present) == (np.uint8, np.float32, 1)


def test_bytes_stay_what_they_are_and_holes_are_zero():
    values = maps("uint8")
    assert streams.quantise(values, 0, 255) is values
    metres = np.array([np.nan, -np.inf, 0, 2.5, 10, 11, np.inf], np.float32)
    assert streams.quantise(metres, 0, 10).tolist() == [0, 0, 0, 64, 255, 255, 255]


def test_a_missing_stream_is_masked(tmp_path):
    found, present = streams.clip(record(tmp_path), range(5), pattern="{stem}.npy", channels=2)
    assert found.shape[0] == 5
    assert found.shape[3] == 2
    assert found.dtype == np.uint8
    assert not found.any()
    assert (present, present.dtype) == (0, np.float32)
    assert streams.shape(pattern="{stem}.npy", channels=2, frames=5, size=24) == (5, 24, 24, 2)


def test_options_that_cannot_be(tmp_path):
    for options in ({"channels": 0}, {"low": 3, "high": 3}):
        with pytest.raises(ValueError, match="a stream needs channels of at least 1 and low < high"):
            streams.clip(record(tmp_path), [0], pattern="x.npy", **options)
        with pytest.raises(ValueError, match="a stream needs channels of at least 1 and low < high"):
            streams.shape(frames=1, size=8, **options)
    with pytest.raises(ValueError, match="map numbers >= 0"):
        streams.read(save(tmp_path / "maps.npy", maps("uint8")), [-1])


def bad_streams(folder):
    """[(path, what the message says after it)]."""
    good = save(folder / "good.npy", maps("uint8"))
    content = good.read_bytes()
    (folder / "cut.npy").write_bytes(content[:-50])
    (folder / "header.npy").write_bytes(content[:40])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npz").write_bytes(b"PK no archive")
    np.save(folder / "objects.npy", np.array([{"a": 1}] * FRAMES, object), allow_pickle=True)
    np.save(folder / "flat.npy", np.zeros((FRAMES, 4)))
    np.save(folder / "double.npy", np.zeros((FRAMES, 4, 4)))
    np.savez(folder / "two.npz", a=np.zeros((2, 2, 2), np.uint8), b=np.zeros(1))
    np.savez_compressed(folder / "flipped.npz", maps("uint16", frames=FRAMES, height=40))
    packed = bytearray((folder / "flipped.npz").read_bytes())
    packed[len(packed) // 2] ^= 255
    (folder / "flipped.npz").write_bytes(packed)
    (folder / "video.mp4").write_bytes(b"no video" * 99)
    for name, pictures in {"odd": [4, 5], "twice": [4, 4], "broken": [4], "unnumbered": [4]}.items():
        (folder / name).mkdir()
        for number, side in enumerate(pictures):
            cv2.imwrite(str(folder / name / f"{number}.png"), np.zeros((side, 4), np.uint8))
    cv2.imwrite(str(folder / "twice" / "00.png"), np.zeros((4, 4), np.uint8))
    (folder / "broken" / "1.png").write_bytes(b"\x89PNG")
    (folder / "unnumbered" / "last.png").write_bytes(b"")
    return [
        ("cut.npy", ""),
        ("header.npy", ""),
        ("empty.npy", ""),
        ("text.npz", "not a zip file"),
        ("objects.npy", ""),
        ("flat.npy", r"maps must be \(T, H, W\) or .* not float64 \(12, 4\)"),
        ("double.npy", r"maps must be .* not float64 \(12, 4, 4\)"),
        ("two.npz", "holds one array, this one 2"),
        ("flipped.npz", ""),
        ("video.mp4", "cannot be read as video"),
        ("odd", "the picture 1.png is 4x5x1 uint8, the first 4x4x1 uint8"),
        ("twice", "the pictures 0.png and 00.png have the same number"),
        ("broken", "the picture 1.png cannot be decoded"),
        ("unnumbered", "the picture last.png has no number"),
        ("nothing.npy", "No such file"),
    ]


def test_a_malformed_stream_is_one_sentence_that_names_it(tmp_path):
    for name, problem in bad_streams(tmp_path):
        with pytest.raises(video.VideoError, match=f"{name}: .*{problem}") as caught:
            streams.read(tmp_path / name, [0, 1])
        assert str(caught.value).startswith(f"{tmp_path / name}: "), name
        assert "\n" not in str(caught.value), name


def test_pickles_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "maps.npy", np.array([Trap()] * FRAMES, object), allow_pickle=True)
    np.savez(tmp_path / "maps.npz", np.array([Trap()] * FRAMES, object))
    for name in ("maps.npy", "maps.npz"):
        with pytest.raises(video.VideoError):
            streams.read(tmp_path / name, [0])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["maps.npy", "maps.npz", "maps", "maps.mp4"])
def test_a_stream_is_as_long_as_its_video(name, tmp_path):
    if name == "maps.mp4":
        video.write(tmp_path / name, np.zeros((FRAMES, 16, 16, 3), np.uint8))
    else:
        save(tmp_path / name, maps("uint8"))
    with pytest.raises(video.VideoError, match=f"{name}: it has 12 maps where the video has 13 frames"):
        streams.clip(record(tmp_path, frames=13), [0], pattern=name)
    with pytest.raises(video.VideoError, match=f"{name}: there is no map 12, there are only 12"):
        streams.read(tmp_path / name, [3, 12])


def test_channels_must_agree(tmp_path):
    save(tmp_path / "maps.npy", maps("uint8", 3))
    found, _ = streams.clip(record(tmp_path), [4], pattern="maps.npy", channels=3)
    np.testing.assert_array_equal(found, maps("uint8", 3)[[4]])
    for channels in (2, 4):
        with pytest.raises(video.VideoError, match=rf"maps\.npy: maps of 3 channels cannot give {channels}"):
            streams.clip(record(tmp_path), [4], pattern="maps.npy", channels=channels)


def test_an_array_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "maps.npz", maps("uint8"))
    monkeypatch.setattr(streams, "MAX_BYTES", FRAMES * 60)
    with pytest.raises(video.VideoError, match=r"maps\.npz: its array unpacks to 848 bytes, the limit is 720"):
        streams.read(path, [0])
