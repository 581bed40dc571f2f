"""Where decoded data sets and compiled programs are kept from one command to the next.

Both lie in the user's cache folder: $JAXPRUNE_CACHE_DIR, else `jaxprune` in the system's own place
for such files. Whatever lies there can be deleted at any time.
"""

import os
import pathlib
import sys
from collections.abc import Callable
from functools import partial

from rich.console import Console

OFF = "off"
VARIABLE = "JAXPRUNE_CACHE_DIR"
MOST_BYTES = 2 << 30
"""What compiled programs may take."""


def folder(kind: str, given: str | None = None) -> pathlib.Path | None:
    """The folder of one kind of cache; it need not exist.

    Args:
      kind: names the folder inside the user's cache folder.
      given: a folder to use instead, or "off".

    Returns:
      The folder; `None` if it is refused, or if this user has no home.
    """
    if given is not None:
        return None if given == OFF else pathlib.Path(given).expanduser()
    root = os.environ.get(VARIABLE)
    if root == OFF:
        return None
    try:
        return (pathlib.Path(root).expanduser() if root else _user_cache()) / kind
    except RuntimeError:  # there is no home
        return None


def _user_cache() -> pathlib.Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or pathlib.Path.home() / "AppData" / "Local"
        return pathlib.Path(local) / "jaxprune" / "Cache"
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches" / "jaxprune"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = pathlib.Path(chosen) if os.path.isabs(chosen) else pathlib.Path.home() / ".cache"
    return base / "jaxprune"


def teller(console: Console) -> Callable[[str], object]:
    """Prints plain lines, which may name folders: none is coloured or broken."""
    return partial(console.print, markup=False, highlight=False, soft_wrap=True)


def keep_compiled(given: str | None, say: Callable[[str], object]) -> None:
    """Turns JAX's persistent compilation cache on for this process; before the first compilation.

    A folder that the user has named to JAX itself stays, with all other settings of it. JAX' own
    bound of the size is not used: a process that is killed between the two files that make an entry
    then leaves a folder that JAX can never write to again. The folder is cut to `MOST_BYTES` here,
    once a process, the entries first that were not used for the longest time.

    Args:
      given: a folder, "off", or `None` for the default.
      say: told in one line what is done.
    """
    import jax

    if given == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if given is None and chosen is not None:
        say(f"Compiled programs are kept in {chosen}, the folder that JAX was told.")
        return
    path = folder("compiled", given)
    if path is None:
        return
    try:
        # Whoever can write here can run code as this user: nobody else may.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        trim(path, MOST_BYTES)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        say(f"Compiled programs are not kept: {path} cannot be written ({error.strerror}).")
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Most programs are small and many; JAX would keep only those of a second or more.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    say(f"Compiled programs are kept in {path} (--compilation-cache off refuses).")


def trim(path: pathlib.Path, most_bytes: int) -> None:
    """Deletes compiled programs until the rest fits, those first that were not used for longest."""
    entries = []
    for file in path.glob("*-cache"):
        try:
            found = file.stat()
        except OSError:
            continue  # another process has deleted it
        # Reading may leave no trace (noatime); then it is the time of writing that counts.
        entries.append((max(found.st_atime, found.st_mtime), found.st_size, file))
    total = sum(size for _, size, _ in entries)
    for _, size, file in sorted(entries):
        if total <= most_bytes:
            return
        file.unlink(missing_ok=True)
        total -= size
