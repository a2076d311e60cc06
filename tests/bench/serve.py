"""From a chosen file to its labels on the page of `vidjax serve`, beside the request alone and `vidjax predict`.

    python tests/bench/serve.py my_video.mp4 --weights=runs/quickstart --rounds=5

The server is warm: one round more is made before, and not counted. The three take turns; seconds, medians.
"""

import argparse
import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from playwright.sync_api import sync_playwright

PROGRAM = [sys.executable, "-c", "import vidjax.main; vidjax.main.run()"]
WATCH = """() => { const result = document.getElementById("result");
  window.shown = new Promise(on => new MutationObserver(() => result.hidden || on(performance.now()))
    .observe(result, {attributes: true}));
  document.getElementById("file").addEventListener("change", () => { window.chosen = performance.now(); }, true); }"""


@contextlib.contextmanager
def serving(weights):
    """The address of a server in a process of its own."""
    words = ["serve", f"--weights={weights}", "--port=0"]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()


def dropped(page, url, path):
    """Seconds from choosing a file to its labels."""
    page.goto(url)
    page.wait_for_selector("body.ready")
    page.evaluate(WATCH)
    page.set_input_files("#file", path)
    return page.evaluate("async () => (await window.shown - window.chosen) / 1000")


def timed(work):
    """Seconds that work() takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def main():
    """Prints each round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    content, rows = pathlib.Path(args.video).read_bytes(), []
    with serving(args.weights) as url, sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
        page = browser.new_page()
        for number in range(args.rounds + 1):
            files = [pathlib.Path(folder, f"{number}_{i}.mp4") for i in range(3)]
            for i, file in enumerate(files):  # a few bytes more: the server knows the scores of what it has seen
                file.write_bytes(content + bytes(8 * (3 * number + i)))
            post = urllib.request.Request(f"{url}api/predict?top=40", files[1].read_bytes())
            predict = [*PROGRAM, "predict", str(files[2]), f"--weights={args.weights}"]
            rows.append(
                (
                    dropped(page, url, files[0]),
                    timed(lambda post=post: urllib.request.urlopen(post).read()),
                    timed(lambda words=predict: subprocess.run(words, check=True, capture_output=True)),
                )
            )
            print(*(f"{seconds:.3f}" for seconds in rows[-1]), f"load {os.getloadavg()[0]:.1f}", flush=True)
        browser.close()
    page, request, command = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    print(f"page {page:.3f} s, request {request:.3f} s, vidjax predict {command:.3f} s")


if __name__ == "__main__":
    main()
