"""The field's test protocols by name: which clips and crops of a video a published result is the mean of.

A config names one of PROTOCOLS instead of a sampler's clips and crops; a number that is None there is the model's own.
"""

import dataclasses
import difflib

from vidjax.data import clips


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The views of a test: clips by a rule of clips.RULES, crops of each, and what of their outputs is averaged."""

    rule: str
    source: str  # where it is published, and what there is not in the other fields
    clips: int = 0  # of each video; 0: as many as fit at every `hop`-th frame
    hop: int = 0  # frames
    frames: int | None = None
    stride: int | None = None
    crops: int = 1  # as transforms.views has them: 1 centre, 3 along the long side, 4 both ends and their mirror
    # images, 5 corners and centre, 10 those and their mirror images
    resize: int | None = None  # the short side before the crop, pixels
    size: int | None = None  # the crop, pixels
    average: str = "prob"  # of the views: prob, logit, or l2: the mean divided by its norm
    feature: str = ""  # the activation that is averaged instead of the scores


PROTOCOLS = {
    "karpathy_20x4": Protocol(
        "uniform", "Karpathy et al., CVPR 2014: clips drawn there, equally spaced here", clips=20, crops=4, resize=200,
        size=170,
    ),
    "two_stream_25x10": Protocol(
        "uniform", "arXiv:1406.2199, 5: one frame or 10 flow fields a clip", clips=25, stride=1, crops=10, resize=256,
        size=224,
    ),
    "c3d_fc6": Protocol(
        "windows_drop", "arXiv:1412.0767: for a linear SVM", hop=8, frames=16, stride=1, resize=128, size=112,
        average="l2", feature="fc6",
    ),
    "lrcn": Protocol(
        "windows_every", "arXiv:1411.4389, its classify_video.py", hop=8, frames=16, stride=1, crops=10, resize=240,
        size=227,
    ),
    "i3d_full": Protocol(
        "center", "arXiv:1705.07750, 2.5: all of a 10 s video at 25 fps, looped where it is shorter", clips=1,
        frames=250, stride=1, resize=256, size=224, average="logit",
    ),
    "r2plus1d_10": Protocol("uniform", "arXiv:1711.11248, Kinetics", clips=10, resize=128, size=112),
    "r2plus1d_100": Protocol("uniform", "arXiv:1711.11248, Sports-1M", clips=100, resize=128, size=112),
    "slowfast_10x3": Protocol(
        "linspace", "arXiv:1812.03982, PySlowFast; CSN too", clips=10, crops=3, resize=256, size=256
    ),
    "vivit_4x3": Protocol(
        "dmvr", "arXiv:2103.15691, Scenic", clips=4, crops=3, resize=256, size=224, average="logit"
    ),
    "timesformer_1x3": Protocol(
        "linspace_offset", "arXiv:2102.05095: the middle clip, where the code takes the first", clips=1, crops=3,
        resize=224, size=224, average="logit",
    ),
    "videomae_5x3": Protocol("strided", "arXiv:2203.12602, Kinetics", clips=5, crops=3, resize=224, size=224),
    "videomae_2x3": Protocol(
        "segment_starts", "arXiv:2203.12602, Something-Something", clips=2, crops=3, resize=224, size=224
    ),
    "mvit_5x1": Protocol("linspace_offset", "arXiv:2104.11227, Kinetics, PySlowFast", clips=5, resize=256, size=224),
    "mvit_1x3": Protocol(
        "ssv2_segments", "arXiv:2104.11227, Something-Something, PySlowFast", clips=1, crops=3, resize=224, size=224
    ),
    "movinet_1x1": Protocol("dmvr", "arXiv:2103.11511: one long clip", clips=1),
}  # fmt: skip


def find(name):
    """The protocol of a name. ValueError, with the nearest names, where there is none."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, n=3, cutoff=0.4) or PROTOCOLS
    raise ValueError(f"there is no test protocol {name!r}; take {' or '.join(near)}")


def indices(protocol, num_frames, size, stride):
    """The frames of every clip of a video: -> int64 (V, T); T and the stride are the protocol's, or `size`, `stride`.

    V is the protocol's number of clips, or follows from the video's length where that is 0.
    """
    rule = clips.RULES[protocol.rule]
    return rule(num_frames, protocol.frames or size, protocol.stride or stride, protocol.clips or protocol.hop)


def describe(protocol):
    """A protocol in one line: "10 clips × 3 crops of 256 px, short side 256 px, probabilities averaged"."""
    length = f"{protocol.frames}-frame " if protocol.frames else ""
    taken = (
        _counted(protocol.clips, f"{length}clip") if protocol.clips else f"{length}clips every {protocol.hop} frames"
    )
    size = f"{protocol.size} px" if protocol.size else "the model's size"
    short = f", short side {protocol.resize} px" if protocol.resize else ""
    what = protocol.feature or {"logit": "logits"}.get(protocol.average, "probabilities")
    unit = ", scaled to length 1" if protocol.average == "l2" else ""
    return f"{taken} × {_counted(protocol.crops, 'crop')} of {size}{short}, {what} averaged{unit}"


def _counted(number, noun):
    return f"{number} {noun}{'s' * (number > 1)}"
