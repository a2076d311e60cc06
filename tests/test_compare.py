"""Reports side by side: McNemar's test and the rest against brute force, the sentences, the terminal and the page."""

import html.parser
import itertools
import json
import os
import re

import browser
import numpy as np
import pytest
import reports
from scipy import stats

from vidjax import compare, main
from vidjax.compare import shown


def run(workdir, *, classes=6, n=60, seed=0, sure=4.0, several=False, step=600, full=True, **how):
    """A workdir with a report and its scores -> (path of the report, report, scores, labels, ids)."""
    scores, labels = reports.scores(classes, n, 0, sure, several)
    noise = np.random.default_rng(seed).dirichlet(np.ones(classes), n).astype(np.float32)
    scores = 0.5 * scores + 0.5 * noise
    ids = [f"{i:04d}.mp4" for i in range(n)]
    names = [f"class {i}" for i in range(classes)]
    made = reports.report(scores, labels, names, ids=ids, step=step, **how)
    made = reports.full(made, scores, labels) if full else made
    return reports.save(workdir, made, scores, labels, ids, str(step)), made, scores, labels, ids


def hits(scores, labels):
    """By loops: whether the first of a video's highest scores is of a true label."""
    first = [min(range(len(s)), key=lambda c: (-s[c], c)) for s in scores]
    return [y == f if np.ndim(y) == 0 else y[f] > 0 for y, f in zip(labels, first, strict=True)]


def test_mcnemar_is_the_count_of_all_outcomes_as_uneven():
    for n in range(11):
        for a in range(n + 1):
            outcomes = [abs(2 * sum(one) - n) for one in itertools.product((0, 1), repeat=n)]
            expected = sum(uneven >= abs(2 * a - n) for uneven in outcomes) / 2**n
            assert compare.mcnemar(a, n - a) == expected


@pytest.mark.parametrize(("a", "b"), [(10, 3), (303, 420), (295, 478), (5, 5), (0, 40), (2_000, 2_150)])
def test_mcnemar_is_scipys_exact_binomial(a, b):
    assert compare.mcnemar(a, b) == pytest.approx(stats.binomtest(a, a + b).pvalue, rel=1e-9)
    assert compare.mcnemar(a, b) == compare.mcnemar(b, a)


@pytest.mark.parametrize("several", [False, True])
def test_a_pair_is_what_loops_over_the_videos_say(tmp_path, several):
    a, _, first, labels, ids = run(tmp_path / "a", several=several)
    b, _, second, _, _ = run(tmp_path / "b", seed=1, sure=3.0, several=several)
    (pair,) = compare.compare([a, b])["pairs"]
    one, other = hits(first, labels), hits(second, labels)
    counts = {(x, y): sum(p == x and q == y for p, q in zip(one, other, strict=True)) for x in (0, 1) for y in (0, 1)}
    assert [pair[key] for key in ("both", "a_only", "b_only", "neither")] == [
        counts[key] for key in ((1, 1), (1, 0), (0, 1), (0, 0))
    ]
    assert min(counts.values()) > 0
    assert pair["gained"] == [i for i, p, q in zip(ids, one, other, strict=True) if q and not p]
    assert pair["lost"] == [i for i, p, q in zip(ids, one, other, strict=True) if p and not q]
    assert pair["top1"] == [np.mean(one), np.mean(other)]
    assert pair["difference"] == pytest.approx(np.mean(other) - np.mean(one), abs=1e-12)
    assert (pair["common"], pair["of"], pair["why"]) == (60, [60, 60], "")
    assert pair["p"] == compare.mcnemar(pair["a_only"], pair["b_only"])


def test_the_interval_of_a_difference_is_that_of_videos_drawn_in_pairs():
    a_only, b_only, n = 30, 55, 400
    low, high = compare.difference(a_only, b_only, n)
    outcome = np.repeat([-1, 1, 0], [a_only, b_only, n - a_only - b_only])
    rng = np.random.default_rng(7)
    means = [outcome[rng.integers(0, n, n)].mean() for _ in range(4000)]
    # both are drawn: 0.005 is four times the standard error of such a percentile, about 0.0012
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), atol=0.005)
    assert compare.difference(a_only, b_only, n) == [low, high]
    assert compare.difference(0, 0, 10) == [0, 0]
    assert compare.difference(0, 10, 10) == [1, 1]


def test_only_videos_that_both_have_are_counted_in_any_order(tmp_path):
    a, made, scores, labels, ids = run(tmp_path / "a")
    _, _, second, _, _ = run(tmp_path / "b", seed=1)
    order = np.random.default_rng(3).permutation(60)[:45]
    b = reports.save(tmp_path / "c", made, second[order], labels[order], [ids[i] for i in order])
    (pair,) = compare.compare([a, b])["pairs"]
    kept = sorted(order)
    one, other = hits(scores[kept], labels[kept]), hits(second[kept], labels[kept])
    assert (pair["common"], pair["of"]) == (45, [60, 45])
    assert pair["a_only"] == sum(p and not q for p, q in zip(one, other, strict=True))
    assert pair["b_only"] == sum(q and not p for p, q in zip(one, other, strict=True))
    assert f"{pair['common']} videos that both have, of 60 and 45" in Words(shown.page(compare.compare([a, b]))).text


def test_classes_say_their_gains_and_a_class_without_videos_none(tmp_path):
    a, made, *_ = run(tmp_path / "a")
    b, other, scores, labels, ids = run(tmp_path / "b", seed=1)
    other["per_class"][2] |= {"accuracy": None, "videos": 0, "correct": 0}
    b = reports.save(tmp_path / "b", other, scores, labels, ids)
    (pair,) = compare.compare([a, b])["pairs"]
    for row, old, new in zip(pair["classes"], made["per_class"], other["per_class"], strict=True):
        assert (row["name"], row["a"], row["b"]) == (old["name"], old["accuracy"], new["accuracy"])
        assert row["gain"] == (None if row["name"] == "class 2" else new["accuracy"] - old["accuracy"])
        assert row["b_count"] == [new["correct"], new["videos"]]
    gains = [row["gain"] for row in shown.moved(pair["classes"], 1)]
    losses = [row["gain"] for row in shown.moved(pair["classes"], -1)]
    assert gains == sorted((row["gain"] for row in pair["classes"] if (row["gain"] or 0) > 0), reverse=True)
    assert losses == sorted(row["gain"] for row in pair["classes"] if (row["gain"] or 0) < 0)


def test_each_report_stands_against_the_first_with_what_changed(tmp_path):
    configs = [{"optim": {"lr": 0.1}, "note": "x"}, {"optim": {"lr": 0.05}, "note": "x"}, {"optim": {"lr": 0.1}}]
    paths = [run(tmp_path / f"{i}", seed=i, config=cfg)[0] for i, cfg in enumerate(configs)]
    found = compare.compare(paths)
    assert [(one["first"], one["second"]) for one in found["pairs"]] == [("A", "B"), ("A", "C")]
    assert [one["changes"] for one in found["pairs"]] == [["optim.lr: 0.1 -> 0.05"], ["note: x -> None"]]
    assert [one["letter"] for one in found["reports"]] == ["A", "B", "C"]
    made = json.loads(paths[0].read_text())
    assert found["reports"][0]["figures"]["top1"] == {
        "value": made["top1"],
        "interval": tuple(made["intervals"]["top1"]),
    }


def test_a_workdir_is_its_newest_report_of_evaluation_videos(tmp_path):
    for step, age in ((300, 30), (600, 20), (100, 25)):
        path = run(tmp_path / "a", step=step)[0]
        os.utime(path, (1e9 - age, 1e9 - age))
    train = run(tmp_path / "a", step=700, split="train")[0]
    os.utime(train, (1e9, 1e9))
    assert compare.load(tmp_path / "a")["step"] == 600
    assert compare.load(tmp_path / "a" / "report_300.html")["step"] == 300
    assert compare.load(tmp_path / "a" / "report_300.html")["file"] == str(tmp_path / "a" / "report_300.json")


def test_without_scores_the_figures_stand_and_it_says_why(tmp_path):
    a, b = run(tmp_path / "a")[0], run(tmp_path / "b", seed=1, full=False)[0]
    lost = b.with_name("scores_600.npz")
    lost.unlink()
    found = compare.compare([a, b])
    assert found["pairs"][0]["why"] == f"{lost} is missing"
    assert "p" not in found["pairs"][0]
    assert f"McNemar    left out: {lost} is missing" in shown.describe(found)
    assert f"McNemar's test is left out: {lost} is missing." in Words(shown.page(found)).text
    assert "bootstrap over videos and of top-1 by Wilson's formula" in shown.describe(found)
    lost.write_text("torn")
    assert re.search(r"left out: .*scores_600.npz is no score file", shown.describe(compare.compare([a, b])))


def test_other_views_are_said(tmp_path):
    a, made, scores, labels, ids = run(tmp_path / "a")
    made["views"] = made["views"] | {"clips": 10}
    found = compare.compare([a, reports.save(tmp_path / "b", made, scores, labels, ids)])
    assert "views      are not the same" in shown.describe(found)
    assert "Their views are not the same" in Words(shown.page(found)).text
    assert "could be chance" in shown.describe(found)
    assert "config     the same" in shown.describe(found)


def fails(capsys, *argv):
    """The one sentence with which a command ends, exit code 1."""
    assert main.main(["compare", *map(str, argv)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_compared_ends_in_one_sentence(tmp_path, capsys):
    a = run(tmp_path / "a")[0]
    other = run(tmp_path / "other", name="ucf101")[0]
    more = run(tmp_path / "more", classes=7)[0]
    train = run(tmp_path / "train", split="train")[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.json").write_text('{"top1": 1')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "fusion.json").write_text('{"top1": 1}')
    assert "is of the data set motion" in fails(capsys, a, other)
    assert "only the first has [], only the second ['class 6']" in fails(capsys, a, more)
    assert "is of the split eval" in fails(capsys, a, train)
    assert f"there is no report in {tmp_path / 'empty'}: run vidjax eval" in fails(capsys, a, tmp_path / "empty")
    for name in ("torn.json", "list.json", "fusion.json", "absent.json"):
        assert f"{tmp_path / name} is no report of vidjax eval: " in fails(capsys, a, tmp_path / name)
    assert "give two reports at least" in fails(capsys, a)
    assert "cannot write" in fails(capsys, a, a, f"--out={tmp_path / 'absent' / 'page.html'}").lower()
    made = json.loads(a.read_text())
    made["class_names"] = made["class_names"][::-1]
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(made))
    assert "have other classes: they stand in another order." in fails(capsys, a, turned)


def test_the_command_prints_and_writes(tmp_path, capsys):
    a, b = run(tmp_path / "a")[0], run(tmp_path / "b", seed=1)[0]
    page, file = tmp_path / "page.html", tmp_path / "numbers.json"
    assert main.main(["compare", str(tmp_path / "a"), str(b), f"--out={page}", f"--json={file}"]) == 0
    out = capsys.readouterr().out
    found = compare.compare([a, b])
    assert out.startswith(shown.describe(found))
    assert f"wrote    {page}\nwrote    {file}\n" in out
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    assert page.read_text(encoding="utf-8") == shown.page(found)
    top1 = next(line for line in out.splitlines() if line.startswith("  Top-1"))
    assert re.fullmatch(r"  Top-1 +\d+\.\d % \([\d.]+–[\d.]+ %\) +\d+\.\d % \([\d.]+–[\d.]+ %\)", top1)


class Words(html.parser.HTMLParser):
    """A page's text as words, and its tags; each that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.tags, self.open = "", [], []
        self.feed(text)
        self.close()
        self.text = " ".join(self.found.replace("\N{NO-BREAK SPACE}", " ").split())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.found += " "
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.found += data if self.open[-1:] not in (["script"], ["style"]) else ""


def test_the_page_says_all_and_names_cannot_break_it(tmp_path):
    hostile = "</script><img src=x onerror=alert(1)> {{ 7 * 7 }}"
    config = {"note": hostile}
    a = run(tmp_path / "a", config={"note": "tame"})[0]
    _, made, scores, labels, ids = run(tmp_path / "b", seed=1, config=config)
    b = reports.save(tmp_path / "b", made, scores, labels, [hostile + i if i == ids[0] else i for i in ids])
    found = compare.compare([a, b])
    page = Words(shown.page(found))
    (pair,) = found["pairs"]
    assert f"note tame {hostile}" in page.text
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "src"]
    for said in (
        f"{shown.points(pair['difference'])} points of top-1",
        f"{shown.chance(pair['p'])} {shown.verdict(pair['p'])}",
        f"A right {pair['both']} {pair['a_only']} A wrong {pair['b_only']} {pair['neither']}",
        f"{pair['b_only']} right in B alone",
        str(b),
    ):
        assert said in page.text, said
    order = [attributes["data-gain"] for tag, attributes in page.tags if tag == "tr" and "data-gain" in attributes]
    assert len(order) == 6
    assert order == sorted(order, key=float, reverse=True)


def test_numbers_are_written_as_people_read_them():
    assert [shown.points(x) for x in (0.0213, -0.1, 0.0, -0.0004)] == ["+2.1", "−10.0", "0.0", "0.0"]
    assert [shown.chance(p) for p in (1.0, 0.0312, 0.0063, 1e-9)] == [
        "p = 1.00",
        "p = 0.03",
        "p = 0.0063",
        "p < 0.0001",
    ]
    assert [shown.verdict(p) for p in (0.05, 0.049)] == ["could be chance", "more than chance"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of three reports of 6 classes, and of two of 400."""
    folder, made = tmp_path_factory.mktemp("pages"), []
    for classes, number in ((6, 3), (400, 2)):
        paths = [
            run(folder / f"{classes}_{i}", classes=classes, n=800, seed=i, config={"seed": i})[0] for i in range(number)
        ]
        file = folder / f"{classes}.html"
        file.write_text(shown.page(compare.compare(paths)), encoding="utf-8")
        made.append(file)
    return made


def test_the_page_in_a_browser(pages):
    with browser.launched() as chromium:
        for file, width, scheme in itertools.product(pages, (390, 1280), ("light", "dark")):
            with browser.opened(chromium, file, width, scheme) as page:
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                found = page.evaluate(browser.CONTRAST) if file == pages[0] else []
                assert [row for row in found if row[0] < (3 if row[1] >= 24 else 4.5)] == []  # WCAG 2.2
        with browser.opened(chromium, pages[1]) as page:
            reached = browser.tabbed(page)
            assert (reached.count("BUTTON"), reached.count("SUMMARY"), reached.count("find")) == (2, 2, 1)
            page.locator("#classes-B th[data-key=name] button").press("Enter")
            page.locator(".find").fill("class 39")
            rows = (
                "[...document.querySelectorAll('#classes-B tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
            )
            assert page.evaluate(rows) == [f"class {i}" for i in (39, *range(390, 400))]
