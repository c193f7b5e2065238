"""Size of the resident set of this process, read from Linux's /proc.

`getrusage` is not suitable, because a process inherits `ru_maxrss` from its parent.
"""


def present_bytes() -> int:
    """Return the present size of the resident set in bytes."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the largest size of the resident set so far in bytes."""
    return _status("VmHWM")


def _status(name):
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[name].split()[0]) * 1024
