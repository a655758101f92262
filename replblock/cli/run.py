# SPDX-License-Identifier: GPL-2.0-or-later
"""One invocation: who we are, which resources are meant, and their configuration (read only when it is needed)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from replblock.cli.errors import CANNOT, REFUSED, USAGE, Stop, nearest
from replblock.cli.verbs import ANY, NONE, RESOURCE, Verb

if TYPE_CHECKING:
    from replblock.conf import Configuration, NodeView, Resource, VolumeView

RUN_DIR = "/run/replblock"


_WARNING_VERBS = frozenset({"up", "adjust", "dump", "sh-nop"})
"""They look at the configuration as such, so they repeat its warnings; the others would only be noisy."""


_ONCE_FOR_ALL_VOLUMES = frozenset({"sh-resource", "dump", "dump-xml"})


class Target(NamedTuple):
    """What a name on the command line means: a resource, or one volume of it.

    Where a resource has several volumes, each has an engine of its own, and its name here is RES@VOLUME.
    """

    resource: str
    volume: int | None = None

    def __str__(self) -> str:
        from replblock.engine.client import section_of, volume_of

        volume = volume_of(self.resource) if self.volume is None else self.volume
        return self.resource if volume is None else f"{section_of(self.resource)}/{volume}"


class Run:
    """The parsed command line plus everything looked up for it."""

    def __init__(
        self, program: str, verb: Verb, names: list[str], general: dict[str, str], options: dict[str, str]
    ) -> None:
        self.program = program
        self.verb = verb
        self.names = names
        self.general = general
        self.options = options
        self.dry_run = "--dry-run" in general
        self.verbose = "--verbose" in general
        self.stacked = "--stacked" in general
        self.variable = general.get("--sh-varname", "")
        self.run_dir = os.environ.get("REPLBLOCK_RUN") or RUN_DIR
        self._configuration: Configuration | None = None
        self._views: dict[str, NodeView] | None = None

    @property
    def host(self) -> str:
        """Name of this node: --host, REPLBLOCK_HOST, uname -n."""
        return self.general.get("--host") or os.environ.get("REPLBLOCK_HOST") or os.uname().nodename

    # ---- configuration

    @property
    def config_path(self) -> str:
        """Absolute path of the configuration file. Raises Stop naming the places searched."""
        named = self.general.get("--config-file")
        if named == "-":
            return named
        if named:
            if os.path.exists(named):
                return os.path.abspath(named)
            raise Stop(CANNOT, f"Can not open '{named}': no such file", "name the configuration with: -c FILE")
        from replblock.conf import default_paths

        for path in default_paths():
            if os.path.exists(path):
                return path
        raise Stop(
            REFUSED,
            f"no configuration found; searched: {', '.join(default_paths())}",
            "write one (see drbd.conf.example) or name it with: -c FILE",
        )

    @property
    def configuration(self) -> Configuration:
        """The whole configuration. Raises Stop(10) with FILE:LINE: and what was expected."""
        if self._configuration is None:
            self._configuration = self._load(self.config_path)
            tested = self.general.get("--config-to-test")
            if tested:
                self._load(tested)
        return self._configuration

    def _load(self, path: str) -> Configuration:
        import sys

        from replblock.conf import ConfigError, load

        try:
            configuration = load(path)
        except ConfigError as error:
            raise Stop(REFUSED, str(error)) from None
        if self.verbose or self.verb.name in _WARNING_VERBS:
            for warning in configuration.warnings:
                print(f"WARN: {warning}", file=sys.stderr)
        return configuration

    @property
    def addresses(self) -> tuple[str, ...]:
        """Which of the addresses in `floating` sections are this node's; only those are asked about."""
        hosts = (host for resource in self.configuration.resources.values() for host in resource.hosts)
        named = {host.address.host for host in hosts if host.kind == "floating" and host.address is not None}
        return tuple(address for address in sorted(named) if _is_ours(address))

    @property
    def views(self) -> dict[str, NodeView]:
        """This node's view of every resource that has a section for it, in the order of the file."""
        if self._views is None:
            from replblock.conf import ConfigError

            self._views = {}
            addresses = self.addresses
            try:
                for name in self.configuration.resource_names(self.host, addresses):
                    self._views[name] = self.configuration.resources[name].view(
                        self.host, addresses, self.general.get("--peer")
                    )
            except ConfigError as error:
                self._views = None
                raise Stop(REFUSED, str(error)) from None
        return self._views

    def view(self, name: str) -> NodeView:
        """This node's view of one resource. Raises Stop(1) naming those that are known."""
        from replblock.engine.client import section_of

        name = section_of(name)
        if name in self.views:
            return self.views[name]
        first = f"'{name}' not defined in your config (for this host)."
        resource = self.configuration.resources.get(name)
        if resource is not None:
            raise Stop(
                USAGE,
                first,
                f"it is for {' and '.join(_titles(resource))}, and this node is {self.host};"
                " be another with: --host NAME or REPLBLOCK_HOST",
            )
        known = list(self.views)
        if known:
            raise Stop(USAGE, first, f"known: {', '.join(known)}{nearest(name, known)}")
        raise Stop(USAGE, first, self._nothing_here())

    def _nothing_here(self) -> str:
        hosts = {title for resource in self.configuration.resources.values() for title in _titles(resource)}
        named = f"its hosts are {', '.join(sorted(hosts))}" if hosts else "it holds no resource at all"
        return f"{self.config_path} has no resource for node {self.host} ({named}); see: --host NAME, REPLBLOCK_HOST"

    def volumes(self, target: Target) -> list[VolumeView]:
        """The volumes that are meant, by number."""
        from replblock.engine.client import volume_of

        volumes = self.view(target.resource).volumes
        wanted = volume_of(target.resource) if target.volume is None else target.volume
        if wanted is None:
            return [volumes[number] for number in sorted(volumes)]
        if wanted not in volumes:
            numbers = ", ".join(str(number) for number in sorted(volumes))
            raise Stop(USAGE, f"'{target}' not defined in your config (for this host).", f"its volumes: {numbers}")
        return [volumes[wanted]]

    # ---- what is meant

    def is_up(self, resource: str) -> bool:
        """True while an engine process serves the resource on this node."""
        from replblock.engine.client import is_up

        try:
            return is_up(self.run_dir, resource)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise self.no_access(error) from None

    def no_access(self, error: OSError) -> Stop:
        """The sentences for a run directory that may not be used."""
        return Stop(
            CANNOT,
            f"{self.run_dir}: {error.strerror or error}",
            "run it as root, or name a run directory of your own: REPLBLOCK_RUN=DIR",
        )

    def targets(self) -> list[Target]:
        """What the names on the command line mean, engine by engine. All are checked before anything is done."""
        if self.verb.needs == NONE or self.verb.name in _ONCE_FOR_ALL_VOLUMES:
            return self.meant()
        return [engine for target in self.meant() for engine in self._engines(target)]

    def _engines(self, target: Target) -> list[Target]:
        """The same, or a target for each volume that has an engine of its own."""
        from replblock.engine.client import engine_names, volume_of

        if volume_of(target.resource) is not None or (self.verb.live and self.is_up(target.resource)):
            return [target]
        if self.verb.live and target.resource not in self._known_views():
            return [target]
        names = engine_names(target.resource, self.view(target.resource).volumes)
        if len(names) == 1:
            return [target]
        return [Target(name) for name in names if target.volume in (None, volume_of(name))]

    def _known_views(self) -> dict[str, NodeView]:
        try:
            return self.views
        except Stop:
            return {}

    def meant(self) -> list[Target]:
        """What the names on the command line mean: resources, or volumes of them."""
        if self.verb.needs == NONE:
            return [Target(name) for name in self.views]
        if self.stacked:
            raise Stop(USAGE, f"WARN: nothing stacked for this host ({self.host}), nothing to do in stacked mode!")
        if not self.names and self.verb.needs != ANY:
            known = " ".join(self.views) if os.path.exists(self._config_or_empty()) else ""
            more = f"; known: {known} (or: all)" if known else ""
            raise Stop(USAGE, f"No resource names specified{more}", f"see: replctl help {self.verb.name}")
        if not self.names or "all" in self.names:
            if not self.views:
                raise Stop(
                    USAGE, f"WARN: no normal resources defined for this host ({self.host})!?", self._nothing_here()
                )
            return [Target(name) for name in self.views]
        return [self._target(name) for name in self.names]

    def _config_or_empty(self) -> str:
        try:
            return self.config_path
        except Stop:
            return ""

    def _target(self, word: str) -> Target:
        name, slash, number = word.partition("/")
        if self.verb.live and not slash and self.is_up(name):
            return Target(name)  # a running resource answers even if the file is broken
        if not slash and self._names_an_engine(name):
            return Target(name)
        if name and slash and number.isdigit():
            target = Target(name, int(number))
        elif word.startswith(("minor-", "/dev/")):
            target = self._by_device(word)
        else:
            self.view(word)
            return Target(word)
        if self.verb.needs == RESOURCE or self.verb.needs == ANY:
            raise Stop(
                USAGE,
                f"{self.verb.name} operates on whole resources, but you specified a specific volume!",
                f"run: replctl {self.verb.name} {target.resource}",
            )
        self.volumes(target)
        return target

    def _names_an_engine(self, name: str) -> bool:
        from replblock.engine.client import section_of, volume_of

        view = self._known_views().get(section_of(name))
        return view is not None and volume_of(name) in view.volumes and len(view.volumes) > 1

    def _by_device(self, word: str) -> Target:
        for name, view in self.views.items():
            for number, volume in view.volumes.items():
                if word in (volume.device, f"minor-{volume.minor}", f"/dev/drbd{volume.minor}"):
                    return Target(name, number)
        raise Stop(USAGE, f"'{word}' not defined in your config (for this host).", f"known: {', '.join(self.views)}")

    def each(self, act: Callable[[Target], int]) -> int:
        """Do it for every target, the next even if one failed; the worst exit code."""
        import sys

        worst = 0
        for target in self.targets():
            try:
                code = act(target)
            except Stop as stop:
                for line in stop.lines:
                    print(line, file=sys.stderr)
                code = stop.exit_code
            worst = max(worst, code)
        return worst

    def program_path(self) -> str:
        """How to call this program again, for commands that are printed or run later."""
        import shutil
        import sys

        found = sys.argv[0] if "/" in sys.argv[0] else shutil.which(sys.argv[0]) or ""
        if not found or not os.access(found, os.X_OK) or found.endswith(".py"):
            beside = os.path.join(os.path.dirname(sys.executable), "replctl")
            found = beside if os.access(beside, os.X_OK) else shutil.which("replctl") or "replctl"
        return os.path.abspath(found) if "/" in found else found

    def need_file(self) -> str:
        """The configuration as a file that an engine can read again."""
        if self.config_path == "-":
            raise Stop(CANNOT, f"{self.verb.name}: the engine reads the configuration again, so -c - is not enough",
                       "write it to a file and name that with: -c FILE")
        return self.config_path


def _titles(resource: Resource) -> list[str]:
    """What the resource's host sections are called."""
    return [name for host in resource.hosts for name in host.names or (host.title,)]


def _is_ours(address: str) -> bool:
    """True if one of this node's interfaces has the address: only then can a socket be bound to it."""
    import socket

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
