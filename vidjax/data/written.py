"""Video files out: pictures to an H.264 MP4 file."""

import contextlib
import fractions
import itertools
import os

import av
import numpy as np


def write(path, frames, fps=25, crf=18, gop=12, bframes=0, threads=1):
    """Encodes uint8 RGB frames (T, H, W, 3), an array or an iterable of pictures, as H.264 MP4, keyframe every `gop`.

    `bframes` pictures between two that others refer to make the file smaller, and clips of a stride faster to read:
    those that are not wanted are not decoded. `path` appears only when complete. Odd sizes are kept by not
    subsampling chroma (yuv444p). ValueError without frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: a video needs at least one frame")
    options = {"movflags": "faststart"}
    with whole(path) as partial, av.open(f"file:{partial}", "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(65535))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
        stream.options = {"crf": str(crf), "g": str(gop), "bf": str(bframes), "preset": "veryfast"}
        stream.options |= {"b-pyramid": "none", "b_strategy": "0"} if bframes else {}
        stream.codec_context.thread_count = threads
        for picture in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


@contextlib.contextmanager
def whole(path):
    """Yields the name of a partial file, which becomes `path` at the end and is removed after an exception."""
    partial = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        open(partial, "wb").close()  # where it cannot be written is an error now, not after the first pictures
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
