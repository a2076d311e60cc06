"""Which picture of a video each packet is, where decoding can begin, what it may leave out: found by demuxing alone."""

import array
import typing

import numpy as np

UNKNOWN = -(2**63)  # a time or position that is not given
KEY, HIDDEN, SPARE = 1, 2, 4


class Packets(typing.NamedTuple):
    """The packets of one picture each in decoding order; 33 bytes a packet, a file may have millions."""

    pts: array.array
    dts: array.array
    place: array.array  # position in the file
    size: array.array
    flags: bytearray  # KEY; HIDDEN: decoded but outside the edit list; SPARE: no other picture refers to it


class Order(typing.NamedTuple):
    count: int  # pictures shown
    ticks: int  # between the first and the last, in the stream's time base; 0: unknown
    starts: np.ndarray  # (n, 4) rank, dts, place, size of keyframes by rank; row 0, the beginning, may lack its dts
    spare: np.ndarray  # (n, 2) rank, pts of the pictures that none refers to, by rank
    times: np.ndarray  # (count,) when pictures are shown, by rank; none: unknown


def order(packets):
    """Ranks packets by presentation time: Packets -> Order.

    Pictures before the first keyframe in either order cannot be decoded and do not count (a broadcast cut in an open
    group of pictures). Where packets carry no usable times the only start is the beginning.
    """
    flags = np.frombuffer(packets.flags, np.uint8)
    key, hidden, spare = (flags & flag > 0 for flag in (KEY, HIDDEN, SPARE))
    first = int(key.argmax())
    pts, dts, place, size = (np.array(column[first:], np.int64) for column in packets[:4])
    key, shown, spare = key[first:], ~hidden[first:], spare[first:]
    starts = np.array([[0, UNKNOWN, 0, 0]])
    if UNKNOWN in pts[shown] or pts[0] == UNKNOWN or np.unique(pts[shown]).size < shown.sum():
        return Order(int(shown.sum()), 0, starts, np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    times = np.sort(pts[shown & (pts >= pts[0])])
    rank = np.searchsorted(times, pts)
    starting = key & shown & (rank > 0) & (dts != UNKNOWN)
    spare &= shown & (pts >= pts[0]) & ~key
    if key[0] and shown[0]:
        starts = np.array([[0, dts[0], place[0], size[0]]])
    starts = np.vstack([starts, _sorted(*(column[starting] for column in (rank, dts, place, size)))])
    ticks = int(times[-1]) - int(times[0]) if times.size else 0
    return Order(times.size, ticks, starts, _sorted(rank[spare], pts[spare]), times)


def _sorted(*columns):
    """Columns -> rows in the order of the first column."""
    return np.stack(columns, 1)[np.argsort(columns[0])]


def pictures(demuxed, codec):
    """The packets that become one picture each, of PyAV's demuxed packets: -> Packets."""
    found, waiting, length = Packets(*(array.array("q") for _ in range(4)), bytearray()), 0, None
    for packet in demuxed:
        if packet.size == 0:
            continue
        coded, spare = True, False
        if codec == "mpeg4":
            coded, waiting = _mpeg4(bytes(packet), packet.stream.codec_context, waiting)
        elif codec == "vp8":
            coded = bytes(packet)[0] & 0x10  # show_frame: alternate references are not shown
        elif codec == "h264":
            length = _length(packet.stream.codec_context.extradata) if length is None else length
            spare = length and _unreferred(memoryview(packet), length)
        if coded:
            times = (packet.pts, packet.dts, packet.pos)
            for column, value in zip(found, times, strict=False):
                column.append(UNKNOWN if value is None else value)
            found.size.append(packet.size)
            found.flags.append(KEY * packet.is_keyframe | HIDDEN * packet.is_discard | SPARE * bool(spare))
    return found


def _length(extradata):
    """Bytes of the lengths between H.264 NAL units (ISO 14496-15, 5.2.4.1); 0 where start codes part them."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0


def _unreferred(data, length):
    """Whether an H.264 packet is a picture that no other refers to: all its slices have nal_ref_idc 0 (7.4.1)."""
    at, slices = 0, 0
    while at + length < len(data):
        head = data[at + length]
        if 1 <= head & 31 <= 5:
            if head & 0x60:
                return False
            slices += 1
        at += length + int.from_bytes(data[at : at + length], "big")
    return slices > 0


def _mpeg4(data, context, waiting):
    """Whether an MPEG-4 part 2 packet is shown, and how many packed pictures wait for the placeholders that follow it.

    AVI files hold one-byte packets and "not coded" P-pictures (fewer bits than macroblocks) where a frame was dropped.
    """
    marker = b"\0\0\1\xb6"
    at = data.find(marker)
    if at < 0 or len(data) < at + 5:
        return False, waiting
    packed = data.count(marker, at + 4)
    if packed:
        return True, packed
    macroblocks = -(-context.width // 16) * -(-context.height // 16)
    skipped = data[at + 4] >> 6 == 1 and 8 * (len(data) - at - 4) < macroblocks
    return (waiting > 0, waiting - 1) if skipped and waiting else (not skipped, waiting)
