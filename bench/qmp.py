# SPDX-License-Identifier: GPL-2.0-or-later
"""As much of qemu's machine protocol as starting and watching one job takes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from bench.processes import BenchError


class Qmp:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        json.loads(self.stream.readline())      # its greeting
        self.command("qmp_capabilities")

    def command(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """The command's return value; events that come in between are passed over."""
        self.stream.write(json.dumps({"execute": name, "arguments": arguments or {}}) + "\n")
        self.stream.flush()
        while True:
            line = self.stream.readline()
            if not line:
                raise BenchError(f"qemu closed its control socket during {name}")
            answer = json.loads(line)
            if "error" in answer:
                raise BenchError(f"qemu refused {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        self.stream.close()
        self.socket.close()
