"""Rules that carry a project's name, against that project's published rule written out again, frame by frame."""

import numpy as np
import pytest

from vidjax.data import clips


def rng(seed=0):
    return np.random.default_rng(seed)


def test_windows_of_lrcn():
    """classify_video.py: each 8th frame i starts frames[i : i + 16] if i + 16 < n, else it is frames[-16:]."""
    assert clips.windows(39, 16, 1, 8, tail="every")[:, 0].tolist() == [0, 8, 16, 23, 23]
    for num_frames in range(16, 200):
        frames = list(range(num_frames))
        expected = [frames[i : i + 16] if i + 16 < num_frames else frames[-16:] for i in range(0, num_frames, 8)]
        assert clips.windows(num_frames, 16, 1, 8, tail="every").tolist() == expected, num_frames


def test_evenly_stepped_is_tsn_test():
    """eval_net.py of TSN: 25 frame numbers counted from 1, Python 2's division."""
    assert clips.evenly_stepped(100, 25).tolist() == list(range(0, 100, 4))
    assert clips.evenly_stepped(97, 25).tolist() == list(range(0, 97, 4))
    assert clips.evenly_stepped(96, 25).tolist() == list(range(0, 75, 3))
    for depth in (1, 5):
        for num_frames in range(depth, 400):
            step = (num_frames - depth) // 24
            ticks = range(1, min(2 + step * 24, num_frames + 1), step) if step > 0 else [1] * 25
            expected = [tick - 1 for tick in ticks]
            assert clips.evenly_stepped(num_frames, 25, depth).tolist() == expected, (num_frames, depth)
    assert clips.evenly_stepped(9, 1).tolist() == [0]


def tsm(num_frames, size, length, mode, randint=None):
    """TSNDataSet's _sample_indices, _get_val_indices and _get_test_indices of TSM, counted from 0."""
    if mode == "train":
        average = (num_frames - length + 1) // size
        if average > 0:
            return [average * i + offset for i, offset in enumerate(randint(average, size))]
        return sorted(randint(num_frames - length + 1, size)) if num_frames > size else [0] * size
    if mode == "val" and num_frames <= size + length - 1:
        return [0] * size
    tick = (num_frames - length + 1) / float(size)
    return [int(tick / 2.0 + tick * x) for x in range(size)]


def test_tsm_segments():
    assert clips.tsm_segments(100, 8).tolist() == [6, 18, 31, 43, 56, 68, 81, 93]
    assert clips.tsm_segments(5, 8).tolist() == [0, 0, 1, 2, 2, 3, 4, 4]
    assert clips.tsm_segments(8, 8, val=True).tolist() == [0] * 8
    assert clips.tsm_segments(9, 8, val=True).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert clips.tsm_segments(30, 3, length=5).tolist() == [4, 13, 21]
    assert clips.tsm_segments(3, 3, length=5).tolist() == [0, 0, 0]
    for length in (1, 5, 10):
        for size in (1, 3, 8, 16, 25):
            for num_frames in range(length, 300):
                for val in (False, True):
                    expected = tsm(num_frames, size, length, "val" if val else "test")
                    case = num_frames, size, length, val
                    assert clips.tsm_segments(num_frames, size, length=length, val=val).tolist() == expected, case


def test_tsm_segments_in_training():
    for length in (1, 5):
        for size in (3, 8):
            for num_frames in range(length, 60):
                draw = rng(7)
                expected = tsm(
                    num_frames, size, length, "train", lambda high, count, draw=draw: draw.integers(high, size=count)
                )
                case = num_frames, size, length
                assert clips.tsm_segments(num_frames, size, rng(7), length).tolist() == expected, case
    draw = rng()
    seen = np.array([clips.tsm_segments(11, 3, draw) for _ in range(200)])
    assert [set(column.tolist()) for column in seen.T] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]


def test_tsm_dense():
    assert clips.tsm_dense(64, 8, rng()).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert clips.tsm_dense(20, 8, rng()).tolist() == [0, 8, 16, 4, 12, 0, 8, 16]
    draw = rng()
    assert {int(clips.tsm_dense(68, 8, draw)[0]) for _ in range(200)} == {0, 1, 2, 3}
    for num_frames in range(1, 200):
        starts = np.linspace(0, max(1, 1 + num_frames - 64) - 1, num=10, dtype=int)
        expected = [[(i * 8 + start) % num_frames for i in range(8)] for start in starts.tolist()]
        assert clips.tsm_dense_clips(num_frames, 8, 10).tolist() == expected, num_frames


def test_ssv2_segments():
    """Ssv2.get_seq_frames of PySlowFast: rounded edges of (n - 1) / size, their middle or a draw with both ends."""
    assert clips.ssv2_segments(33, 8).tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
    assert clips.ssv2_segments(4, 8).tolist() == [0, 0, 1, 1, 2, 2, 2, 3]
    for size in (4, 8, 16, 32):
        for num_frames in range(1, 200):
            part = float(num_frames - 1) / size
            edges = [(int(np.round(part * i)), int(np.round(part * (i + 1)))) for i in range(size)]
            expected = [(low + high) // 2 for low, high in edges]
            assert clips.ssv2_segments(num_frames, size).tolist() == expected, (num_frames, size)
    draw = rng()
    seen = np.array([clips.ssv2_segments(9, 4, draw) for _ in range(300)])
    assert [set(column.tolist()) for column in seen.T] == [{0, 1, 2}, {2, 3, 4}, {4, 5, 6}, {6, 7, 8}]


def slowfast(num_frames, size, stride, clip, count, offset, fps=30):
    """decode() of PySlowFast on a whole decoded video: get_start_end_idx, then temporal_sampling by torch.linspace.

    torch.linspace in float32 as its scalar kernel has it: from the start in the first half, from the end in the rest.
    """
    span = stride * size / 30 * fps
    delta = max(num_frames - span, 0)
    start = delta * clip / count
    if offset:
        start = np.floor(delta / 2) if count == 1 else clip * np.floor(delta / (count - 1))
    low, high = np.float32(start), np.float32(start + span - 1)
    numbers = [low]
    if size > 1:
        step = np.float32((high - low) / np.float32(size - 1))
        numbers = [
            low + step * np.float32(i) if i < size // 2 else high - step * np.float32(size - i - 1) for i in range(size)
        ]
    return [int(min(max(number, 0), num_frames - 1)) for number in numbers]


def test_linspace_clips_by_hand():
    assert clips.linspace_clips(20, 4, 2, 3).tolist() == [[0, 2, 4, 7], [4, 6, 8, 11], [8, 10, 12, 15]]
    assert clips.linspace_clips(20, 4, 2, 3, offset=True).tolist() == [[0, 2, 4, 7], [6, 8, 10, 13], [12, 14, 16, 19]]
    assert clips.linspace_clips(20, 4, 2, 1, offset=True).tolist() == [[6, 8, 10, 13]]
    assert clips.linspace_clips(5, 4, 2, 2).tolist() == [[0, 2, 4, 4]] * 2
    assert clips.linspace_clips(40, 4, 2, 2, fps=60.0).tolist() == [[0, 5, 10, 15], [12, 17, 22, 27]]


@pytest.mark.parametrize("offset", [False, True])
def test_linspace_clips_are_those_of_pyslowfast(offset):
    for size, stride in ((1, 1), (4, 16), (8, 8), (32, 2), (16, 5), (13, 6)):
        for count in (1, 3, 10):
            for num_frames in range(1, 350, 7):
                expected = [slowfast(num_frames, size, stride, k, count, offset) for k in range(count)]
                case = num_frames, size, stride, count
                assert clips.linspace_clips(num_frames, size, stride, count, offset).tolist() == expected, case


def test_linspace_clips_are_what_torch_gave():
    """Frames that torch 2.13's linspace gave (long() of 300 frames, 32 x 2, clip 3 of 10; 8 x 8, clip 7 of 10)."""
    assert clips.linspace_clips(300, 32, 2, 10)[3].tolist() == [
        70,
        72,
        74,
        76,
        78,
        80,
        82,
        85,
        87,
        89,
        91,
        93,
        95,
        97,
        99,
        101,
        103,
        105,
        107,
        109,
        111,
        113,
        115,
        117,
        119,
        121,
        123,
        125,
        127,
        129,
        131,
        133,
    ]
    assert clips.linspace_clips(300, 8, 8, 10)[7].tolist() == [165, 174, 183, 192, 201, 210, 219, 228]


def test_linspace_clip_draws_a_start_that_is_no_whole_number():
    draw = rng()
    drawn = np.array([clips.linspace_clip(12, 4, 2, draw) for _ in range(300)])
    assert set(drawn[:, 0].tolist()) == {0, 1, 2, 3}
    assert set(np.diff(drawn).ravel().tolist()) == {2, 3}


def test_dmvr_clips():
    """sample_linspace_sequence: starts from 0 to n - size * stride, cut to whole numbers; the video repeats."""
    assert clips.dmvr_clips(250, 32, 2, 4)[:, [0, -1]].tolist() == [[0, 62], [62, 124], [124, 186], [186, 248]]
    assert clips.dmvr_clips(10, 4, 3, 2).tolist() == [[0, 3, 6, 9]] * 2
    assert clips.dmvr_clips(10, 4, 4, 1).tolist() == [[0, 4, 8, 2]]
    assert clips.dmvr_clips(13, 4, 2, 1).tolist() == [[2, 4, 6, 8]]
    for num_frames in range(64, 320):
        last = np.float32(num_frames - 64)
        step = last / np.float32(3)
        expected = [0, int(step), int(step * np.float32(2)), int(last)]
        assert clips.dmvr_clips(num_frames, 32, 2, 4)[:, 0].tolist() == expected, num_frames


def test_strided_clips():
    """VideoMAE's kinetics.py in test: every 4th frame, the last repeated up to 16, then runs at int(k * step)."""
    assert clips.strided_clips(24, 3, 2, 3).tolist() == [[0, 2, 4], [8, 10, 12], [18, 20, 22]]
    assert clips.strided_clips(3, 3, 2, 2).tolist() == [[0, 2, 2]] * 2
    assert clips.strided_clips(9, 3, 2, 1).tolist() == [[0, 2, 4]]
    for num_frames in range(1, 320):
        every = list(range(0, num_frames, 4))
        every += [every[-1]] * (16 - len(every))
        step = max(1.0 * (len(every) - 16) / (5 - 1), 0)
        expected = [every[int(k * step) : int(k * step) + 16] for k in range(5)]
        assert clips.strided_clips(num_frames, 16, 4, 5).tolist() == expected, num_frames


def test_segment_starts_are_videomae_on_ssv2():
    """ssv2.py in test: middles and starts of 16 parts, sorted; clip k takes every second from k on."""
    rule = clips.RULES["segment_starts"]
    assert rule(16, 4, 1, 2).tolist() == [[0, 4, 8, 12], [2, 6, 10, 14]]
    for num_frames in range(1, 200):
        tick = num_frames / float(16)
        both = [int(tick / 2.0 + tick * x) for x in range(16)] + [int(tick * x) for x in range(16)]
        expected = [sorted(both)[0::2], sorted(both)[1::2]]
        assert rule(num_frames, 16, 1, 2).tolist() == expected, num_frames


def test_center_and_uniform_clips_are_mmaction2_to_rounding():
    """SampleFrames in test: starts round(k * room / (clips - 1)), one clip at room // 2, looped; ours round down."""
    for size, stride in ((16, 1), (8, 8), (32, 2)):
        for num_frames in range(1, 320, 3):
            room = max(num_frames - ((size - 1) * stride + 1), 0)
            frames = (room // 2 + np.arange(size) * stride) % num_frames
            assert clips.center_clip(num_frames, size, stride).tolist() == frames.tolist(), (num_frames, size, stride)
            exact = np.arange(10) * (room / 9)
            starts = clips.uniform_clips(num_frames, size, stride, 10)[:, 0]
            assert (starts - np.round(exact) <= 0).all(), (num_frames, size, stride)
            assert (exact - starts < 1).all(), (num_frames, size, stride)
