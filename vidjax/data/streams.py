"""A stream of maps stored beside a video, one for each of its frames: depth, masks, heat maps, another camera.

It may be a `.npy` or `.npz` array (T, H, W) or (T, H, W, C), a folder of numbered PNG or JPEG pictures (16-bit PNG
too), or another video. The k-th map belongs to the video's k-th frame, so there are as many of both.
"""

import os
import pathlib
import re
import zipfile
import zlib

import cv2
import numpy as np

from vidjax.data import lists, video

DTYPES = ("uint8", "uint16", "float16", "float32")
PICTURES = (".png", ".jpg", ".jpeg")
MAX_BYTES = 4 << 30  # that a compressed array may unpack to
LIBRARIES = (cv2.error, zipfile.BadZipFile, zlib.error, NotImplementedError)  # what theirs raise besides
BLANK = 32  # height and width of the maps that stand for a missing stream, before they are cropped


def find(record, pattern):
    """Where a record's stream is, or None: `pattern` says where to look, seen from the folder of the record's video.

    `{stem}` is the video's name without, `{name}` with its ending, `{folder}` its folder's name, `{id}` the record's
    id without an ending: "{stem}.depth.npy", "../../depth/{folder}/{stem}", "/data/depth/{id}.mp4". Records of built
    data sets have an id and no folder: there the pattern is an absolute path with `{id}`. ValueError.
    """
    stem, suffix = os.path.splitext(record["id"])
    known = {"id": stem if suffix.lower() in lists.EXTENSIONS else record["id"]}
    place = pathlib.Path(record["path"]) if record.get("path") else None
    if place:
        known |= {"stem": place.stem, "name": place.name, "folder": place.absolute().parent.name}

    def fill(match):
        if match[1] not in known:
            have = ", ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"the stream {pattern!r} names {match[0]}; {record['id']} has {have}")
        return known[match[1]]

    path = os.path.expanduser(re.sub(r"\{(\w+)\}", fill, pattern))
    if not place and not os.path.isabs(path):
        raise ValueError(f"the stream {pattern!r} must be an absolute path: {record['id']} is in a built data set")
    path = os.path.join(place.parent, path) if place else path
    return path if os.path.exists(path) else None


def read(path, indices, num_frames=None):
    """The maps `indices` of a stream: -> (len(indices), H, W, C) uint8, uint16, float16 or float32, as stored.

    Videos and JPEG pictures in colour give RGB. With `num_frames`, those of the video, it is an error to have another
    number of maps. VideoError, in one sentence that begins with the path.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if indices.size == 0 or indices.min() < 0:
        raise ValueError(f"read needs map numbers >= 0, got {indices.tolist()}")
    name, suffix = os.fspath(path).encode(errors="replace").decode(), os.path.splitext(path)[1].lower()
    try:
        if os.path.isdir(path):
            maps = _pictures(path)
        elif suffix in (".npy", ".npz"):
            maps = _array(path, suffix)
        else:
            maps = range(video.probe(path)["num_frames"])
        if num_frames is not None and len(maps) != num_frames:
            raise ValueError(f"it has {len(maps)} maps where the video has {num_frames} frames")
        if indices.max() >= len(maps):
            raise ValueError(f"there is no map {indices.max()}, there are only {len(maps)}")
        if isinstance(maps, range):
            return video.read(path, indices)
        if isinstance(maps, list):
            return _stack([maps[i] for i in indices])
        return np.array(maps[indices], maps.dtype.newbyteorder("="))
    except video.VideoError:
        raise
    except (OSError, ValueError, EOFError, LookupError, MemoryError, *LIBRARIES) as error:
        raise video.VideoError(f"{name}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}") from error


def clip(record, indices, *, pattern, channels=1, low=0.0, high=255.0):
    """The maps of a clip's frames: -> (uint8 (T, H, W, channels) not cropped yet, float32 1 or, without any, 0).

    Values from `low` to `high` become 0 ... 255, what is beyond them the nearer end, what is no number 0. Of pictures
    in grey or colour one channel is taken for one. VideoError where a stream is there but not as it must be.
    """
    _check(channels, low, high)
    path = find(record, pattern)
    if path is None:
        return np.zeros((len(indices), BLANK, BLANK, channels), np.uint8), np.float32(0)
    wanted, places = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    maps = read(path, wanted, record["num_frames"])
    if maps.shape[-1] < channels or (maps.shape[-1] != channels and channels != 1):
        raise video.VideoError(f"{path}: maps of {maps.shape[-1]} channels cannot give {channels}; set channels")
    return quantise(maps[..., :channels], low, high)[places], np.float32(1)


def quantise(maps, low, high):
    """Values from `low` to `high` as uint8 0 ... 255, any shape; not-a-number, which marks holes, as 0."""
    if maps.dtype == np.uint8 and (low, high) == (0, 255):
        return maps
    scaled = (maps.astype(np.float32) - low) * (255 / (high - low))
    return np.nan_to_num(np.clip(np.rint(scaled), 0, 255), nan=0).astype(np.uint8)


def shape(*, pattern="", channels=1, low=0.0, high=255.0, frames, size):
    """The shape of a clip's maps after cropping to `size`: (frames, size, size, channels)."""
    _check(channels, low, high)
    return (frames, size, size, channels)


def _check(channels, low, high):
    if channels < 1 or not low < high:
        raise ValueError(f"a stream needs channels of at least 1 and low < high, got {channels}, {low} and {high}")


def _array(path, suffix):
    """The array of a file, not read yet where it is a `.npy`: -> (T, H, W, C)."""
    if suffix == ".npy":
        maps = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise ValueError(f"an .npz of a stream holds one array, this one {len(members)}")
            if members[0].file_size > MAX_BYTES:
                raise ValueError(f"its array unpacks to {members[0].file_size} bytes, the limit is {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as archive:
            maps = archive[archive.files[0]]
    if maps.dtype.name not in DTYPES or maps.ndim not in (3, 4) or 0 in maps.shape:
        raise ValueError(
            f"maps must be (T, H, W) or (T, H, W, C) of {', '.join(DTYPES)}, not {maps.dtype.name} {maps.shape}"
        )
    if maps[0].size > video.MAX_PIXELS:
        raise ValueError(f"maps of {maps[0].size} values are refused, the limit is {video.MAX_PIXELS}")
    return maps if maps.ndim == 4 else maps[..., None]


def _pictures(folder):
    """The pictures of a folder in the order of the last number in their names."""
    numbered = {}
    for entry in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(entry)
        digits = re.findall(r"\d+", stem)
        if suffix.lower() not in PICTURES or entry.startswith("."):
            continue
        if not digits:
            raise ValueError(f"the picture {entry} has no number")
        if int(digits[-1]) in numbered:
            raise ValueError(f"the pictures {numbered[int(digits[-1])]} and {entry} have the same number")
        numbered[int(digits[-1])] = entry
    return [os.path.join(folder, numbered[number]) for number in sorted(numbered)]


def _stack(paths):
    """Decodes pictures of one size: -> (n, H, W, C), colours in the order RGB."""
    maps = [_picture(path) for path in paths]
    for path, picture in zip(paths, maps, strict=True):
        if (picture.shape, picture.dtype) != (maps[0].shape, maps[0].dtype):
            ours, first = (f"{x.shape[1]}x{x.shape[0]}x{x.shape[2]} {x.dtype}" for x in (picture, maps[0]))
            raise ValueError(f"the picture {os.path.basename(path)} is {ours}, the first {first}")
    return np.stack(maps)


def _picture(path):
    content = np.fromfile(path, np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if picture is None:
        raise ValueError(f"the picture {os.path.basename(path)} cannot be decoded")
    picture = picture.reshape(*picture.shape[:2], -1)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(picture.shape[2])
    return picture if order is None else picture[..., order]
