"""Files, folders, patterns and lists become videos with names for their outputs."""

import os

import pytest

from vidjax.predict import files


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("a/x.mp4", "a/deep/x.avi", "b/x.mp4", "b/note.txt", "odd[1].mp4", "y.gif", "empty/.keep"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_keeps_its_subfolders(here):
    assert files.find(["a"]) == {"a/deep/x.avi": "deep/x", "a/x.mp4": "x"}


def test_each_video_once_and_a_taken_name_gets_a_number(here):
    found = files.find(["a/x.mp4", "b", "a", "./a/x.mp4"])
    assert found == {"a/x.mp4": "x", "b/x.mp4": "x_2", "a/deep/x.avi": "deep/x"}


def test_patterns(here):
    assert files.find(["*/x.mp4"]) == {"a/x.mp4": "x", "b/x.mp4": "x_2"}
    assert list(files.find(["**/*.avi"])) == ["a/deep/x.avi"]
    assert list(files.find(["b/*"])) == ["b/x.mp4"]  # no notes
    assert list(files.find(["odd[1].mp4"])) == ["odd[1].mp4"]  # a file of that name
    with pytest.raises(FileNotFoundError, match=r"\*\.mkv matches no video file"):
        files.find(["*.mkv"])


def test_a_list_is_seen_from_its_folder(here):
    (here / "b" / "list.txt").write_text("# mine\nx.mp4\n\n../y.gif\ngone.mp4\n", encoding="utf-8")
    assert files.find(["a/x.mp4"], "b/list.txt") == {
        "a/x.mp4": "x",
        "b/x.mp4": "x_2",
        "b/../y.gif": "y",
        "b/gone.mp4": "gone",  # is reported when it is to be read
    }
    (here / "none.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"none.txt lists no videos"):
        files.find([], "none.txt")
    with pytest.raises(FileNotFoundError, match="the list gone.txt cannot be read"):
        files.find([], "gone.txt")


def test_what_is_not_there_is_a_sentence(here):
    with pytest.raises(FileNotFoundError, match=r"gone.mp4 does not exist; give a video file, a folder"):
        files.find(["gone.mp4"])
    with pytest.raises(FileNotFoundError, match="empty holds no video file"):
        files.find(["empty"])


def test_links_to_a_video_are_that_video(here):
    os.symlink("x.mp4", here / "a" / "link.mp4")
    assert list(files.find(["a/x.mp4", "a/link.mp4"])) == ["a/x.mp4"]
