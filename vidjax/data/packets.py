"""Which picture of a video each packet is, and where decoding can begin: found by demuxing alone."""

import typing


class Packet(typing.NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    place: tuple  # (position in the file, size)
    hidden: bool  # decoded but not shown: outside the file's edit list


class Start(typing.NamedTuple):
    rank: int  # number of the first picture counted
    dts: int | None  # where to seek; None: the beginning of the file
    place: tuple  # of the keyframe's packet


class Order(typing.NamedTuple):
    count: int  # pictures shown
    ticks: int  # between the first and the last, in the stream's time base; 0: unknown
    starts: tuple[Start, ...]  # by rank; the beginning of the file is the first


def order(packets):
    """Ranks packets in decoding order by presentation time: [Packet] -> Order.

    Pictures before the first keyframe in either order cannot be decoded and do not count (a broadcast cut in an open
    group of pictures). Where packets carry no usable times the only start is the beginning.
    """
    first = next((i for i, packet in enumerate(packets) if packet.key), 0)
    packets = packets[first:]
    shown = [packet.pts for packet in packets if not packet.hidden]
    if None in shown or packets[0].pts is None or len(set(shown)) < len(shown):
        return Order(len(shown), 0, (Start(0, None, ()),))
    times = sorted(pts for pts in shown if pts >= packets[0].pts)
    rank = {pts: i for i, pts in enumerate(times)}
    seekable = [packet for packet in packets[1:] if packet.key and not packet.hidden and packet.dts is not None]
    starts = sorted(Start(rank[packet.pts], packet.dts, packet.place) for packet in seekable if rank.get(packet.pts))
    return Order(len(times), times[-1] - times[0] if times else 0, (Start(0, None, ()), *starts))


def pictures(demuxed, codec):
    """The packets that become one picture each, of PyAV's demuxed packets: -> [Packet]."""
    found, waiting = [], 0
    for packet in demuxed:
        if packet.size == 0:
            continue
        if codec == "mpeg4":
            coded, waiting = _mpeg4(bytes(packet), packet.stream.codec_context, waiting)
        else:
            coded = codec != "vp8" or bytes(packet)[0] & 0x10  # show_frame: alternate references are not shown
        if coded:
            place = (packet.pos, packet.size)
            found.append(Packet(packet.pts, packet.dts, packet.is_keyframe, place, packet.is_discard))
    return found


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
