"""Parts of a page by themselves: orders of the confusion matrix, charts, clips."""

import base64
import io
import itertools

import av
import numpy as np
import pytest
import reports

from vidjax.data import preview, video
from vidjax.evaluate import maps, results
from vidjax.report import charts, confusion, features, pictures, words


def test_orders_are_permutations_by_what_they_say():
    names = ["b", "a", "D", "c"]
    cells = np.array([[1, 3, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 4]])
    found = confusion.orders(cells, names)
    assert found["as listed"] == [0, 1, 2, 3]
    assert [names[i] for i in found["by name"]] == ["a", "b", "c", "D"]
    assert found["worst class first"] == [0, 3, 1, 2]  # .25, .8, 1, and last the class without videos
    assert found["most videos first"] == [3, 0, 1, 2]  # 5, 4, 2, 0
    assert sorted(found["confused ones together"]) == [0, 1, 2, 3]
    assert next(iter(found)) == "as listed"


def test_a_map_keeps_groups_apart_and_draws_no_more_than_it_may(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 20)) + 30 * np.eye(3, 20)[y]
    monkeypatch.setattr(maps, "MOST", 45)
    found = maps.feature_map(x, y, (y + 1) % 3, [str(i) for i in range(60)], "fc6")
    assert (found["dims"], found["of"], len(set(found["ids"]))) == (20, 60, 45)
    assert [y[int(i)] for i in found["ids"]] == found["labels"]
    assert found["predicted"] == [(c + 1) % 3 for c in found["labels"]]
    for kind in ("pca", "tsne"):
        points = np.array(found[kind])
        assert points.min() == 0
        assert points.max() == 1
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(45)
        assert [found["labels"][i] for i in apart.argmin(1)] == found["labels"]
    variance = np.linalg.svd(x[[int(i) for i in found["ids"]]] - x[[int(i) for i in found["ids"]]].mean(0))[1] ** 2
    np.testing.assert_allclose(found["explained"], variance[:2] / variance.sum(), rtol=1e-9)  # rounding
    assert maps.feature_map(x[:2], y[:2], y[:2], ["a", "b"], "fc6") is None
    flat = maps.feature_map(np.zeros((4, 1)), y[:4], y[:4], list("abcd"), "fc6")
    assert (flat["pca"], flat["explained"]) == ([[0.5, 0.5]] * 4, [0, 0])


@pytest.mark.parametrize("count", [1, 8, 12, 13, 400])
def test_hues_of_neighbours_are_apart(count):
    hues = [features.hue(i, count) for i in range(count)]
    apart = [min((a - b) % 360, (b - a) % 360) for a, b in itertools.pairwise(hues)]
    assert min(apart, default=360) >= min(30, 360 // count if count <= 12 else 30)
    assert all(0 <= one < 360 for one in hues)


def test_an_order_that_changes_nothing_is_not_offered():
    assert list(confusion.orders(np.diag([2, 2]), ["a", "b"])) == ["as listed"]


def test_classes_taken_for_one_another_come_to_stand_together():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(4), 5))
    cells = np.where(groups[:, None] == groups, rng.integers(3, 9, (20, 20)), 0)
    order = confusion.together(cells)
    assert sorted(order) == list(range(20))
    assert len([key for key, _ in itertools.groupby(groups[order])]) == 4  # each group in one piece


@pytest.mark.parametrize("seed", range(5))
def test_ticks_are_round_and_enclose(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        low = rng.normal() * 10 ** rng.uniform(-4, 6)
        high = low + 10 ** rng.uniform(-4, 6)
        if abs(high - low) < 1e-6 * abs(low):
            continue  # closer than the ticks' own digits
        found = charts.ticks(low, high)
        unit = (high - low) * 1e-6
        assert found[0] <= low + unit
        assert found[-1] >= high - unit
        assert 3 <= len(found) <= 9
        steps = np.diff(found)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        assert round(steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9), 3) in (1, 2, 5)
    assert charts.ticks(3, 3)[0] <= 3


def test_a_curve_is_drawn_through_its_points():
    points = [[0, 2.0], [50, None], [100, 1.0], [200, 0.25]]
    (chart,) = charts.curves({"train/loss": points, "eval/loss": [[200, 0.75]]}, 200)
    xs, ys = ({tick["text"]: tick["at"] for tick in chart[axis]} for axis in "xy")
    assert (xs["0"], xs["200"], chart["mark"]) == (0, 100, 100)
    assert ys == {"0": 0, "0.5": 25, "1": 50, "1.5": 75, "2": 100}
    assert [line["path"] for line in chart["lines"]] == ["M0 0L50 50L100 87.5", "M100 62.5"]
    assert chart["stops"] == [
        [0, "step 0: train/loss 2.00"],
        [50, "step 100: train/loss 1.00"],
        [100, "step 200: train/loss 0.250, eval/loss 0.750"],
    ]
    assert chart["lines"][1]["dots"] == [[100, 37.5]]


def test_figures_of_one_kind_share_a_chart_and_shares_their_scale():
    given = {
        "train/clips_per_second": [[1, 40]],
        "eval/top1": [[1, 0.5]],
        "train/accuracy": [[1, 0.4]],
        "a/loss": [[1, 3]],
    }
    found = charts.curves(given, 1)
    assert [chart["title"] for chart in found] == ["Loss", "Accuracy", "clips per second"]
    assert [line["name"] for line in found[1]["lines"]] == ["eval/top1", "train/accuracy"]
    assert [tick["text"] for tick in found[1]["y"]] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert charts.curves(None, 1) == charts.curves({"train/loss": [[1, None]]}, 1) == []


def test_long_curves_keep_their_ends_and_a_bounded_number_of_points():
    points = [[i, 1 / (1 + i)] for i in range(5000)]
    (chart,) = charts.curves({"train/loss": points}, 4999)
    assert len(chart["stops"]) == charts.POINTS
    assert [x for x, _ in chart["stops"][:: charts.POINTS - 1]] == [0, 100]
    assert chart["x"][-1]["text"] == "4,000"  # a tick beyond the end is left out
    assert [charts._step(x) for x in (0, 2_500, 12_500, 3e6)] == ["0", "2,500", "12.5k", "3M"]


def test_calibration_says_its_bins():
    scores, labels = reports.scores(9, 500)
    given = reports.calibration(scores.max(1), scores.argmax(1) == labels)
    chart = charts.calibration(given)
    shown = [i for i, n in enumerate(given["videos"]) if n]
    assert 5 < len(shown) < 15
    for bar, i in zip(chart["bars"], shown, strict=True):
        low, high = i / 15, (i + 1) / 15
        rows = [j for j, p in enumerate(scores.max(1)) if low < p <= high]
        right = np.mean([scores[j].argmax() == labels[j] for j in rows])
        np.testing.assert_allclose([bar["at"], bar["wide"], bar["tall"]], [100 * low, 100 / 15, 100 * right], rtol=1e-6)
        said = f"{100 * low:.0f}–{100 * high:.0f} % sure: {len(rows)} video{'' if len(rows) == 1 else 's'}, "
        assert chart["stops"][i][1].startswith(said)
        assert chart["stops"][i][1].endswith(f"{words.percent(right)} right")
    assert chart["stops"][0][1] == "0–7 % sure: 0 videos"
    assert charts.calibration(None) is None
    assert charts.calibration(given | {"videos": [0] * 15}) is None


def decoded(uri):
    with av.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:video/webm;base64,")))) as container:
        rate = container.streams.video[0].average_rate
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]), rate


def gliding(n, height, width):
    """Smooth frames uint8 (n, height, width, 3) of a bright spot that crosses."""
    y, x = np.mgrid[:height, :width]
    spots = [np.exp(-((y - height / 2) ** 2 + (x - width * (i + 0.5) / n) ** 2) / 200) for i in range(n)]
    return (255 * np.stack(spots)[..., None] * [1, 0.7, 0.3]).astype(np.uint8)


@pytest.mark.parametrize(("n", "rate"), [(2, 3), (8, 3), (32, 11), (90, 12)])
def test_a_clip_has_the_frames_it_was_given(n, rate):
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this FFmpeg has no VP9 encoder: pages have filmstrips alone")
    frames = gliding(n, 61, 80)
    read, fps = decoded(pictures.clip(frames))
    assert read.shape == (n, 60, 80, 3)  # an odd row is left out
    assert fps == rate
    for shown, frame in zip(read, frames, strict=True):
        off = np.abs(shown.astype(int) - frame[:60]).mean()
        assert off < 8  # of 255: VP9 at this quality, and half the colour's resolution
        where = [np.average(np.arange(80), weights=picture[..., 0].sum(0)) for picture in (shown, frame)]
        assert abs(where[0] - where[1]) < 3  # pixels between the centres of light, as blocks are coarse


def test_there_is_no_clip_of_one_frame_nor_a_large_one_nor_without_an_encoder(monkeypatch):
    assert pictures.clip(gliding(1, 40, 40)) == pictures.clip(()) == ""
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "CLIP_BYTES", 100)
        assert pictures.clip(gliding(4, 40, 40)) == ""
    monkeypatch.setattr(av, "codecs_available", set())
    assert preview.webm(gliding(4, 40, 40), 3) == b""
    assert pictures.clip(gliding(4, 40, 40)) == ""


@pytest.mark.parametrize("n", [1, 7, 50])
def test_an_evaluation_gives_its_mistakes_frames_for_a_clip(tmp_path, n):
    frames = np.repeat((np.arange(n) * 5).astype(np.uint8), 48 * 64 * 3).reshape(n, 48, 64, 3)
    path = tmp_path / "a.mp4"
    video.write(path, frames)
    records = [{"id": "a", "path": str(path), "num_frames": n}, {"id": "b", "path": "not asked for"}]
    (strip,) = results.strips([{"id": "a"}], records).values()
    wanted = [i * (n - 1) // 31 for i in range(32)] if n > 32 else list(range(n))
    assert strip.shape[1] == 160
    assert [round(float(level) / 5) for level in strip.mean((1, 2, 3))] == wanted


def test_the_headline_interval_is_wilsons():
    for right, of in ((9, 10), (81, 263)):  # the bounds are where the score test is just at its 1.96
        for bound in words.wilson(right / of, of):
            assert (right - of * bound) ** 2 / (of * bound * (1 - bound)) == pytest.approx(1.96**2)
    assert [round(x, 4) for x in words.wilson(81 / 263, 263)] == [0.2553, 0.3662]  # Newcombe 1998, table I
    assert words.wilson(0.0, 5)[0] == 0
    assert words.wilson(1.0, 5)[1] == 1
    assert words.wilson(0.0, 0) is None


def test_an_interval_is_the_reports_or_wilsons_or_none():
    made = reports.report(*reports.scores(3, 12), list("abc")) | {"top1": 0.75, "top5": None}
    assert words.interval(made, "top1") == words.wilson(0.75, 12)
    assert words.interval(made, "mean_class") is None
    assert words.interval(made | {"intervals": {"top1": [0.5, 0.9], "top5": [0.1, 0.2]}}, "top1") == (0.5, 0.9)
    assert words.interval(made | {"intervals": {"top5": [0.1, 0.2]}}, "top5") is None  # a figure that is not there
    assert words.interval(made | {"intervals": {"top1": [None, None]}}, "top1") == words.wilson(0.75, 12)
