# SPDX-License-Identifier: GPL-2.0-or-later
"""From the plugin's parameters to a running engine."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replblock.conf import ConfigError, NodeView, find_default, load
from replblock.core.resource import Resource
from replblock.device import protect
from replblock.engine.log import Log
from replblock.engine.loop import Loop
from replblock.engine.mapping import is_ours
from replblock.engine.procfile import AlreadyUp
from replblock.engine.service import Engine, Names
from replblock.wire.compression import available as lz4_available

PARAMETERS = ("resource", "config", "host", "run", "resume")
DEFAULT_RUN = "/run/replblock"
COLLECT_AFTER = (10_000, 50, 100)
"""Objects more than before, and rounds of the younger generations: hundreds of requests under way are no garbage."""


def names_of(parameters: Mapping[str, str]) -> Names:
    """Fill in what was not said: REPLBLOCK_HOST or uname -n, REPLBLOCK_RUN, the usual places of drbd.conf."""
    return Names(
        parameters["resource"],
        parameters.get("config") or find_default(),
        parameters.get("host") or os.environ.get("REPLBLOCK_HOST") or os.uname().nodename,
        Path(parameters.get("run") or os.environ.get("REPLBLOCK_RUN") or DEFAULT_RUN),
    )


def view_of(names: Names) -> NodeView:
    """This node's view of the resource. Raises ConfigError."""
    configuration = load(names.config_path)
    resource = configuration.resources.get(names.section)
    if resource is None:
        known = ", ".join(configuration.resources) or "none"
        raise ConfigError(names.config_path, 1, f"there is no resource '{names.section}'; known: {known}")
    floating = {host.address.host for host in resource.hosts if host.kind == "floating" and host.address is not None}
    view = resource.view(names.host, [address for address in sorted(floating) if is_ours(address)])
    refuse_what_is_missing(view, names.config_path)
    if names.volume is not None and names.volume not in view.volumes:
        numbers = ", ".join(map(str, sorted(view.volumes)))
        text = f"'{names.section}' has no volume {names.volume}; its volumes: {numbers}"
        raise ConfigError(names.config_path, 1, text)
    return view


NOT_YET: tuple[tuple[str, str, str, str], ...] = (
    # section       option                 fine values what to do instead
    ("net",         "allow-two-primaries", "no",       "one node is Primary at a time; leave the option out"),
    ("replblock",   "tls-psk",             "",         "use tls-certificates"),
    ("replblock",   "compression",         "none lz4", "use 'compression lz4'"),
)  # fmt: skip
"""Options whose other values promise what is not built: refused, because ignoring them would be worse."""


def refuse_what_is_missing(view: NodeView, config_path: str) -> None:
    """Raises ConfigError for the first option that asks for something this version cannot do."""
    for section, option, fine, instead in NOT_YET:
        value = (view.net if section == "net" else view.replblock)[option]
        word = ("yes" if value else "no") if isinstance(value, bool) else str(value or "")
        if word not in fine.split(" "):
            raise _error(view, config_path, section, option, f"'{option} {word}' is not supported yet; {instead}")
    if view.replblock["compression"] == "lz4" and not lz4_available():
        text = "'compression lz4' needs the Python module lz4; install it on both nodes: apt install python3-lz4"
        raise _error(view, config_path, "replblock", "compression", text)


def _error(view: NodeView, config_path: str, section: str, option: str, text: str) -> ConfigError:
    where = view.explicit(section, option)
    file, line = (where.file, where.line) if where is not None else (config_path, 0)
    return ConfigError(file, line, text)


def mask_number(mask: str) -> int:
    """The kernel's notation: hexadecimal, with commas between groups of 32 processors."""
    number = 0
    for group in mask.removeprefix("0x").split(","):
        number = number << 32 | int(group or "0", 16)
    return number


def obey_cpu_mask(mask: str, log: Log) -> None:
    """options { cpu-mask }: this process, every thread of it, on these processors only. Before any thread begins.

    Where it names several, the threads that serve clients sit on one of them at a time (engine.processor).
    """
    wanted = mask_number(mask)
    processors = {n for n in os.sched_getaffinity(0) if wanted >> n & 1}
    if processors:
        os.sched_setaffinity(0, processors)
    elif wanted:
        log.write("warning", "cpu-mask", f"cpu-mask {mask} names no processor of this machine: not obeyed")


def spare_collector() -> None:
    """What is loaded stays for ever: the search for cycles need not go through it in the middle of a write."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def make_core(settings: Any, loop: Loop) -> Any:
    return Resource(settings, loop)


def run(parameters: Mapping[str, str]) -> Engine:
    """Start the engine in this process, in nbdkit's main thread. On failure: one line, and the process ends."""
    names = log = None
    try:
        names = names_of(parameters)
        names.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        log = Log(names.resource, names.file("log"))
        if os.geteuid() == 0:  # before any thread begins: they inherit it
            problems = protect().problems
            if problems:
                log.write("notice", "unprotected", f"against a shortage of memory: {'; '.join(problems)}")
        view = view_of(names)
        obey_cpu_mask(str(view.options["cpu-mask"] or ""), log)
        engine = Engine(names, view, log, make_core)
        engine.own_signals()  # first: once it answers it may be told to stop, and nbdkit's own way is no orderly one
        spare_collector()
        engine.start(resume=parameters.get("resume", ""))
        sys.tracebacklimit = 0  # nbdkit prints whatever a callback raises: an error a client caused is one line
        return engine
    except (ConfigError, AlreadyUp, OSError) as error:
        if log is not None:
            log.write("error", "start-failed", str(error))
        else:
            print(f"replblock: {error}", file=sys.stderr, flush=True)
        os._exit(1)
