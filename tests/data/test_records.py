"""Reading built data sets: the frames of packed and encoded videos, threads and processes, lost and damaged shards."""

import concurrent.futures
import pickle

import cv2
import numpy as np
import pytest

from vidjax.data import build, records, video, work
from vidjax.data.builders import Listing

CASES = {
    "encoded": {"store": "video"},
    "rgb": {"store": "frames", "short_side": 20},
    "yuv420": {"store": "frames", "pixels": "yuv420", "short_side": 20},
}


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """Four smooth videos of 9 to 12 frames, 32 x 48 and 32 x 64 pixels."""
    folder, rng, rows = tmp_path_factory.mktemp("videos"), np.random.default_rng(1), []
    for i in range(4):
        coarse = rng.integers(0, 255, (9 + i, 2, 3, 3), np.uint8)
        frames = np.stack([cv2.resize(picture, (64 if i % 2 else 48, 32)) for picture in coarse])
        video.write(folder / f"{i}.mp4", frames, fps=12)
        rows.append({"id": f"{i}", "path": str(folder / f"{i}.mp4"), "label": 0, "sides": {"": "train"}})
    return Listing("toy", ("a",), tuple(rows), {})


@pytest.fixture(scope="module")
def built(listing, tmp_path_factory):
    """The folder of each case."""
    top = tmp_path_factory.mktemp("built")
    for name, case in CASES.items():
        build.build(listing, top / name, shard_videos=3, **case)
    return top


def read_all(folder):
    """The first frames of every record, as numbers: a task for other processes."""
    return [records.read(record, [3, 0]).sum(dtype=int).item() for record in records.open(folder)]


@pytest.mark.parametrize("indices", [[0], [5, 2, 2, 8], range(9)], ids=str)
def test_packed_and_encoded_frames_are_those_of_the_file(listing, built, indices):
    for name, case in CASES.items():
        for row, record in zip(listing.rows, records.open(built / name), strict=True):
            pixels, short_side = case.get("pixels", "rgb"), case.get("short_side", 0)
            expected = video.read(row["path"], indices, short_side, pixels)
            found = records.read(record, indices, short_side, pixels)
            np.testing.assert_array_equal(found, expected)
            assert record["num_frames"] == video.probe(row["path"])["num_frames"]
            assert record["fps"] == 12


def test_packed_frames_change_size_and_format_like_decoded_ones(listing, built):
    for name in ("rgb", "yuv420"):
        for row, record in zip(listing.rows, records.open(built / name), strict=True):
            for pixels in ("rgb", "yuv420"):
                for short_side in (20, 16):
                    expected = video.read(row["path"], range(9), short_side, pixels).astype(int)
                    found = records.read(record, range(9), short_side, pixels)
                    assert found.shape == expected.shape
                    # of 255: chroma at half size and a second bilinear step; a wrong colour range is 12 off
                    assert np.abs(found - expected).mean() < 5, (name, pixels, short_side)


def test_frames_that_are_not_there(built):
    record = records.open(built / "rgb")[0]
    with pytest.raises(video.VideoError, match="^0: there are only 9 frames, not 10$"):
        records.read(record, [9])
    with pytest.raises(ValueError, match="read needs frames >= 0"):
        records.read(record, [-1])
    with pytest.raises(video.VideoError, match="holds packed frames, not the video file$"):
        records.encoded(record)


def test_strided_frames_keep_time(listing, tmp_path):
    build.build(listing, tmp_path, store="frames", frame_stride=4)
    for i, record in enumerate(records.open(tmp_path)):
        assert (record["num_frames"], record["fps"]) == (3, 3)
        expected = video.read(listing.rows[i]["path"], [0, 4, 8])
        np.testing.assert_array_equal(records.read(record, range(3)), expected)


@pytest.mark.parametrize("name", CASES)
def test_sources_are_shared_by_threads_and_processes(built, name):
    source = records.open(built / name)
    assert [*pickle.loads(pickle.dumps(source))] == [*source]
    jobs = [(i, np.random.default_rng(i + 10 * k).integers(0, 9, 4)) for i in range(4) for k in range(20)]
    expected = [records.read(source[i], indices) for i, indices in jobs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for want, found in zip(expected, pool.map(lambda job: records.read(source[job[0]], job[1]), jobs), strict=True):
            np.testing.assert_array_equal(found, want)


def test_other_processes_read_the_same(built):
    here = [read_all(built / name) for name in CASES]
    assert work.run(read_all, [str(built / name) for name in CASES], workers=1) == here


def test_a_clip_of_the_same_video_spares_the_scan(built, monkeypatch):
    source, scans, real = records.open(built / "encoded"), [], video._scan
    monkeypatch.setattr(video, "_scan", lambda *args: scans.append(1) or real(*args))
    monkeypatch.setattr(video, "SCANS", type(video.SCANS)())
    for i in (0, 1, 0, 1, 0):
        records.read(source[i], [0, 4])
    assert len(scans) == 2


def test_lost_and_damaged_shards_are_named(listing, tmp_path):
    out = tmp_path / "toy"
    build.build(listing, out, shard_videos=2, store="frames")
    source = records.open(out)
    shard, other = (out / f"toy-train.array_record-0000{i}-of-00002" for i in (0, 1))
    whole = shard.read_bytes()
    assert records.verify(out) == {}
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shard.write_bytes(flipped)
    assert records.verify(out) == {shard.name: "has other bytes than were built"}
    shard.write_bytes(whole[:70_000])
    other.unlink()
    assert records.verify(out) == {
        shard.name: "has other bytes than were built",
        other.name: "No such file or directory",
    }
    records.reader.cache_clear()
    for i, path in ((0, shard), (2, other)):
        with pytest.raises(video.VideoError) as caught:
            records.read(source[i], [0, 8])
        assert str(caught.value).startswith(f"{path}: the shard cannot be read (")
    with pytest.raises(ValueError) as caught:
        records.open(out)
    assert str(caught.value) == (
        f"{shard} has 70000 bytes instead of {len(whole)}: remove it and run `vidjax data build` again"
    )
    shard.unlink()
    with pytest.raises(ValueError, match="00000-of-00002 is missing: run `vidjax data build` again$"):
        records.open(out)
    build.build(listing, out, shard_videos=2, store="frames")
    assert shard.read_bytes() == whole
    assert records.verify(out) == {}


def test_a_flipped_bit_in_a_frame_is_an_error_not_a_picture(listing, tmp_path):
    build.build(listing, tmp_path, store="frames")
    source, shard = records.open(tmp_path), tmp_path / "toy-train.array_record-00000-of-00001"
    data = bytearray(shard.read_bytes())
    pixels = records.read(source[0], [4])[0, 16].tobytes()
    data[data.index(pixels) + 5] ^= 1
    shard.write_bytes(data)
    records.reader.cache_clear()
    with pytest.raises(video.VideoError, match="the shard cannot be read .*hash mismatch"):
        records.read(source[0], [4])
    records.read(source[0], [3])


def test_what_cannot_be_opened_is_one_sentence(built, tmp_path):
    with pytest.raises(ValueError, match="is no built data set: no manifest.json$"):
        records.open(tmp_path)
    with pytest.raises(ValueError, match="encoded has no eval videos, only train 4$"):
        records.open(built / "encoded", "eval")
    with pytest.raises(ValueError, match="encoded has one split, without a name: there is no split '2'$"):
        records.open(built / "encoded", split="2")
