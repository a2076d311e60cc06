"""Where one JPEG picture ends and the next begins: MJPEG as cameras and `ffmpeg -f mjpeg` write it."""

START, END, SCAN = b"\xff\xd8", 0xD9, 0xDA
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
CHUNK = 1 << 16
LARGEST = 64 << 20  # bytes of a picture


def split(file):
    """Yields the bytes of each picture of a binary file as soon as its last byte is there; what is between is left out.

    A picture that is cut off, by the next one or the end of the file, is left out too, as is one of over LARGEST bytes.
    """
    held, begun = bytearray(), None
    while chunk := file.read1(CHUNK):
        held += chunk
        while True:
            first = held.find(START)
            if first < 0:
                del held[:-1]
                break
            del held[:first]
            end, begun = _end(held, begun)
            if end is None and len(held) > LARGEST:
                end = len(START)  # no picture is so long: look for the next one
            elif end is None:
                break
            elif held[end - 1] == END:
                yield bytes(held[:end])
            begun = None
            del held[:end]


def _end(data, begun):
    """(where the picture at the beginning of `data` ends or None if that is yet to come, where to go on looking).

    Segments are walked by their lengths, as a thumbnail in one of them is a picture too; in compressed data a marker
    is 255 and then neither 0 nor 255.
    """
    at, scanning = begun or (len(START), False)
    while at + 1 < len(data):
        if scanning or data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0 or at + 1 >= len(data):
                return None, (len(data) - 1 if at < 0 else at, True)
            if data[at + 1] in (0, 0xFF, *ALONE):
                at += 1 if data[at + 1] == 0xFF else 2
                continue
        marker = data[at + 1]
        if marker == END:
            return at + 2, None
        if marker == START[1]:  # the last one was cut off
            return at, None
        if marker == 0xFF or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if at + 4 > len(data):
            break
        at, scanning = at + 2 + int.from_bytes(data[at + 2 : at + 4]), marker == SCAN
    return None, (at, scanning)
