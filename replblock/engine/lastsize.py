# SPDX-License-Identifier: GPL-2.0-or-later
"""How large a disk was when it was last in use: by that, internal metadata of one that grew meanwhile is found."""

from __future__ import annotations

from pathlib import Path

from replblock.engine.procfile import replace
from replblock.meta.moving import remembered_sizes, remembered_text
from replblock.paths import last_size_path


class LastSize:
    """One small file."""

    def __init__(self, run_dir: Path, resource: str, volume: int) -> None:
        self._file = last_size_path(run_dir, resource, volume)
        self._noted: tuple[str, int] = ("", 0)

    def read(self, path: str) -> tuple[int, ...]:
        """In sectors, the last one first; nothing if nobody knows."""
        try:
            return remembered_sizes(self._file.read_text(), path)
        except (OSError, ValueError):
            return ()

    def changed(self, path: str, sectors: int) -> bool:
        """Since this was asked last? Then it is to be noted."""
        before, self._noted = self._noted, (path, sectors)
        return self._noted != before

    def note(self, path: str, sectors: int) -> str:
        """Remember it; what went wrong, or nothing."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace(self._file, remembered_text(path, list(dict.fromkeys([sectors, *self.read(path)]))))
        except OSError as error:
            return f"{self._file}: {error.strerror}"
        return ""
