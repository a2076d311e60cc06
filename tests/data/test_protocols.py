import dataclasses

import numpy as np
import pytest

from vidjax.data import clips, protocols


def taken(name, num_frames, size=8, stride=4):
    return protocols.indices(protocols.find(name), num_frames, size, stride)


def test_every_protocol_is_whole():
    for name, protocol in protocols.PROTOCOLS.items():
        assert protocol.rule in clips.RULES, name
        assert (protocol.clips > 0) != (protocol.hop > 0), name
        assert protocol.crops in (1, 3, 4, 5, 10), name
        assert protocol.average in ("prob", "logit", "l2"), name
        assert (protocol.average == "l2") == bool(protocol.feature), name
        assert (protocol.resize is None) == (protocol.size is None), name
        assert protocol.size is None or protocol.resize >= protocol.size, name
        assert protocol.source, name


def test_names_say_clips_and_crops():
    for name, protocol in protocols.PROTOCOLS.items():
        counts = name.split("_")[-1]
        if "x" in counts:
            assert counts == f"{protocol.clips}x{protocol.crops}", name
        elif counts.isdigit():
            assert (protocol.clips, protocol.crops) == (int(counts), 1), name


def test_protocols_take_frames_of_the_video():
    for name, protocol in protocols.PROTOCOLS.items():
        for num_frames in (1, 2, 7, 16, 17, 64, 250, 301):
            for size, stride in ((1, 1), (8, 8), (32, 2)):
                indices = taken(name, num_frames, size, stride)
                case = name, num_frames, size, stride
                assert indices.dtype == np.int64, case
                assert indices.shape == (len(indices), protocol.frames or size), case
                assert len(indices) == protocol.clips or protocol.hop, case
                assert 0 <= indices.min() <= indices.max() < num_frames, case


def test_equally_spaced_clips():
    assert taken("karpathy_20x4", 191, 1, 1).ravel().tolist() == list(range(0, 191, 10))
    assert taken("two_stream_25x10", 241, 1, 9).ravel().tolist() == list(range(0, 241, 10))
    assert taken("two_stream_25x10", 58, 10, 9)[:3].tolist() == [list(range(start, start + 10)) for start in (0, 2, 4)]
    assert taken("r2plus1d_10", 98, 16, 1)[:, 0].tolist() == [0, 9, 18, 27, 36, 45, 54, 63, 72, 82]
    assert taken("r2plus1d_100", 115, 16, 1)[:, 0].tolist() == list(range(100))


def test_windows():
    assert taken("c3d_fc6", 45)[:, 0].tolist() == [0, 8, 16, 24]
    assert taken("c3d_fc6", 45)[1].tolist() == list(range(8, 24))
    assert taken("c3d_fc6", 3).tolist() == [[0, 1, 2] * 5 + [0]]
    assert taken("lrcn", 45)[:, 0].tolist() == [0, 8, 16, 24, 29, 29]
    assert taken("lrcn", 48)[:, 0].tolist() == [0, 8, 16, 24, 32, 32]


def test_whole_videos():
    assert taken("i3d_full", 250).tolist() == [list(range(250))]
    assert taken("i3d_full", 100).tolist() == [[i % 100 for i in range(250)]]
    assert taken("i3d_full", 254).tolist() == [list(range(2, 252))]
    assert taken("movinet_1x1", 250, 50, 5).tolist() == [list(range(0, 250, 5))]
    assert taken("movinet_1x1", 300, 50, 5).tolist() == [list(range(25, 275, 5))]


def test_clips_of_published_code():
    assert taken("slowfast_10x3", 114, 8, 8)[:3].tolist() == [
        [0, 9, 18, 27, 36, 45, 54, 63],
        [5, 14, 23, 32, 41, 50, 59, 68],
        [10, 19, 28, 37, 46, 55, 64, 73],
    ]
    assert taken("mvit_5x1", 264, 16, 4)[:, 0].tolist() == [0, 50, 100, 150, 200]
    assert taken("timesformer_1x3", 300, 8, 32)[0, [0, -1]].tolist() == [22, 277]
    assert taken("vivit_4x3", 250, 32, 2)[:, 0].tolist() == [0, 62, 124, 186]
    assert taken("videomae_5x3", 300, 16, 4)[:, 0].tolist() == [0, 56, 116, 176, 236]
    assert taken("videomae_2x3", 32, 4, 9).tolist() == [[0, 8, 16, 24], [4, 12, 20, 28]]
    assert taken("mvit_1x3", 33, 8, 9).tolist() == [[2, 6, 10, 14, 18, 22, 26, 30]]


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(ValueError, match="no test protocol 'slowfast_10x33'; take slowfast_10x3"):
        protocols.find("slowfast_10x33")
    with pytest.raises(ValueError, match=r"no test protocol '\?'; take karpathy_20x4 or .* or movinet_1x1$"):
        protocols.find("?")


def test_describe():
    lines = {name: protocols.describe(protocol) for name, protocol in protocols.PROTOCOLS.items()}
    assert lines["slowfast_10x3"] == "10 clips × 3 crops of 256 px, short side 256 px, probabilities averaged"
    assert lines["vivit_4x3"] == "4 clips × 3 crops of 224 px, short side 256 px, logits averaged"
    assert lines["movinet_1x1"] == "1 clip × 1 crop of the model's size, probabilities averaged"
    assert lines["i3d_full"] == "1 250-frame clip × 1 crop of 224 px, short side 256 px, logits averaged"
    assert lines["c3d_fc6"] == (
        "16-frame clips every 8 frames × 1 crop of 112 px, short side 128 px, fc6 averaged, scaled to length 1"
    )
    assert lines["karpathy_20x4"] == "20 clips × 4 crops of 170 px, short side 200 px, probabilities averaged"
    assert all("\n" not in line for line in lines.values())


def test_protocols_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        protocols.find("lrcn").crops = 1
