"""Instructions that the CPU has, as Linux lists them."""

import pathlib

INFORMATION = pathlib.Path("/proc/cpuinfo")


def features() -> str:
    """Return the line that names the instructions, or an empty string elsewhere."""
    try:
        lines = INFORMATION.read_text().splitlines()
    except OSError:  # Not Linux.
        return ""
    named = (line for line in lines if line.startswith(("flags", "Features")))
    return next(named, "")
