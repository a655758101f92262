# SPDX-License-Identifier: GPL-2.0-or-later
"""A handler that writes down how it was called: a shell script, as an administrator would configure one."""

from __future__ import annotations

from pathlib import Path

from tests.engine.conftest import wait_for

SCRIPT = """#!/bin/sh
# NAME [GATE]: note environment and arguments, wait for the gate, end as told
exec 3>"{directory}/$1.$$.part"
{{ echo "args=$*"; echo "host=$REPLBLOCK_HOST"; echo "cwd=$(pwd)"; env; }} >&3
mv "{directory}/$1.$$.part" "{directory}/$1.$$.call"
while [ -n "$2" ] && [ ! -e "{directory}/gate" ]; do sleep 0.02; done
read -r code < "{directory}/$1.code"
echo "$1 says hello"
exit "$code"
"""


class Recorder:
    """Makes the handlers section, and reads what was recorded."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "handlers"
        self.directory.mkdir()
        self.script = self.directory / "record.sh"
        self.script.write_text(SCRIPT.format(directory=self.directory))
        self.script.chmod(0o755)

    def handlers(self, *names: str, code: int = 0, gate: bool = False) -> str:
        """Options for section handlers; with `gate` they wait for `open_gate`."""
        for name in names:
            self.answer(name, code)
        return "".join(f'{name} "{self.script} {name}{" gate" if gate else ""}"; ' for name in names)

    def answer(self, name: str, code: int) -> None:
        """How it ends from now on."""
        (self.directory / f"{name}.code").write_text(f"{code}\n")

    def open_gate(self) -> None:
        (self.directory / "gate").touch()

    def calls(self, name: str) -> list[dict[str, str]]:
        """Environments, oldest first; `args`, `host`, `cwd` besides."""
        paths = sorted(self.directory.glob(f"{name}.*.call"), key=lambda path: path.stat().st_mtime_ns)
        return [dict(line.partition("=")[::2] for line in path.read_text().splitlines()) for path in paths]

    def wait(self, name: str, host: str = "") -> dict[str, str]:
        """The first call (on that host), once it was made."""

        def look() -> dict[str, str] | None:
            return next((call for call in self.calls(name) if host in ("", call["host"])), None)

        found: dict[str, str] = wait_for(look, f"a call of {name} {host}")
        return found
