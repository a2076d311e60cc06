"""`vidjax search`: the net of the manifest, what is printed and written, sentences for what cannot be."""

import json
import os
import shutil

import browser
import numpy as np
import pytest
import tiny

from vidjax import features, main
from vidjax.data import video
from vidjax.features import store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(five videos of three windows, the second of one, a run with random weights, an index of the videos)."""
    folder, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    (folder / "videos").mkdir()
    for i, length in enumerate((24, 8, 24, 24, 24)):
        noise = np.kron(rng.integers(0, 256, (length, 6, 8, 3)), np.ones((1, 5, 5, 1))) / (i + 1)
        video.write(folder / "videos" / f"{i}.mp4", noise.astype(np.uint8), fps=10)
    run = tiny.save_untrained(folder / "run", ["rise", "fall"])
    words = [str(folder / "videos"), f"--weights={run}", "--layer=layer2,pre_logits", f"--out={folder / 'index'}"]
    assert main.main(["features", *words]) == 0
    return folder / "videos", run, folder / "index"


def searched(tmp_path, *words):
    """(exit code, the lines of --json) of a search."""
    code = main.main(["search", *map(str, words), f"--json={tmp_path}/found.jsonl"])
    return code, [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]


def test_neighbours_of_a_video_in_the_index(made, tmp_path, capsys):
    videos, _, index = made
    code, (found,) = searched(tmp_path, videos / "0.mp4", index, "--top=4")
    rows, _ = features.read(index, "videos", "layer2")
    x = rows["features"] / np.linalg.norm(rows["features"], axis=1, keepdims=True)
    mine = rows["path"] == str(videos / "0.mp4")
    near = np.where(mine, -2, (x @ x[mine].T).max(1))
    order = np.argsort(-near, kind="stable")[:4]
    assert code == 0
    assert (found["layer"], found["metric"], len(found["windows"])) == ("layer2", "cosine", 3)
    assert [(hit["path"], hit["window"]) for hit in found["hits"]] == [
        (rows["path"][i], rows["window"][i]) for i in order
    ]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], near[order], atol=1e-5)  # other batches
    assert [hit["query"] for hit in found["hits"]] == [int((x[i] @ x[mine].T).argmax()) for i in order]
    assert [hit["frames"] for hit in found["hits"]] == [[rows["first_frame"][i], rows["end_frame"][i]] for i in order]
    assert not any(hit["self"] for hit in found["hits"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{videos}/0.mp4, 3 windows: nearest by cosine of layer2"
    assert len(lines) == 5
    assert found["hits"][0]["id"] in lines[1]


def test_the_query_itself_and_one_line_a_video(made, tmp_path, capsys):
    videos, _, index = made
    link = tmp_path / "link.mp4"
    os.symlink(videos / "0.mp4", link)
    code, (found,) = searched(tmp_path, link, index, "--top=20", "--self", "--metric=l2", "--layer=pre_logits")
    assert code == 0
    assert len(found["hits"]) == 13
    assert [hit["self"] for hit in found["hits"][:3]] == [True] * 3
    np.testing.assert_allclose([hit["score"] for hit in found["hits"][:3]], 0, atol=1e-4)  # other batches, scores of 10
    assert sum(hit["self"] for hit in found["hits"]) == 3
    assert "(the query itself)" in capsys.readouterr().out
    code, (found,) = searched(tmp_path, videos / "1.mp4", index, "--per_video")
    assert sorted(hit["path"] for hit in found["hits"]) == [f"{videos}/{i}.mp4" for i in (0, 2, 3, 4)]
    assert len(found["windows"]) == 1


def test_a_query_that_is_broken_takes_nothing_with_it(made, tmp_path, capsys):
    videos, run, index = made
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    code, found = searched(tmp_path, tmp_path / "bad.mp4", videos / "2.mp4", index, "--top=1", f"--weights={run}")
    assert code == 1
    assert f"skipped {tmp_path}/bad.mp4" in capsys.readouterr().err
    assert found[0]["path"] == f"{tmp_path}/bad.mp4"
    assert "cannot be read as video" in found[0]["error"]
    assert len(found[1]["hits"]) == 1


def test_mistakes_are_told_in_a_sentence(made, tmp_path, capsys):
    videos, run, index = made

    def fails(*words):
        assert main.main(["search", *map(str, words)]) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    query = videos / "0.mp4"
    assert "give a video and an index" in fails(query)
    assert "does not exist" in fails(tmp_path / "gone.mp4", index)
    assert "has no layer 'layer9', only layer2, pre_logits" in fails(query, index, "--layer=layer9")
    assert "holds no features" in fails(query, videos)
    assert "--stride is a time such as 0.5s" in fails(query, index, "--stride=soon")
    other = tiny.save_untrained(tmp_path / "other", ["rise", "fall"], model__widths=(4, 12))
    said = fails(query, index, f"--weights={other}")
    assert f"{index} holds features of step 0 of {run}, whose weights {other} does not have" in said
    rows, about = features.read(index, "videos")
    narrow = {key: x[..., :5] if key == "features" else x for key, x in rows.items()}
    narrow["layer2"] = narrow.pop("features")
    store.save(tmp_path / "narrow", "videos", [narrow], about | {"layers": ["layer2"]})
    assert "has rows of 5 numbers, the net gives 8 for layer2" in fails(query, tmp_path / "narrow")
    shutil.copytree(index, tmp_path / "moved")
    manifest = json.loads((index / "videos.json").read_text())
    (tmp_path / "moved" / "videos.json").write_text(json.dumps(manifest | {"run": "/gone"}))
    assert "was made by /gone, which is not there; name it with --weights=RUN" in fails(query, tmp_path / "moved")
    assert main.main(["search", str(query), str(tmp_path / "moved"), f"--weights={run}"]) == 0


def test_the_page_shows_the_query_and_its_neighbours(made, tmp_path):
    videos, _, index = made
    words = [videos / "0.mp4", videos / "1.mp4", index, "--top=3", f"--out={tmp_path}/new/page.html"]
    assert main.main(["search", *map(str, words)]) == 0
    with browser.launched() as chromium:
        for width, scheme in ((1280, "light"), (390, "dark")):
            with browser.opened(chromium, tmp_path / "new" / "page.html", width, scheme) as page:
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.locator("section").count() == 2
                assert page.locator("figure").count() == 6
                assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
                contrast = page.evaluate(browser.CONTRAST)
                assert [row for row in contrast if row[0] < (3 if row[1] >= 24 else 4.5)] == []  # WCAG 2.2
                page.locator("figure .play").first.click()
                assert page.locator("figure video").first.is_visible()


def test_a_neighbour_without_its_file_has_no_pictures(made, tmp_path):
    videos, run, _ = made
    shutil.copytree(videos, tmp_path / "<b>videos")
    assert main.main(["features", f"{tmp_path}/<b>videos", f"--weights={run}", f"--out={tmp_path}/index"]) == 0
    shutil.rmtree(tmp_path / "<b>videos")
    page = tmp_path / "page.html"
    assert main.main(["search", str(videos / "0.mp4"), f"{tmp_path}/index", "--top=2", f"--out={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("No pictures: ") == 2
    assert "<b>videos" not in text
