"""Videos that are given as folders of JPEG frames."""

import os
import pathlib
import tempfile

import cv2

from vidjax.data import video

EXTENSIONS = (".jpg", ".jpeg")


def folders(root):
    """{name: path} of the numbered folders of frames in `root` or else in the first of its folders that has any."""
    for where in (root, *sorted(path for path in pathlib.Path(root).iterdir() if path.is_dir())):
        with os.scandir(where) as entries:
            found = {entry.name: entry.path for entry in entries if entry.name.isdigit() and entry.is_dir()}
        if any(jpegs(path) for path in found.values()):  # the first one tells
            return found
    return {}


def encoded(path, fps=12):
    """A video's bytes: a file as it is, a folder's JPEG frames in the order of their names as H.264 MP4.

    VideoError for a folder without frames, a frame that cannot be read or that differs in size.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return path.read_bytes()
    files = jpegs(path)
    if not files:
        raise video.VideoError(f"{path}: there is no JPEG frame")
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder, "video.mp4")
        video.write(made, pictures(files), fps=fps)
        return made.read_bytes()


def jpegs(path):
    """The JPEG files of a folder in the order of their names."""
    return sorted(file for file in pathlib.Path(path).iterdir() if file.suffix.lower() in EXTENSIONS)


def pictures(files):
    """Decodes JPEG files one by one: uint8 RGB (H, W, 3), all of one size."""
    size = None
    for file in files:
        picture = cv2.imread(os.fspath(file), cv2.IMREAD_COLOR)
        if picture is None:
            raise video.VideoError(f"{file}: cannot be read as a picture")
        size = size or picture.shape
        if picture.shape != size:
            raise video.VideoError(
                f"{file}: {picture.shape[1]}x{picture.shape[0]} pixels, but {size[1]}x{size[0]} before"
            )
        yield picture[..., ::-1]
