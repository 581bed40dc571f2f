"""Which commit a result was made from."""

import pathlib
import subprocess


def commit() -> str | None:
    """The commit of the checkout, with "+changes" if files differ from it; None outside one."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True)
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout else "")
