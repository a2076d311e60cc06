"""A headless Chromium for tests of pages, where one is installed (Debian: the package chromium) and Playwright too."""

import contextlib
import importlib.util
import shutil

import pytest

QUIET = ["quic", "background-networking", "component-update", "sync", "gpu"]  # what a page from a file does not need
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextlib.contextmanager
def launched(more=()):
    """A running browser of Playwright's, with `more` flags; skips the test, saying so, where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium): pages are not opened in a browser")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright is not installed (pip install -e '.[test]'): pages are not opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        flags = ["--no-first-run", *(f"--disable-{name}" for name in QUIET), *more]
        browser = driver.chromium.launch(executable_path=path, args=flags, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, file, width=1280, scheme="light", motion="no-preference"):
    """The page of a file; at the end, that it said nothing to the console and asked for nothing but data and blobs."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion=motion)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    try:
        yield page
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    finally:
        context.close()


def tabbed(page, limit=400):
    """What the Tab key comes to, in order, from the top of the page: [id, class or tag of each element]."""
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    found = []
    for _ in range(limit):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "(e => e === document.body ? '' : e.id || e.className || e.tagName)(document.activeElement)"
        )
        if not here:
            return found
        found.append(here)
    raise AssertionError(f"the Tab key does not come to an end: {found[-5:]}")


CONTRAST = """() => {
  const known = new Map(), canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const paint = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = rgb => rgb.map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, style, .play")) continue;  // a button on a picture has a ground of its own
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    const key = [...grounds, style.color].join();
    if (!known.has(key)) {
      const [under, ink] = [paint(["white", ...grounds]), paint(["white", ...grounds, style.color])].map(light);
      known.set(key, (Math.max(under, ink) + .05) / (Math.min(under, ink) + .05));
    }
    const ratio = known.get(key);
    const said = node.textContent.trim().slice(0, 40);
    found.push([ratio, parseFloat(style.fontSize), !!element.closest(".matrix td"), said]);
  }
  return found;
}"""
