"""The motion suite: one frame says nothing about the class, eight say it; files are deterministic and resumable."""

import collections
import itertools
import json
import os

import cv2
import numpy as np
import pytest

from vidjax.data import motion, video

SMALL = {"train": 10, "evaluation": 9, "size": 32, "frames": (4, 6)}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "motion"
    assert motion.render(out, **SMALL) == 19
    return out


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_one_frame_has_the_same_shape_statistics_in_every_class(frame):
    """Centre, angle and size of the shape are uniform in each frame of each class (independent scenes per class)."""
    count = 1500
    low, high = motion.RANGES.T
    for number, label in enumerate(motion.CLASSES):
        plans = (motion.scene(number, "train", n, (8, 8)) for n in range(count))
        unit = (np.array([motion.states(plan, label)[frame] for plan in plans]) - low) / (high - low)
        ranks = (np.arange(count) + 0.5)[:, None] / count
        distance = np.abs(np.sort(unit, axis=0) - ranks).max(axis=0)
        assert distance.max() < 1.95 / count**0.5, (label, distance)  # Kolmogorov-Smirnov, p = 0.001


def test_nearest_neighbours_of_one_frame_are_at_chance():
    """The class of the most similar frame of another scene, shape alone or pixels, is right one time in eight."""
    picked = np.random.default_rng(0).integers(0, 8, 1600)
    frames = [
        motion.draw(motion.scene(0, "train", n, (8, 8)), motion.CLASSES[label], 24)[picked[-n]]
        for n, label in enumerate(picked)
    ]
    pixels = np.stack(frames).reshape(len(picked), -1).astype(np.float32)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    pixels = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T
    np.fill_diagonal(similarity, -1)
    right = (picked[similarity.argmax(axis=1)] == picked).mean()
    assert abs(right - 1 / 8) < 4 * (1 / 8 * 7 / 8 / len(picked)) ** 0.5


def seen(plan, label):
    """The motion that optical flow sees in a drawn clip around the shape, in the order of `SPEEDS`: (4,)."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in motion.draw(plan, label, 64)]
    flow, found = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), []
    flow.setFinestScale(0)
    rows, columns = (np.mgrid[0:64, 0:64] + 0.5) / 64
    for a, b, (x, y, angle, scale) in zip(grey, grey[1:], motion.states(plan, label), strict=False):
        radius, dx, dy = np.exp(scale), columns - x, rows - y
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        inside = motion.distance(plan["shape"], plan["aspect"], u / radius, v / radius) < 0
        dx, dy = dx[inside], dy[inside]
        design = np.stack(
            [np.r_[one, other] for one, other in ((dx * 0 + 1, dy * 0), (dx * 0, dy * 0 + 1), (-dy, dx), (dx, dy))]
        )
        moved = flow.calc(a, b, None)[inside] / 64
        found.append(np.linalg.lstsq(design.T, moved.T.ravel(), rcond=None)[0])
    return np.median(found, axis=0) / motion.SPEEDS.mean(axis=1)


@pytest.mark.parametrize("label", motion.CLASSES)
def test_eight_frames_show_the_class(label):
    """Optical flow in the drawn pixels, fitted by shift, turn and growth, points at the class."""
    right = 0
    for n in range(12):
        motions = seen(motion.scene(0, "eval", n, (8, 8)), label)
        strongest = np.abs(motions).argmax()
        right += np.sign(motions[strongest]) == motion.MOTIONS[label][strongest]
    assert right >= 9, right


def test_flip_exchanges_the_classes_that_a_mirror_exchanges():
    assert motion.FLIP == {
        "left": "right",
        "right": "left",
        "clockwise": "counterclockwise",
        "counterclockwise": "clockwise",
    }
    for label, velocity in motion.MOTIONS.items():
        mirrored = motion.MOTIONS[motion.FLIP.get(label, label)]
        assert mirrored == tuple(np.array(velocity) * (-1, 1, -1, 1)), label


def test_a_scene_is_filmed_once_per_class():
    """At the reference frame, and only there, the eight clips of a scene show the same picture."""
    plan = motion.scene(0, "train", 5, (8, 8))
    clips = np.stack([motion.draw(plan, label, 32) for label in motion.CLASSES])
    same = (clips == clips[:1]).all(axis=(0, 2, 3, 4))
    assert same.tolist() == [t == plan["reference"] for t in range(8)]


def test_splits_share_no_texture(suite):
    families = {
        split: {(name, number) for name, numbers in families.items() for number in numbers}
        for split, families in motion.TEXTURES.items()
    }
    assert not families["train"] & families["eval"]
    textures = json.loads((suite / "motion.json").read_text())["textures"]
    assert len(textures) == 19
    used = collections.defaultdict(set)
    for path, names in textures.items():
        used[path.split("/")[0]] |= {tuple(name.split("-")[:2]) for name in names}
        assert all(motion.texture(name).min() == 0 and motion.texture(name).max() == 1 for name in names)
    assert not used["train"] & used["eval"]
    assert len(used["train"]) > 1
    assert len(used["eval"]) > 1


@pytest.mark.parametrize("split", ["train", "eval"])
def test_textures_are_periodic(split):
    """A tile meets itself at its border about as smoothly as anywhere else: the drifting background shows no seam."""
    for family, numbers in motion.TEXTURES[split].items():
        if family == "checker":
            continue
        tile = motion.texture(f"{family}-{numbers[0]}-7")
        for axis in (0, 1):
            steps = np.abs(np.diff(np.concatenate([tile, tile], axis), axis=axis)).max(axis=1 - axis)
            assert steps[motion.TILE - 1] <= 1.2 * np.delete(steps, motion.TILE - 1).max(), (family, axis)


def test_files_hold_the_clips(suite):
    """Names, classes, sizes and lengths; the H.264 files keep the drawn pixels to a few levels."""
    files = sorted(path.relative_to(suite).as_posix() for path in suite.rglob("*.mp4"))
    assert len(files) == 19
    assert {"train/left/00000.mp4", "train/left/00001.mp4", "eval/shrink/00000.mp4"} < set(files)
    plan = motion.scene(0, "train", 1, (4, 6))
    drawn = motion.draw(plan, "right", 32)
    stored = video.read(str(suite / "train/right/00001.mp4"), np.arange(len(drawn)))
    assert video.probe(str(suite / "train/right/00001.mp4"))["num_frames"] == plan["length"]
    blurred = [[cv2.blur(frame, (4, 4)).astype(int) for frame in clip] for clip in (drawn, stored)]
    assert np.abs(np.subtract(*blurred)).mean() < 4


def test_render_is_deterministic_resumes_and_keeps_what_is_finished(suite, tmp_path):
    out = tmp_path / "mötion suite"
    stop = itertools.count(1)

    def interrupt(done, total):
        assert total == 19
        if next(stop) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        motion.render(out, **SMALL, progress=interrupt)
    assert not (out / "motion.json").exists()
    calls = []
    assert motion.render(out, **SMALL, progress=lambda *call: calls.append(call)) == 14
    assert calls == [(n, 19) for n in range(6, 20)]
    for path in (*suite.rglob("*.mp4"), suite / "motion.json"):
        assert path.read_bytes() == (out / path.relative_to(suite)).read_bytes()
    assert motion.render(out, **SMALL) == 0
    os.remove(out / "train/up/00000.mp4")
    assert motion.render(out, **SMALL) == 1
    with pytest.raises(ValueError, match="seed 0, not 1"):
        motion.render(out, **SMALL, seed=1)


def test_worker_processes_write_the_same_files(suite, tmp_path):
    many = SMALL | {"train": 70}
    assert motion.render(tmp_path / "out", **many, workers=2) == 79
    for path in suite.rglob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(suite)).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 33}, "even number"),
        ({"frames": 1}, "at least 2"),
        ({"classes": ("left", "sideways")}, "no class 'sideways'"),
        ({"train": -1}, "negative"),
    ],
)
def test_bad_parameters_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        motion.render(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty and has no motion.json"):
        motion.render(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]
