# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that answers the control socket from a script: what replctl asks and prints can be tested to the letter."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replblock.engine.client import control_path

Answer = dict[str, Any]


def answer(exit_code: int = 0, *lines: str, **data: Any) -> Answer:
    return {"exit_code": exit_code, "lines": list(lines), "data": data}


class FakeEngine:
    """Serves RUN/RES.ctl in a thread. `asked` lists (verb, args) without the questions for the status."""

    def __init__(self, run_dir: Path, resource: str, status: Callable[[], Any]) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status = status
        self.answers: dict[str, Callable[[dict[str, Any]], Answer | None]] = {}
        """None: the connection is closed without an answer."""
        self._path = control_path(run_dir, resource)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """As an engine that ends: nobody listens any more."""
        self._path.unlink(missing_ok=True)
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept of the other thread
        except OSError:
            pass
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as stream:
                for line in stream:
                    request = json.loads(line)
                    made = self._answer(request["verb"], request["args"])
                    if made is None:
                        break
                    stream.write(json.dumps(made).encode() + b"\n")
                    stream.flush()

    def _answer(self, verb: str, args: dict[str, Any]) -> Answer | None:
        if verb == "status":
            return {"exit_code": 0, "lines": [], "data": self.status()}
        self.asked.append((verb, args))
        if verb == "stop":
            self.close()
        return self.answers.get(verb, lambda args: answer())(args)
