import numpy as np
import pytest

from vidjax.data import clips

LENGTHS = (1, 2, 3, 5, 7, 8, 9, 16, 31, 61, 64, 100, 301)
SIZES = (1, 2, 3, 8, 16)
STRIDES = (1, 2, 4)


def rng(seed=0):
    return np.random.default_rng(seed)


def everything(num_frames, size, stride, short="loop"):
    """Every index function's clips of one video: [(name, (clips, size))]."""
    return [
        ("random_clip", clips.random_clip(num_frames, size, stride, rng(), short)[None]),
        ("center_clip", clips.center_clip(num_frames, size, stride, short)[None]),
        ("segments", clips.segments(num_frames, size)[None]),
        ("segments drawn", clips.segments(num_frames, size, rng())[None]),
        ("evenly_spaced", clips.evenly_spaced(num_frames, size)[None]),
        ("uniform_clips", clips.uniform_clips(num_frames, size, stride, 3, short)),
        ("windows", clips.windows(num_frames, size, stride, 5, short)),
        ("windows drop", clips.windows(num_frames, size, stride, 5, short, "drop")),
        ("windows every", clips.windows(num_frames, size, stride, 5, short, "every")),
    ]


@pytest.mark.parametrize("short", ["loop", "clamp"])
def test_indices_are_frames_of_the_video(short):
    for num_frames in LENGTHS:
        for size in SIZES:
            for stride in STRIDES:
                for name, indices in everything(num_frames, size, stride, short):
                    case = name, num_frames, size, stride
                    assert indices.dtype == np.int64, case
                    assert indices.shape[1:] == (size,), case
                    assert indices.min() >= 0, case
                    assert indices.max() < num_frames, case
                    if short == "clamp" or num_frames > (size - 1) * stride:
                        assert (np.diff(indices) >= 0).all(), case


def test_clips_that_fit_keep_their_stride():
    for num_frames in LENGTHS:
        for size in SIZES:
            for stride in STRIDES:
                if num_frames > (size - 1) * stride:
                    spaced = [pair for pair in everything(num_frames, size, stride) if "_clip" in pair[0]]
                    spaced += [pair for pair in everything(num_frames, size, stride) if "windows" in pair[0]]
                    for name, indices in spaced:
                        assert (np.diff(indices) == stride).all(), (name, num_frames, size, stride)


def test_random_clip_draws_every_start():
    draw = rng()
    starts = [int(clips.random_clip(10, 4, 2, draw)[0]) for _ in range(200)]
    assert set(starts) == {0, 1, 2, 3}
    np.testing.assert_array_equal(clips.random_clip(99, 8, 2, rng(5)), clips.random_clip(99, 8, 2, rng(5)))


def test_center_clip():
    assert clips.center_clip(10, 4, 2).tolist() == [1, 3, 5, 7]
    assert clips.center_clip(11, 4, 1).tolist() == [3, 4, 5, 6]
    assert clips.center_clip(1, 1, 9).tolist() == [0]


def test_short_videos_loop_or_clamp():
    assert clips.center_clip(3, 5, 1).tolist() == [0, 1, 2, 0, 1]
    assert clips.center_clip(5, 4, 2).tolist() == [0, 2, 4, 1]
    assert clips.random_clip(5, 4, 2, rng(), "clamp").tolist() == [0, 2, 4, 4]
    assert clips.uniform_clips(3, 5, 1, 2, "clamp").tolist() == [[0, 1, 2, 2, 2]] * 2
    assert clips.windows(3, 4, 2, 1).tolist() == [[0, 2, 1, 0]]


def test_segments_are_central_without_rng():
    assert clips.segments(8, 8).tolist() == list(range(8))
    assert clips.segments(100, 4).tolist() == [12, 37, 62, 87]
    assert clips.segments(10, 3).tolist() == [1, 5, 8]
    assert clips.segments(3, 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_segments_draw_one_frame_from_each_part():
    draw = rng()
    seen = np.array([clips.segments(10, 3, draw) for _ in range(300)])
    assert [set(column.tolist()) for column in seen.T] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8, 9}]
    assert clips.segments(3, 6, draw).tolist() == [0, 0, 1, 1, 2, 2]


def test_evenly_spaced_includes_both_ends():
    assert clips.evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert clips.evenly_spaced(11, 4).tolist() == [0, 3, 6, 10]
    assert clips.evenly_spaced(2, 5).tolist() == [0, 0, 0, 0, 1]
    assert clips.evenly_spaced(9, 1).tolist() == [4]
    for num_frames in LENGTHS:
        for size in SIZES[1:]:
            assert clips.evenly_spaced(num_frames, size)[[0, -1]].tolist() == [0, num_frames - 1]


def test_uniform_clips():
    assert clips.uniform_clips(10, 3, 2, 3).tolist() == [[0, 2, 4], [2, 4, 6], [5, 7, 9]]
    assert clips.uniform_clips(10, 3, 2, 1).tolist() == [[2, 4, 6]]
    for num_frames in LENGTHS:
        indices = clips.uniform_clips(num_frames, 4, 2, 10)
        assert indices.shape == (10, 4)
        assert indices[0, 0] == 0
        if num_frames >= 7:
            assert indices[-1, -1] == num_frames - 1
            steps = np.diff(indices[:, 0])
            assert steps.max() - steps.min() <= 1


def test_windows():
    assert clips.windows(10, 2, 2, 3).tolist() == [[0, 2], [3, 5], [6, 8], [7, 9]]
    assert clips.windows(9, 2, 2, 3).tolist() == [[0, 2], [3, 5], [6, 8]]
    assert clips.windows(3, 2, 2, 3).tolist() == [[0, 2]]


def test_windows_cover_the_video():
    for num_frames in LENGTHS:
        for size in SIZES:
            for hop in {1, min(3, size), size}:
                indices = clips.windows(num_frames, size, 1, hop)
                assert set(indices.ravel().tolist()) == set(range(num_frames)), (num_frames, size, hop)
                assert len(np.unique(indices[:, 0])) == len(indices)
                assert np.diff(indices[:, 0]).max(initial=0) <= hop
                assert num_frames < size or indices[-1, -1] == num_frames - 1


def test_train_picks_the_sampler_by_name():
    for name in clips.SAMPLERS:
        assert clips.train(name, 50, 8, 4, rng()).shape == (8,)
    np.testing.assert_array_equal(clips.train("random_frames", 50, 8, 4, rng(1)), clips.random_frames(50, 8, rng(1)))
    assert clips.train("full", 50, 8, 10, rng()).tolist() == [0, 10, 20, 30, 40]
    np.testing.assert_array_equal(clips.train("random_clip", 50, 8, 4, rng(1)), clips.random_clip(50, 8, 4, rng(1)))
    np.testing.assert_array_equal(clips.train("segments", 50, 8, 4, rng(1)), clips.segments(50, 8, rng(1)))
    np.testing.assert_array_equal(clips.train("evenly_spaced", 50, 8, 4, rng(1)), clips.evenly_spaced(50, 8))
    with pytest.raises(ValueError, match="no sampler 'dense'; take one of random_clip, segments, evenly_spaced"):
        clips.train("dense", 50, 8, 4, rng())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: clips.random_clip(0, 8, 1, rng()), "num_frames"),
        (lambda: clips.center_clip(-1, 8, 1), "num_frames"),
        (lambda: clips.segments(0, 8), "num_frames"),
        (lambda: clips.evenly_spaced(0, 8), "num_frames"),
        (lambda: clips.uniform_clips(0, 8, 1, 2), "num_frames"),
        (lambda: clips.windows(0, 8, 1, 2), "num_frames"),
        (lambda: clips.center_clip(9, 0, 1), "size"),
        (lambda: clips.center_clip(9, 8, 0), "stride"),
        (lambda: clips.uniform_clips(9, 8, 1, 0), "clips"),
        (lambda: clips.windows(9, 8, 1, 0), "hop"),
    ],
)
def test_counts_below_one_are_refused(call, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        call()


def test_unknown_rule_for_short_videos():
    with pytest.raises(ValueError, match="short must be loop or clamp, not 'pad'"):
        clips.center_clip(9, 8, 1, "pad")


def test_evaluation_clips_by_sampler():
    assert clips.evaluation("random_clip", 20, 4, 2, 2).tolist() == [[0, 2, 4, 6], [13, 15, 17, 19]]
    assert clips.evaluation("segments", 16, 4, 1, 1).tolist() == [clips.segments(16, 4).tolist()] == [[2, 6, 10, 14]]
    assert clips.evaluation("segments", 16, 4, 1, 2).tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]
    assert clips.evaluation("evenly_spaced", 9, 3, 1, 2).tolist() == [[0, 4, 8], [0, 4, 8]]
    with pytest.raises(ValueError, match="there is no sampler 'tsn'"):
        clips.evaluation("tsn", 9, 3, 1, 1)


def test_every_sampler_and_rule_takes_frames_of_the_video():
    for num_frames in LENGTHS:
        for size in SIZES:
            for stride in STRIDES:
                for name, rule in clips.RULES.items():
                    for count in (1, 2, 5):
                        indices = rule(num_frames, size, stride, count)
                        case = name, num_frames, size, stride, count
                        assert indices.dtype == np.int64, case
                        assert indices.ndim == 2, case
                        assert indices.shape[0] == count or "windows" in name, case
                        assert indices.shape[1] == size or name == "full", case
                        assert 0 <= indices.min() <= indices.max() < num_frames, case
                for name in clips.SAMPLERS:
                    indices = clips.train(name, num_frames, size, stride, rng())
                    case = name, num_frames, size, stride
                    assert indices.dtype == np.int64, case
                    assert indices.shape == (size,) or name == "full", case
                    assert 0 <= indices.min() <= indices.max() < num_frames, case
                    again = clips.train(name, num_frames, size, stride, rng())
                    np.testing.assert_array_equal(indices, again, str(case))


def test_part_starts():
    assert clips.part_starts(107, 20).tolist() == [*range(0, 100, 5)]  # step 107 // 20; the last 7 frames are not seen
    assert clips.part_starts(40, 20).tolist() == [*range(0, 40, 2)]
    assert clips.part_starts(39, 20).tolist() == [*range(20)]
    assert clips.part_starts(3, 5).tolist() == [0, 1, 2, 2, 2]
    assert clips.evaluation("part_starts", 9, 4, 1, 2).tolist() == [[0, 2, 4, 6]] * 2
    assert clips.train("part_starts", 9, 4, 1, rng()).tolist() == [0, 2, 4, 6]


def test_random_frames_are_distinct_and_in_order():
    draw = rng()
    for _ in range(200):
        frames = clips.random_frames(9, 4, draw)
        assert (np.diff(frames) > 0).all()
    seen = {tuple(clips.random_frames(4, 2, draw).tolist()) for _ in range(200)}
    assert seen == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert clips.random_frames(5, 5, draw).tolist() == [0, 1, 2, 3, 4]
    assert clips.random_frames(2, 6, draw).tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(np.bincount(clips.random_frames(3, 7, draw)).tolist()) == [2, 2, 3]


def test_full_video():
    assert clips.full(5).tolist() == [0, 1, 2, 3, 4]
    assert clips.full(7, 3).tolist() == [0, 3, 6]
    assert clips.full(10, 1, 4).tolist() == [3, 4, 5, 6]
    assert clips.full(10, 2, 3).tolist() == [2, 4, 6]
    assert clips.full(3, 1, 4).tolist() == [0, 1, 2]
    assert clips.evaluation("full", 10, 4, 2, 2).tolist() == [[0, 2, 4, 6]] * 2


def test_i3d_loops_short_videos():
    np.testing.assert_array_equal(clips.random_clip(20, 64, 1, rng()), np.arange(64) % 20)
    assert clips.RULES["center"](300, 250, 1, 1).tolist() == [list(range(25, 275))]
    assert clips.RULES["center"](100, 250, 1, 1).tolist() == [[*range(100), *range(100), *range(50)]]


def test_non_overlapping_clips():
    assert clips.non_overlapping(20, 4, 1, 3).tolist() == [[1, 2, 3, 4], [7, 8, 9, 10], [14, 15, 16, 17]]
    assert clips.non_overlapping(12, 4, 1, 3).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert clips.non_overlapping(16, 3, 2, 2).tolist() == [[1, 3, 5], [9, 11, 13]]
    assert clips.non_overlapping(6, 4, 1, 2).tolist() == [[0, 1, 2, 0], [3, 4, 5, 3]]
    assert clips.non_overlapping(2, 2, 1, 4).tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_non_overlapping_clips_share_no_frame():
    draw = rng()
    for num_frames in LENGTHS:
        for count in (1, 2, 3, 7):
            for stride in STRIDES:
                if num_frames >= count:
                    for generator in (None, draw):
                        taken = clips.non_overlapping(num_frames, 4, stride, count, generator)
                        frames = [frame for clip in taken for frame in set(clip.tolist())]
                        assert len(frames) == len(set(frames)), (num_frames, count, stride)
    starts = {clips.non_overlapping(12, 4, 1, 2, draw)[1, 0] for _ in range(100)}
    assert starts == {6, 7, 8}


def test_windows_of_c3d_drop_the_rest():
    assert clips.windows(40, 16, 1, 8, tail="drop")[:, 0].tolist() == [0, 8, 16, 24]
    assert clips.windows(39, 16, 1, 8, tail="drop")[:, 0].tolist() == [0, 8, 16]
    assert clips.windows(39, 16, 1, 8)[:, 0].tolist() == [0, 8, 16, 23]
    assert clips.windows(10, 16, 1, 8, tail="drop").tolist() == [[*range(10), *range(6)]]
    with pytest.raises(ValueError, match="tail must be cover, drop or every, not 'pad'"):
        clips.windows(40, 16, 1, 8, tail="pad")


def test_stacks_of_flow():
    assert clips.stack([0, 7], 10, 3).tolist() == [[0, 1, 2], [7, 8, 9]]
    assert clips.stack([[8]], 10, 4).tolist() == [[[8, 9, 9, 9]]]
    assert clips.stack(clips.evenly_stepped(30, 3, 5), 30, 5)[-1].tolist() == [24, 25, 26, 27, 28]


def test_pad_masks_what_it_repeats():
    indices, mask = clips.pad([3, 5, 7], 5)
    assert indices.tolist() == [3, 5, 7, 7, 7]
    assert mask.tolist() == [True, True, True, False, False]
    assert indices.dtype == np.int64
    indices, mask = clips.pad(np.arange(12).reshape(2, 6), 3)
    assert indices.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert mask.tolist() == [[True] * 3] * 2
    indices, mask = clips.pad([1, 2], 2)
    assert (indices.tolist(), mask.tolist()) == ([1, 2], [True, True])


def test_bucket_is_the_smallest_that_holds():
    assert [clips.bucket(n, (64, 16, 32)) for n in (1, 16, 17, 32, 33, 64, 65)] == [16, 16, 32, 32, 64, 64, 64]
    with pytest.raises(ValueError, match="buckets must name at least one length"):
        clips.bucket(3, ())
