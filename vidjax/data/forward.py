"""One pass over a video file for clips that follow one another: every picture is decoded once, few are held."""

import numpy as np

from vidjax.data import video


class Forward:
    """Reads the frames `wanted` of a file (ascending, without repeats) as clips ask for them, never going back.

    Called as `video.read` is, for a record's `forward`; keeps what it decoded until `forget`. Stays in one thread.
    """

    def __init__(self, path, wanted):
        self.path, self.wanted, self.kept, self.decoded = path, np.asarray(wanted), {}, None

    def __call__(self, indices, short_side=0, pixels="rgb"):
        """The frames `indices`: -> uint8 (len(indices), H, W, 3), or I420. VideoError; KeyError for a forgotten one."""
        if self.decoded is None:
            pictures = video.forward(self.path, self.wanted, short_side, pixels)
            self.decoded = zip(self.wanted.tolist(), pictures, strict=True)
        last = int(np.max(indices))
        while last not in self.kept and (made := next(self.decoded, None)):
            self.kept[made[0]] = made[1]
        return np.stack([self.kept[i] for i in np.asarray(indices).tolist()])

    def forget(self, before):
        """Lets go of all frames before that number."""
        self.kept = {number: picture for number, picture in self.kept.items() if number >= before}
