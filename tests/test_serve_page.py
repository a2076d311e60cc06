"""The page of `vidjax serve` in a headless Chromium: drop, watch, seek, ask why; the camera; sentences for mistakes."""

import contextlib
import itertools
import json

import browser
import pytest
import served

from vidjax.serve import guard

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
REFUSED = "Failed to load resource: the server responded with a status of 422"  # Chromium's own line


@pytest.fixture(scope="module")
def chromium():
    with browser.launched(CAMERA) as found:
        yield found


@pytest.fixture(scope="module")
def predictor():
    return served.predictor()


@pytest.fixture(scope="module")
def server(predictor, tmp_path_factory):
    """The address of a server; in the end nothing is left of the uploads."""
    folder = tmp_path_factory.mktemp("uploads")
    with served.running(served.built(predictor, folder, megabytes=0.1)[0]) as url:
        yield url
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return served.clip(tmp_path_factory.mktemp("clips"), "my <i>clip.mp4")


@contextlib.contextmanager
def opened(chromium, url, width=1280, scheme="light", more=()):
    """The page when it is ready; in the end, that it said nothing to the console and asked nobody else."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url.replace("ws", "http", 1)))
    page.goto(url)
    page.wait_for_selector("body.ready")
    try:
        yield page
        assert [text for text in said if not text.startswith(more)] == [] if more else said == []
        assert [one for one in asked if not one.startswith((f"{url}/", f"blob:{url}/", "data:"))] == []
    finally:
        context.close()


def dropped(page, clip):
    """Drops a file on the page, as a person does, and waits for its labels."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, {type: "video/mp4"})); return data; }""",
        [clip.name, list(clip.read_bytes())],
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    assert "over" in page.get_attribute("#drop", "class")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("#busy", state="hidden")


def shares(page, where):
    """[(class, text of its share)] of a list of bars."""
    rows = page.locator(f"{where} li").all()
    return [tuple(row.locator("span").all_inner_texts()) for row in rows]


def expected(scores):
    """The same of scores."""
    return [(served.NAMES[i], f"{100 * scores[i]:.1f} %") for i in (-scores).argsort(kind="stable")]


def test_a_dropped_video_is_labelled_and_its_timeline_seeks(chromium, server, predictor, clip):
    result = predictor(clip)
    with opened(chromium, server) as page:
        assert page.inner_text("#drop .call") == "Drop a video here"
        dropped(page, clip)
        assert page.inner_text("#name") == clip.name
        assert shares(page, "#whole") == expected(result["video"])
        assert shares(page, "#here") == expected(result["scores"][0])
        pieces = page.locator(".piece")
        assert [piece.get_attribute("aria-label").rpartition(",")[0] for piece in pieces.all()] == [
            f"{label}, {one['start']:.2f} s to {one['end']:.2f} s"
            for label in dict.fromkeys(one["label"] for one in result["segments"])
            for one in result["segments"]
            if one["label"] == label
        ]
        duration = page.locator("#video").evaluate(
            "v => v.readyState ? v.duration : new Promise(on => v.onloadeddata = () => on(v.duration))"
        )
        assert duration == pytest.approx(2.4, abs=0.05)
        plot = page.locator("#times .plot")
        box = plot.bounding_box()
        plot.click(position={"x": 0.75 * box["width"], "y": 20})
        assert page.locator("#video").evaluate("v => v.currentTime") == pytest.approx(1.8, abs=0.02)
        assert shares(page, "#here") == expected(result["scores"][2])
        needle = page.locator("#times .needle").bounding_box()
        assert needle["x"] - box["x"] == pytest.approx(0.75 * box["width"], abs=3)
        plot.press("Home")
        assert plot.get_attribute("aria-valuenow") == "0.00"
        plot.press("ArrowRight")
        assert float(plot.get_attribute("aria-valuenow")) == pytest.approx(0.06, abs=0.001)
        pieces.last.press("Enter")
        last = [
            one
            for one in result["segments"]
            if one["label"] == list(dict.fromkeys(s["label"] for s in result["segments"]))[-1]
        ][-1]
        assert float(plot.get_attribute("aria-valuenow")) == pytest.approx(last["start"], abs=0.01)
        page.locator("#video").evaluate("v => { v.playbackRate = 4; return v.play(); }")
        page.locator("#video").evaluate("v => new Promise(on => v.addEventListener('ended', on))")
        page.wait_for_timeout(100)
        assert float(plot.get_attribute("aria-valuenow")) == pytest.approx(2.4, abs=0.05)


def test_windows_may_begin_more_often(chromium, server, predictor, clip):
    result = predictor(clip, stride="4f")
    with opened(chromium, server) as page:
        dropped(page, clip)
        page.click("summary")
        page.fill("[name=stride]", "4f")
        page.click("text=Compute again")
        page.wait_for_selector("#busy", state="hidden")
        assert shares(page, "#whole") == expected(result["video"])
        with page.expect_download() as download:
            page.click("text=Save the labels")
        with open(download.value.path(), encoding="utf-8") as file:
            assert len(json.load(file)["windows"]) == len(result["scores"]) == 5


def test_what_counted_is_shown_over_the_video_and_beside_it(chromium, server, clip):
    alpha = """c => { const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 20; return n / (c.width * c.height); }"""
    with opened(chromium, server) as page:
        dropped(page, clip)
        page.select_option("[name=method]", "gradient")
        page.select_option("[name=class]", "fall")
        page.select_option("[name=window]", "best")
        page.click("text=Show what counted")
        page.wait_for_selector("#found:not([hidden])")
        said = page.inner_text("#found-what")
        assert said.startswith("fall ")
        assert said.endswith("by gradient.")
        over = page.locator("#over")
        page.wait_for_selector("#over:not([hidden])")
        assert 0.02 < over.evaluate(alpha) <= 0.6 * 0.8 * 1.1  # within the part that the net sees
        assert page.locator("#screen").bounding_box() == over.bounding_box()
        at = page.locator("#video").evaluate("v => v.currentTime")
        start, end = (
            float(part) for part in said.partition(", ")[2].replace(" s", "").replace(" to ", ",").split(",")[:2]
        )
        assert start <= at < end
        with page.expect_download() as download:
            page.click("text=Save as PNG")
        assert download.value.suggested_filename == "my _i_clip_gradient.png"
        page.select_option("[name=place]", "beside")
        page.wait_for_selector("#clip[src]")
        assert not over.is_visible()
        assert (
            page.locator("#clip").evaluate(
                "v => v.readyState ? v.videoWidth : new Promise(on => v.onloadeddata = () => on(v.videoWidth))"
            )
            == 240
        )
        page.click("text=Hide")
        assert not page.is_visible("#found")


def test_a_mistake_is_a_sentence_and_the_page_goes_on(chromium, server, clip, tmp_path):
    (tmp_path / "large.mp4").write_bytes(bytes(200_000))
    (tmp_path / "notes.mp4").write_bytes(b"no video")
    with opened(chromium, server, more=(REFUSED,)) as page:
        page.set_input_files("#file", tmp_path / "large.mp4")
        assert page.inner_text("#failed") == "large.mp4 has 0.2 MB, the limit is 0.1 MB."
        page.set_input_files("#file", tmp_path / "notes.mp4")
        page.wait_for_selector("#failed:has-text('notes.mp4: cannot be read as video')")
        assert not page.is_visible("#result")
        page.set_input_files("#file", clip)
        page.wait_for_selector("#result:not([hidden])")
        assert not page.is_visible("#failed")


def test_an_upload_can_be_given_up(chromium, server, clip):
    with opened(chromium, server) as page:
        page.route("**/api/predict*", lambda route: None)  # it never comes
        page.set_input_files("#file", clip)
        page.wait_for_selector("#busy:not([hidden])")
        page.click("#cancel")
        page.wait_for_selector("#busy", state="hidden")
        assert not page.is_visible("#failed")
        assert not page.is_visible("#result")


def test_a_camera_is_labelled_until_it_is_stopped(chromium, server):
    with opened(chromium, server) as page:
        page.click("#film")
        page.wait_for_selector("#live-bars li")
        page.wait_for_selector("#lag:has-text('ms with the way there and back')")
        assert {name for name, _ in shares(page, "#live-bars")} == set(served.NAMES)
        assert page.locator("#lens").evaluate("v => v.videoWidth") == 640
        page.wait_for_selector("#minute path[d*=L]", state="attached")
        page.click("#stop")
        assert not page.is_visible("#live")
        assert page.locator("#lens").evaluate("v => v.srcObject") is None
        assert not page.is_visible("#failed")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_every_state_is_readable_and_fits(chromium, server, clip, width, scheme):
    with opened(chromium, server, width, scheme) as page:
        states = [lambda: None, lambda: dropped(page, clip), lambda: page.click("summary")]
        for state in [*states, lambda: (page.click("#film"), page.wait_for_selector("#live-bars li"))]:
            state()
            found = page.evaluate(browser.CONTRAST)
            assert len(found) > 5
            assert [row for row in found if row[0] < 4.5] == []  # WCAG 2.2
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#stop")
        unnamed = """() => [...document.querySelectorAll("input, select, button, video")].filter(e =>
            e.checkVisibility() && !(e.labels?.length || e.ariaLabel || e.textContent.trim() || e.title))
            .map(e => e.outerHTML)"""
        assert page.evaluate(unnamed) == []


def test_everything_is_reached_by_the_tab_key(chromium, server, clip):
    with opened(chromium, server) as page:
        assert browser.tabbed(page) == ["file", "film", "A"]
        dropped(page, clip)
        found = browser.tabbed(page)
        stops = [one for one, _ in itertools.groupby(found)]  # the video's own controls are several
        assert [one for one in stops if one not in ("piece", "SELECT")] == [
            *("file", "film", "video", "plot", "SUMMARY", "button strong", "A"),
        ]
        assert found.count("piece") == page.locator(".piece").count() > 0
        assert found.count("SELECT") == 4


def test_the_apis_page_opens_too(chromium, server):
    context = chromium.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    answer = page.goto(f"{server}/api")
    assert answer.headers["content-security-policy"] == guard.POLICY
    assert page.is_visible("text=POST /api/predict")
    assert [row for row in page.evaluate(browser.CONTRAST) if row[0] < 4.5] == []
    assert said == []
    context.close()
