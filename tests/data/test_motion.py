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


@pytest.fixture(scope="module")
def plans():
    return [motion.scene(0, "train", n, (8, 8)) for n in range(1500)]


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_one_frame_has_the_same_shape_statistics_in_every_class(plans, frame):
    """Centre, angle and log-size of the shape are uniform on the same ranges in each frame of each class."""
    low, high = motion.RANGES.T
    for label in motion.CLASSES:
        unit = (np.array([motion.states(plan, label)[frame] for plan in plans]) - low) / (high - low)
        ranks = (np.arange(len(plans)) + 0.5)[:, None] / len(plans)
        distance = np.abs(np.sort(unit, axis=0) - ranks).max(axis=0)
        assert distance.max() < 1.95 / len(plans) ** 0.5, (label, distance)  # Kolmogorov-Smirnov, p = 0.001


@pytest.mark.parametrize("frame", [0, 4])
def test_the_most_similar_frame_of_another_scene_is_right_by_chance(plans, frame):
    picked = np.random.default_rng(0).integers(0, 8, 700)
    drawn = [motion.draw(plan, motion.CLASSES[label], 24)[frame] for plan, label in zip(plans, picked, strict=False)]
    pixels = np.stack(drawn).reshape(len(picked), -1).astype(np.float32)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    pixels = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T
    np.fill_diagonal(similarity, -1)
    right = (picked[similarity.argmax(axis=1)] == picked).mean()
    assert abs(right - 1 / 8) < 3 * (1 / 8 * 7 / 8 / len(picked)) ** 0.5


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


def assert_same_video(one, other):
    """The drawn pixels are equal; x264 is not always: 30 of 91,000 encodings of equal pixels differed under load."""
    frames = [
        video.read(str(path), np.arange(video.probe(str(path))["num_frames"])).astype(int) for path in (one, other)
    ]
    assert frames[0].shape == frames[1].shape
    assert (
        np.abs(np.subtract(*frames)).mean() < 3
    )  # another scene differs by 35 or more, another class of the scene by 3.2


def test_drawing_is_deterministic():
    for label in motion.CLASSES[::3]:
        one, other = (motion.draw(motion.scene(3, "eval", 7, (5, 9)), label, 32) for _ in range(2))
        assert (one == other).all()
    other = motion.draw(motion.scene(4, "eval", 7, (5, 9)), label, 32)
    assert one.shape != other.shape or (one != other).any()


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
    assert (suite / "motion.json").read_text() == (out / "motion.json").read_text()
    for path in suite.rglob("*.mp4"):
        assert_same_video(path, out / path.relative_to(suite))
    assert motion.render(out, **SMALL) == 0
    os.remove(out / "train/up/00000.mp4")
    assert motion.render(out, **SMALL) == 1
    with pytest.raises(ValueError, match="seed 0, not 1"):
        motion.render(out, **SMALL, seed=1)


def test_worker_processes_write_the_same_files(suite, tmp_path):
    many = SMALL | {"train": 70}
    assert motion.render(tmp_path / "out", **many, workers=2) == 79
    for path in suite.rglob("*.mp4"):
        assert_same_video(path, tmp_path / "out" / path.relative_to(suite))


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
    (tmp_path / "motion.json").write_text('{"version": 1')
    with pytest.raises(ValueError, match="motion.json is damaged: delete the folder"):
        motion.render(tmp_path)


@pytest.mark.parametrize("label", motion.CLASSES)
def test_pixels_are_found_again_where_the_true_flow_leads(label):
    for n in range(6):
        plan = motion.scene(5, "eval", n, (6, 6)) | {"noise": 0.0}
        size, film = 128, motion.draw(plan, label, 128).astype(np.float32)
        flow, shapes = motion.true_flow(plan, label, size)
        assert (flow.shape, flow.dtype, shapes.shape) == ((5, size, size, 2), np.float32, (6, size, size))
        rows, columns = np.mgrid[:size, :size].astype(np.float32)
        for k, field in enumerate(flow):
            x, y = columns + field[..., 0], rows + field[..., 1]
            solid = [cv2.erode(s.astype(np.uint8), np.ones((7, 7))) for s in (shapes[k + 1], 1 - shapes[k + 1])]
            inside = cv2.remap(solid[0], x, y, cv2.INTER_NEAREST)  # 0 outside of the picture
            outside = cv2.remap(solid[1], x, y, cv2.INTER_NEAREST)
            kept = np.where(shapes[k], inside & cv2.erode(shapes[k].astype(np.uint8), np.ones((7, 7))), outside) > 0
            kept[:3], kept[-3:], kept[:, :3], kept[:, -3:] = False, False, False, False
            there = cv2.remap(film[k + 1], x, y, cv2.INTER_LINEAR)
            assert kept.mean() > 0.3
            wrong = np.abs(there - film[k])[kept].max(-1)
            assert np.quantile(wrong, 0.9) < 6, (n, k)  # levels; textures are drawn between pixels, then looked up so
            moving = kept & (np.abs(field).max(-1) > 1)
            if moving.sum() > 200:
                assert np.abs(film[k + 1] - film[k])[moving].mean() > 2 * np.abs(there - film[k])[moving].mean(), (n, k)


def test_the_true_flow_of_a_file(suite):
    flow, shapes = motion.true_flow_of(suite / "eval" / "left" / "00001.mp4")
    given = json.loads((suite / "motion.json").read_text())
    plan = motion.plan_of(given, "eval", 8)
    length = video.probe(str(suite / "eval" / "left" / "00001.mp4"))["num_frames"]
    assert (len(flow), len(shapes)) == (length - 1, length)
    np.testing.assert_array_equal(flow, motion.true_flow(plan, "left", 32)[0])
    steps = 32 * np.diff(motion.states(plan, "left")[:, :2], axis=0)
    for field, shape, step in zip(flow, shapes, steps, strict=False):
        assert shape.any()
        np.testing.assert_allclose(field[shape] - step, 0, atol=1e-3)  # pixels, of float32 trigonometry
        assert step[0] != 0


@pytest.mark.parametrize("path", ["left/00000.mp4", "eval/left/00000.avi", "eval/fly/00000.mp4", "eval/left/x.mp4"])
def test_other_files_have_no_true_flow(suite, path):
    with pytest.raises(ValueError, match="is no video of a rendered motion suite"):
        motion.true_flow_of(suite / path)
