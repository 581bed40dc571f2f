"""The most memory that a stretch of work took."""

import contextlib
import resource
import sys

import jax


class Peak:
    """Begins a stretch; `bytes` says what the process held at most since then.

    On Linux the kernel's high-water mark is set back; where it cannot be, the number is that of the
    whole process so far. On an accelerator it is what its allocator says, since the process began.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    def bytes(self) -> int:
        """Bytes."""
        if jax.default_backend() != "cpu":
            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        with contextlib.suppress(OSError), open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        scale = 1 if sys.platform == "darwin" else 1024
        return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
