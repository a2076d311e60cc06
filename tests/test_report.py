"""The report: the JSON that reads back, the page that needs nothing else, names that would break a page."""

import copy
import html.parser
import json
import re

import numpy as np
import pytest
import reports

from vidjax import report
from vidjax.report import confusion, words

HOSTILE = "</script><img src=x onerror=alert(1)> & \"größer\" 'ż' {{ 7 * 7 }}"


def example(classes=3):
    """A report on `classes` classes of 4 videos each, the first video of each mistaken for the next class."""
    names = [HOSTILE, *(f"class {i}" for i in range(1, classes))]
    counts = 3 * np.eye(classes, dtype=np.int32) + np.roll(np.eye(classes, dtype=np.int32), 1, axis=1)
    ids = [f"{HOSTILE}/{i}.mp4" for i in range(min(classes, 12))]
    mistakes = [
        {"id": ids[i], "label": names[i], "predicted": names[(i + 1) % classes], "probability": 0.5 + i / 100}
        for i in range(len(ids))
    ]
    rows = [{"name": name, "videos": 4, "correct": 3, "accuracy": np.float32(0.75)} for name in names]
    videos = 4 * classes
    made = {
        "step": np.int64(600),
        "model": {"name": "r3d", "variant": "r3d_18", "params": 33_000_000, "gmac_per_view": 40.7},
        "config": {"seed": 0, "data": {"path": "a/<b>", "sizes": (1, 2)}, "note": "see https://example.org"},
        "config_hash": "c0ffee12",
        "class_names": names,
        "data": {"name": "motion", "split": "eval", "path": "/data/ü", "videos": videos, "found": videos + 1},
        "views": {
            "frames": 8,
            "stride": 4,
            "sampler": "random_clip",
            "clips": 2,
            "crops": 1,
            "size": 112,
            "average": "logit",
        },
        "top1": 0.75,
        "top5": None,
        "loss": float("nan"),
        "mean_class": 0.75,
        "per_class": rows,
        "confusion": counts,
        "mistakes": mistakes,
        "seconds": 61.2,
        "videos_per_second": videos / 61.2,
        "created": "2025-11-21T10:20:30+00:00",
        "version": "0.1.0",
        "chance": 1 / classes,
    }
    made["data"] |= {
        "bad": [{"id": "torn.avi", "error": "torn.avi ends <early>."}],
        "per_class": [5, *[4] * (classes - 1)],
    }
    frames = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), np.uint8)
    return made, dict.fromkeys(ids, frames)


class Page(html.parser.HTMLParser):
    """What a browser would see of a page: (tag, attributes) in order, ids, the text as it is and as words, the code."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.code, self._seen, self._open = [], "", "", "", []
        self.feed(text)
        self.close()
        self.words = " ".join(self._seen.replace("\N{NO-BREAK SPACE}", " ").split())
        self.ids = {attributes["id"]: tag for tag, attributes in self.tags if "id" in attributes}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._seen += " "
        if tag not in ("meta", "link", "img", "br", "col", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            self.code += data
        else:
            self.text += data
            self._seen += data

    def close(self):
        super().close()
        assert not self._open, f"unclosed {self._open}"

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_json_reads_back_as_the_same_numbers(tmp_path):
    made, strips = example()
    before = copy.deepcopy(made)
    path = report.write(tmp_path, made, strips)
    assert path == tmp_path / "report_600.html"
    read = json.loads((tmp_path / "report_600.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert set(read) == set(made)
    assert read["confusion"] == made["confusion"].tolist()
    assert read["class_names"] == made["class_names"]
    assert (read["step"], read["chance"], read["loss"]) == (600, 1 / 3, None)
    assert read["config"]["data"]["sizes"] == [1, 2]
    np.testing.assert_equal(made, before)  # writing changes nothing of what it is given
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report_600.html", "report_600.json"]


@pytest.mark.parametrize("classes", [3, report.CELLS, report.CELLS + 1])
def test_every_part_is_on_the_page(classes):
    page = Page(report.page(*example(classes)))
    for part in (
        "headline",
        "views",
        "classes",
        "confusion",
        "cell",
        "pairs",
        "mistakes",
        "data",
        "bad",
        "run",
        "config",
    ):
        assert part in page.ids, part
    text = page.words
    assert f"Top-1 75.0 % {3 * classes} of {4 * classes} videos" in text
    assert text.count("8×4 frames, 2×1 views, 112 px, logit") == 5
    for said in (
        "8 frames × stride 4, 2 clips × 1 crop of 112 px, logits averaged.",
        "Top-5 – too few classes",
        "Loss –",
        f"Found {4 * classes + 1} videos in {classes} classes",
        "Unreadable 1",
        "torn.avi ends <early>.",
        "1 min 01 s",
        "c0ffee12",
        "vidjax 0.1.0",
        "data.path a/<b>",
        "data.sizes [1, 2]",
        "class 1 → class 2 1 of 4",
        "33,000,000",
        "40.7 GMAC a view, 2 views a video",
        "4 to 5 videos",
        "3 of 4 5 found",
        f"{50 + min(classes, 12) - 1}.0 %",
    ):
        assert said in text, said
    assert len([row for row in page.all("tr") if "data-accuracy" in row]) == classes
    assert len([cell for cell in page.all("td") if "tabindex" in cell]) == (
        classes**2 if classes <= report.CELLS else 0
    )


def test_names_cannot_break_the_page():
    made, strips = example()
    page = Page(report.page(made, strips))
    assert page.text.count(HOSTILE) >= 6
    assert "49" not in page.text.replace(HOSTILE, "")
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert len(page.all("script")) == 2
    data = re.search(r'id="counts">(.*?)</script>', report.page(made, strips), re.DOTALL).group(1)
    assert json.loads(data)["names"] == made["class_names"]


@pytest.mark.parametrize("classes", [3, 60])
def test_the_page_asks_for_nothing_else(classes):
    text = report.page(*example(classes))
    page = Page(text)
    links = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "data", "action", "poster") if key in a]
    assert links
    assert all(
        link.startswith(tuple(f"data:{kind};base64," for kind in ("image/png", "image/jpeg", "video/webm")))
        for link in links
    )
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttp|import ", page.code)
    policy = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none';")
    assert "prefers-color-scheme: dark" in page.code


def test_pairs_and_cells_say_the_matrix():
    cells = np.array([[5, 2, 0], [0, 0, 4], [1, 0, 9]])
    assert confusion.confused(cells) == [(1, 2, 4, 4), (0, 1, 2, 7), (2, 0, 1, 10)]
    made, strips = example()
    text = report.page(made | {"confusion": cells}, strips)
    shown = re.findall(r'<td tabindex="(?:0|-1)" class="([^"]*)" style="--p:([\d.]+)">(\d+)</td>', text)
    assert [int(n) for *_, n in shown] == cells.ravel().tolist()
    assert float(shown[1][1]) == pytest.approx(2 / 7, abs=5e-4)
    sparse = json.loads(re.search(r'id="counts">(.*?)</script>', text, re.DOTALL).group(1))["rows"]
    assert sparse == [[0, 5, 1, 2], [2, 4], [0, 1, 2, 9]]


def test_the_picture_of_a_large_matrix_shows_right_and_wrong():
    import base64

    import cv2

    made, strips = example(50)
    (source,) = [a["src"] for a in Page(report.page(made, strips)).all("img") if "image/png" in a["src"]]
    png = np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8)
    pixels = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert pixels.shape == (50, 50, 4)
    blue, green, red, alpha = pixels[7, 7]
    assert blue > red and alpha > 200  # noqa: PT018 - one colour, one fact
    assert pixels[7, 8, 2] > pixels[7, 8, 0]
    assert pixels[7, 9, 3] == 0


def test_mistakes_come_surest_first_with_their_frames():
    made, strips = example(12)
    short, none = made["mistakes"][0]["id"], made["mistakes"][1]["id"]
    strips = strips | {short: strips[short][:2]}
    del strips[none]
    made["mistakes"][2] |= {"label": 2, "predicted": 3}
    text = report.page(made, strips)
    shown = [float(p) for p in re.findall(r'class="sure">([\d.]+)', text)]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == 12
    assert len(Page(text).all("img")) == 10 * 8 + 2
    assert len(Page(text).all("figure")) == 12
    assert "class 2 → class 3 52.0 %" in Page(text).words


def test_a_perfect_and_a_partly_empty_evaluation_have_pages():
    made, _ = example()
    made |= {"confusion": np.diag([4, 4, 0]), "mistakes": [], "top1": 1.0, "top5": 1.0}
    made["per_class"][2] = {"name": "class 2", "videos": 0, "correct": 0, "accuracy": float("nan")}
    text = Page(report.page(made, {})).text
    assert "No class was taken for another." in text
    assert "There is none" in text
    assert "nan" not in text


def test_400_classes_stay_small():
    text = report.page(*example(400))
    assert len(text.encode()) < 3e6
    Page(text)


@pytest.mark.parametrize("several", [False, True])
def test_newer_figures_stand_in_the_head_with_their_intervals(several):
    scores, labels = reports.scores(7, 70, several=several)
    made = reports.full(reports.report(scores, labels, list("abcdefg")), scores, labels)
    made |= {
        "top1": 0.75,
        "map": 0.634,
        "loss": 0.5,
        "auc": 0.912,
        "ece": 0.041,
        "hit": {"clip": {"1": 0.5, "5": None}},
    }
    made["intervals"] = {"top1": [0.7, 0.8], "loss": [0.4, 0.6], "auc": [0.9, 0.9251], "map": [0.6, 0.67]}
    stats = {stat["key"]: stat for stat in words.headline(made)}
    chief = "map" if several else "top1"
    assert list(stats) == [chief] + [key for key in stats if key != chief]
    assert {
        key: (stat["value"].replace("\xa0", " "), stat["interval"].replace("\xa0", " ")) for key, stat in stats.items()
    } == {
        "map": ("63.4 %", "60.0–67.0 %"),
        "top1": ("75.0 %", "70.0–80.0 %"),
        "top5": (f"{100 * made['top5']:.1f} %", ""),
        "mean_class": (f"{100 * made['mean_class']:.1f} %", ""),
        "auc": ("0.912", "0.900–0.925"),
        "ece": ("4.1 %", ""),
        "loss": ("0.500", "0.400–0.600"),
        "clip1": ("50.0 %", ""),
    }
    assert stats["top1"]["name"] == ("Hit@1" if several else "Top-1")
    assert ("14.3 % by chance" in stats["top1"]["about"].replace("\xa0", " ")) is not several
    alone = words.headline(made | {"views": made["views"] | {"clips": 1}})
    assert "clip1" not in {stat["key"] for stat in alone}  # a clip is the video
    text = Page(report.page(made, {})).words
    assert ("63.4 % mAP · r3d" if several else "75.0 % top-1 · r3d") in text
    assert "Intervals are bootstrap over videos." in text


def test_parts_of_newer_reports_are_on_the_page_only_where_given():
    scores, labels = reports.scores(6, 60)
    made = reports.report(scores, labels, list("abcdef"))
    new = {"calibration", "curves", "changes"}
    assert not new & set(Page(report.page(made, {})).ids)
    page = Page(report.page(reports.full(made, scores, labels), {}))
    assert new <= set(page.ids)
    for said in (
        "Calibration error 4.1 %",
        "configs/quickstart.py is what this config was made from.",
        "data.batch_size 16 32 optim.lr 0.1 0.05 note None a -> b",
        "0.980 videos/s, 5.88 views/s",
    ):
        assert said in page.words
    empty = dict.fromkeys(("intervals", "map", "auc", "ece", "calibration", "hit", "curves", "changes", "throughput"))
    assert not new & set(Page(report.page(made | empty, {})).ids)
    same = Page(report.page(made | {"recipe": "configs/quickstart.py", "changes": []}, {})).words
    assert "Nothing: every value is the recipe's." in same
    counted = made | {"data": made["data"] | {"expected": 3783, "missing": 2}}
    assert "Expected 3,783 videos, by the data set's own count Found 60" in Page(report.page(counted, {})).words
    assert "Missing 2 videos that the list names" in Page(report.page(counted, {})).words


def test_classes_of_several_labels_are_shown_by_average_precision():
    scores, labels = reports.scores(6, 60, several=True)
    made = reports.report(scores, labels, list("abcdef")) | {"multi_label": True}
    shown = lambda page: [row["data-accuracy"] for row in page.all("tr") if "data-accuracy" in row]  # noqa: E731
    page = Page(report.page(made, {}))
    assert "Accuracy per class" in page.words
    assert shown(page) == [str(row["accuracy"]) for row in made["per_class"]]
    for row, precision in zip(made["per_class"], (0.5, 0.25, None, 1.0, 0.0, 0.125), strict=True):
        row["average_precision"] = precision
    page = Page(report.page(made, {}))
    assert "Average precision per class" in page.words
    assert shown(page) == ["0.5", "0.25", "-1", "1.0", "0.0", "0.125"]
    assert "Accuracy per class" in Page(report.page(made | {"multi_label": False}, {})).words


def test_labels_of_a_mistake_may_be_several():
    made, _ = example()
    made["mistakes"][0] |= {"label": [1, 2], "predicted": 0}
    assert "class 1, class 2 → </script>" in Page(report.page(made, {})).words


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    made, strips = example()
    (tmp_path / "file").write_text("")
    for folder, reason in (("missing", "no such file or directory"), ("file", "not a directory")):
        with pytest.raises(OSError, match=rf"^Cannot write .*report_600.html: {reason}; make its folder writable"):
            report.write(tmp_path / folder, made, strips)
    (tmp_path / "report_600.json").write_text("old")

    def full(self, *args, **kwargs):
        with self.open("w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match=r"no space left on device; .*free some space\.$"):
        report.write(tmp_path, made, strips)
    assert (tmp_path / "report_600.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "report_600.json"]
