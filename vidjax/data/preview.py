"""Small clips for people to look at in a page: VP9 in WebM, which every browser plays."""

import fractions
import io

import av
import numpy as np


def webm(frames, fps, crf=38):
    """Encodes uint8 RGB frames (T, H, W, 3) as WebM in memory -> bytes; an odd last row or column is left out.

    b"" where this FFmpeg has no VP9 encoder.
    """
    if "libvpx-vp9" not in av.codecs_available:
        return b""
    height, width = (size // 2 * 2 for size in frames[0].shape[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        options = {"crf": str(crf), "b": "0", "deadline": "realtime", "cpu-used": "6"}
        stream = container.add_stream("libvpx-vp9", rate=fractions.Fraction(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
