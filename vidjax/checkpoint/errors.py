"""What can be wrong with a checkpoint, in one sentence each."""

import errno
import os
import re


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used, in one sentence."""


class Damaged(CheckpointError):
    """A checkpoint whose files do not hold what was saved."""


def root(error):
    """The exception that began a chain of `raise ... from`."""
    while error.__cause__:
        error = error.__cause__
    return error


def reason(error):
    """The cause of a failure in a few words; None is a failure elsewhere."""
    if error is None:
        return "another process failed"
    error = root(error)
    text = " ".join(str(error).split())
    code = getattr(error, "errno", None) or next(map(int, re.findall(r"os_error_code='(\d+)'", text)), None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the device"
    return os.strerror(code) if code else text[:200] or type(error).__name__
