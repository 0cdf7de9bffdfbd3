"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["replacing", "try_writing", "write_bytes"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write a draft, which takes the place of ``path`` when the block ends and is removed when it fails.

    Whoever looks at ``path`` sees the old file or the new one, whole, whatever stops the process.

    Raises:
        OSError: the draft can't be written or moved; a file that was there is unchanged.
    """
    draft = _draft(path)
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def try_writing(path: str | os.PathLike[str]) -> None:
    """Make a draft beside ``path`` and remove it.

    Raises:
        OSError: a file can't be written there.
    """
    draft = _draft(path)
    draft.touch()
    draft.unlink()


def _draft(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def write_bytes(path: str | os.PathLike[str], content: Any) -> None:
    """Write bytes, or a buffer of them, whole or not at all, and wait until the disk has them.

    Raises:
        OSError: as of :func:`replacing`.
    """
    with replacing(path) as draft, open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
