"""Pages in a headless Chromium: no console errors, everything by the keyboard, both schemes, wide and narrow."""

import browser
import numpy as np
import pytest
import reports

from vidjax import report

CLASSES = (2, 8, 45, 400)
NEWER = ("features", "shown", "dimensions", "changes")


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{classes: (file, report)} of pages with every part; 45 and 400 classes have a picture for a matrix."""
    folder, made = tmp_path_factory.mktemp("pages"), {}
    for classes in CLASSES:
        scores, labels = reports.scores(classes, 10 * classes, several=classes == 45)
        names = [
            f"a class with a rather long name, {i:03d}" if i % 5 == 0 else f"class {i:03d}" for i in range(classes)
        ]
        one = reports.full(reports.report(scores, labels, names), scores, labels)
        rng = np.random.default_rng(0)
        strips = {m["id"]: rng.integers(0, 256, (8, 48, 64, 3), np.uint8) for m in one["mistakes"]}
        file = folder / f"{classes}.html"
        file.write_text(report.page(one, strips), encoding="utf-8")
        made[classes] = file, one
    return made


@pytest.mark.parametrize("classes", CLASSES)
def test_a_page_opens_without_a_word_and_without_scrolling_sideways(chromium, pages, classes):
    more = [(820, "light"), (1900, "dark")] if classes == 8 else []
    for width, scheme in [(390, "dark"), (1280, "light"), *more]:
        with browser.opened(chromium, pages[classes][0], width, scheme) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            for part in ("headline", "classes", "confusion", "pairs", "mistakes", "calibration", "curves", *NEWER):
                assert page.locator(f"#{part}").is_visible(), part
            broken = "[...document.images].filter(i => !i.naturalWidth).length"
            assert page.evaluate(broken) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("classes", CLASSES[:3])
def test_text_stands_out_from_its_ground(chromium, pages, classes, scheme):
    with browser.opened(chromium, pages[classes][0], scheme=scheme) as page:
        found = page.evaluate(browser.CONTRAST)
    assert len(found) > 100
    # WCAG 2.2's 4.5, and 3 for large text; 3.9 in the matrix, whose colours go all the way from paper to full
    needed = lambda size, cell: 3 if size >= 24 else 3.9 if cell else 4.5  # noqa: E731
    assert [row for row in found if row[0] < needed(row[1], row[2])] == []


@pytest.mark.parametrize("classes", CLASSES)
def test_the_tab_key_comes_to_everything(chromium, pages, classes):
    file, made = pages[classes]
    with browser.opened(chromium, file) as page:
        found = browser.tabbed(page)
    assert sum(one.startswith("plot") for one in found) == 4
    assert sum(one.startswith("plane") for one in found) == 2
    assert found.count("one") == (classes if classes <= 30 else 0)
    assert sum(one.startswith("play") for one in found) == len(made["mistakes"])
    assert ("find" in found) == ("scroll" in found) == ("confusion" in found) == (classes > report.CELLS)
    assert ("order" in found) == (classes > 2)
    assert found[-1] == "SUMMARY"
    assert found.count("BUTTON") == 3  # the heads that sort


def table(page):
    """What stands in the matrix: (names of the columns, names of the rows, counts)."""
    return page.evaluate(
        """() => { const t = document.getElementById("confusion");
        const cells = [...t.tBodies[0].rows].map(r => [...r.cells]);
        return [[...t.tHead.rows[0].cells].slice(1).map(c => c.textContent), cells.map(r => r[0].textContent),
                cells.map(r => r.slice(1).map(c => +c.textContent))]; }"""
    )


def test_the_table_of_confusion_is_sorted_hovered_and_walked(chromium, pages):
    file, made = pages[8]
    names, cells = np.array(made["class_names"]), np.array(made["confusion"])
    rate = cells.diagonal() / cells.sum(1)
    with browser.opened(chromium, file) as page:
        before = table(page)
        assert before == [names.tolist(), names.tolist(), cells.tolist()]
        page.select_option("#order", label="worst class first")
        order = sorted(range(8), key=lambda i: (rate[i], i))
        assert order != list(range(8))
        assert table(page) == [names[order].tolist(), names[order].tolist(), cells[np.ix_(order, order)].tolist()]
        said = lambda i, j: (  # noqa: E731
            f"{names[order[i]]} → {names[order[j]]}: {cells[order[i], order[j]]} of {cells[order[i]].sum()}"
            f" ({100 * cells[order[i], order[j]] / cells[order[i]].sum():.1f} %)"
        )
        page.locator("#confusion tbody tr").nth(2).locator("td").nth(5).hover()
        assert page.inner_text("#cell") == said(2, 5)
        page.locator("#confusion td[tabindex='0']").focus()
        for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft"):
            page.keyboard.press(key)
        assert page.inner_text("#cell") == said(2, 0)
        page.select_option("#order", label="as listed")
        assert table(page) == before


def test_the_picture_of_confusion_is_sorted_and_hovered(chromium, pages):
    file, made = pages[400]
    names, cells = np.array(made["class_names"]), np.array(made["confusion"])
    seen = """() => { const image = document.querySelector("#confusion img"), canvas = document.createElement("canvas");
        canvas.width = canvas.height = 400; const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
        const data = context.getImageData(0, 0, 400, 400).data, found = [];
        for (let k = 0; k < 160000; k++) if (data[4 * k + 3]) found.push(k); return found; }"""
    rate = cells.diagonal() / cells.sum(1)
    with browser.opened(chromium, file) as page:
        assert page.evaluate(seen) == np.flatnonzero(cells).tolist()
        page.select_option("#order", label="worst class first")
        order = sorted(range(400), key=lambda i: (rate[i], i))
        page.evaluate("document.querySelector('#confusion img').decode()")
        mixed = cells[np.ix_(order, order)]
        assert page.evaluate(seen) == np.flatnonzero(mixed).tolist()
        box = page.locator("#confusion").bounding_box()
        page.locator("#confusion").scroll_into_view_if_needed()
        box = page.locator("#confusion").bounding_box()
        page.mouse.move(box["x"] + 300.5 / 400 * box["width"], box["y"] + 300.5 / 400 * box["height"])
        share = 100 * mixed[300, 300] / mixed[300].sum()
        name = names[order[300]]
        said = f"{name} → {name}: {mixed[300, 300]} of {mixed[300].sum()} ({share:.1f} %)"
        assert page.inner_text("#cell") == said
        page.locator("#confusion").focus()
        page.keyboard.press("ArrowUp")
        assert page.inner_text("#cell").startswith(f"{names[order[299]]} → {name}: {mixed[299, 300]} of ")
        page.select_option("#zoom", "8")
        page.locator("#confusion").focus()
        for _ in range(9):
            page.keyboard.press("ArrowDown")  # out of the window, which follows
        window, cell = (page.locator(f".{one}").bounding_box() for one in ("window", "cross.cell"))
        assert cell["width"] == pytest.approx(8 * box["width"] / 400, rel=0.03)  # a scroll bar takes of the width
        assert window["x"] <= cell["x"] < window["x"] + window["width"]
        assert window["y"] <= cell["y"] < window["y"] + window["height"]
        page.mouse.move(cell["x"] + cell["width"] / 2, cell["y"] + cell["height"] / 2)
        assert page.inner_text("#cell").startswith(f"{names[order[308]]} → {name}: {mixed[308, 300]} of ")
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_chart_is_read_by_pointer_and_keys(chromium, pages):
    file, made = pages[8]
    stops = made["curves"]["train/loss"]
    with browser.opened(chromium, file) as page:
        plot = page.locator("#curves .plot").first
        reading = page.locator("#curves .reading").first
        plot.focus()
        page.keyboard.press("ArrowRight")
        assert reading.inner_text().startswith(f"step {stops[0][0]}: train/loss ")
        page.keyboard.press("ArrowRight")
        assert reading.inner_text().startswith(f"step {stops[1][0]}: train/loss ")
        page.keyboard.press("End")
        assert reading.inner_text().startswith("step 600: train/loss ")
        assert "eval/loss" in reading.inner_text()
        plot.hover()  # its middle
        assert reading.inner_text().startswith("step 300: train/loss ")


def test_a_map_is_read_by_pointer_and_keys_and_shows_one_class(chromium, pages):
    file, made = pages[8]
    found = made["feature_map"]
    said = [
        f"{name}: {made['class_names'][label]}" + f", taken for {made['class_names'][guess]}" * (label != guess)
        for name, label, guess in zip(found["ids"], found["labels"], found["predicted"], strict=True)
    ]
    with browser.opened(chromium, file) as page:
        plane, reading = page.locator("#features .plane").nth(1), page.locator("#features .reading").nth(1)
        plane.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert reading.inner_text() == said[1]
        x, y = found["tsne"][7]
        box = plane.locator("svg").bounding_box()
        page.mouse.move(box["x"] + x * box["width"], box["y"] + (1 - y) * box["height"])
        assert reading.inner_text() == said[7]
        clear = "[...document.querySelectorAll('.plane g:not(.faint)')].map(g => g.dataset.class)"
        page.locator("#shown button").nth(2).click()
        assert page.evaluate(clear) == ["2", "2"]
        page.locator("#shown button").nth(2).click()
        assert len(page.evaluate(clear)) == 16


def test_classes_are_sorted_and_found(chromium, pages):
    file, made = pages[400]
    rows = "[...document.querySelectorAll('#classes tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
    accuracy = {row["name"]: row["accuracy"] for row in made["per_class"]}
    with browser.opened(chromium, file) as page:
        page.locator("#classes th[data-key=accuracy] button").press("Enter")
        up = [accuracy[name] for name in page.evaluate(rows)]
        assert up == sorted(accuracy.values())
        page.locator("#classes th[data-key=accuracy] button").press("Enter")
        assert [accuracy[name] for name in page.evaluate(rows)] == up[::-1]
        page.fill("#find", "NAME, 01")
        assert set(page.evaluate(rows)) == {name for name in accuracy if "name, 01" in name}


def test_clips_play_when_asked_and_nothing_moves_before(chromium, pages):
    with browser.opened(chromium, pages[8][0], motion="reduce") as page:
        film = page.locator(".film").first
        video, strip, button = film.locator("video"), film.locator(".strip"), film.locator("button")
        assert page.evaluate("document.getAnimations().length") == 0
        assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.paused && v.hidden)")
        button.press("Enter")
        video.evaluate(
            """v => new Promise((on, fail) => {
                v.addEventListener("timeupdate", () => v.currentTime > 0.2 && on());
                setTimeout(() => fail(`the clip stands at ${v.currentTime} s`), 60000); })"""
        )
        assert not strip.is_visible()
        assert video.evaluate("v => [v.error, v.videoWidth, v.videoHeight]") == [None, 64, 48]
        button.press("Enter")
        assert strip.is_visible()
        assert video.evaluate("v => v.paused && v.hidden")
