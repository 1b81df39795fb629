"""Small versioned files in the user's cache directory: atomic, one per machine, damaged ones dropped.

The directory is $FASTCONV_CACHE_DIR, else $XDG_CACHE_HOME/fastconv, else ~/.cache/fastconv. Everything in
it can be deleted at any time. Nothing here raises because of the state of the disk: a file that cannot be
read is no file, and one that cannot be written is reported by False.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

FORMAT = 1  # of the envelope; whoever stores data changes `version` when its own form changes


def directory() -> Path:
    """Return the cache directory; it may not exist."""
    if chosen := os.environ.get("FASTCONV_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG rules say to ignore a relative one
        return Path(base) / "fastconv"
    return Path(os.path.expanduser("~")) / ".cache" / "fastconv"


def path(kind: str, key: str) -> Path:
    """Return the file for `kind` of data (such as "limits") on the machine with fingerprint `key`."""
    for part in (kind, key):
        if not re.fullmatch(r"[A-Za-z0-9_.]+", part) or part.startswith("."):
            raise ValueError(f"{part!r} cannot be part of a file name here: letters, digits, _ and . only")
    return directory() / f"{kind}-{key}.json"


def read(kind: str, key: str, *, version: int = 1) -> Any:
    """Return what `write` stored, or None.

    A damaged file, or one of another version, is removed if possible.
    """
    file = path(kind, key)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None if not file.is_file() else _drop(file)
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        return _drop(file)
    expected = {"format": FORMAT, "kind": kind, "key": key, "version": version}
    if not isinstance(envelope, dict) or "data" not in envelope:
        return _drop(file)
    if any(envelope.get(name) != value for name, value in expected.items()):
        return _drop(file)
    return envelope["data"]


def update(kind: str, key: str, changes: dict[str, Any], *, version: int = 1) -> bool:
    """Add `changes` to a stored dictionary; return whether they are on disk.

    Writers that do so at the same time wait for each other, where the system has file locks; none loses an entry.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            directory().mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(path(kind, key).with_suffix(".lock"), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = read(kind, key, version=version)
        return write(kind, key, (found if isinstance(found, dict) else {}) | changes, version=version)


def write(kind: str, key: str, data: Any, *, version: int = 1) -> bool:
    """Store JSON-serialisable `data`, whole or not at all; return whether it is on disk.

    The last of several writers wins, and a reader sees the old file or the new one.
    """
    file = path(kind, key)
    envelope = {"format": FORMAT, "kind": kind, "key": key, "version": version, "data": data}
    text = json.dumps(envelope, indent=1, sort_keys=True)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True


def _drop(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
