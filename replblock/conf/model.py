# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole configuration as values: what the parser builds, the checks check, the views resolve, dump prints.

Section and option names are 8.4's throughout; each Setting remembers how and where it was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .addresses import Address as Address
from .values import Setting

if TYPE_CHECKING:
    from .views import NodeView

SECTIONS = ("options", "net", "disk", "startup", "proxy", "handlers", "replblock")


@dataclass(frozen=True)
class MetaDisk:
    """Where metadata lives. kind: "internal", "flexible" (a whole device) or "indexed" (slot `index` of one)."""

    kind: str
    path: str | None = None
    index: int | None = None


class Device(NamedTuple):
    """What the volume is called. `name` None: only a minor was given. `nbd`: N of /dev/nbdN, which is ours."""

    name: str | None
    minor: int
    nbd: int | None = None

    @property
    def path(self) -> str:
        return self.name or f"/dev/drbd{self.minor}"


@dataclass
class Settings:
    """One section's settings in the order of the file; of several for one option the last counts."""

    items: list[Setting] = field(default_factory=list)
    plugins: list[tuple[str, ...]] = field(default_factory=list)    # of proxy { plugin { ... } }

    def get(self, name: str) -> Setting | None:
        return next((item for item in reversed(self.items) if item.option.name == name), None)

    def __bool__(self) -> bool:
        return bool(self.items or self.plugins)


@dataclass
class Volume:
    """A volume as written: in a resource (for all hosts) or a host. None: not said here."""

    number: int
    file: str
    line: int
    device: Device | None = None
    disk: str | None = None
    meta_disk: MetaDisk | None = None
    settings: Settings = field(default_factory=Settings)
    implicit: bool = False


class ProxyHost(NamedTuple):
    """`proxy on HOST {}` of a host section; accepted, otherwise unused."""

    names: tuple[str, ...]
    inside: Address
    outside: Address
    settings: Settings


@dataclass
class HostSection:
    """`on NAME... {}`, `floating ADDRESS {}` or `stacked-on-top-of RESOURCE {}` (kind "on", "floating", "stacked").

    `names` of a stacked section are those of the lower resource's hosts. `opened`: section -> line it stands at.
    """

    kind: str
    names: tuple[str, ...]
    file: str
    line: int
    address: Address | None = None
    lower: str | None = None
    volumes: dict[int, Volume] = field(default_factory=dict)
    sections: dict[str, Settings] = field(default_factory=dict)
    proxy: ProxyHost | None = None
    opened: dict[str, int] = field(default_factory=dict)
    written: list[Setting] = field(default_factory=list)

    @property
    def title(self) -> str:
        """As an operator would name it."""
        if self.kind == "floating":
            return f"floating {self.address}"
        if self.kind == "stacked":
            return f"stacked-on-top-of {self.lower}"
        return "on " + " ".join(self.names)


@dataclass
class Scope:
    """What `common` and `resource` share."""

    name: str
    file: str
    line: int
    sections: dict[str, Settings] = field(default_factory=dict)
    volumes: dict[int, Volume] = field(default_factory=dict)
    ignore_on: list[str] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    written: list[Setting] = field(default_factory=list)    # all of them in file order, for a dump in 8.3's sections

    def settings(self, section: str) -> Settings:
        return self.sections.setdefault(section, Settings())


@dataclass
class Resource(Scope):
    """One resource. `view` is what a node works with."""

    hosts: list[HostSection] = field(default_factory=list)
    configuration: Configuration | None = field(default=None, repr=False)

    def host_of(self, host_name: str, addresses: Iterable[str] = ()) -> HostSection | None:
        """The section that is this node's: by name, or (floating) by one of its own addresses."""
        local = set(addresses)
        for host in self.hosts:
            if host_name in host.names:
                return host
            if host.kind == "floating" and host.address is not None and host.address.host in local:
                return host
        return None

    def view(self, host_name: str, addresses: Iterable[str] = (), peer: str | None = None) -> NodeView:
        """Everything one node needs, every option resolved. Raises ConfigError if the node is not in it."""
        from .views import node_view  # views needs the model, and the model is what people hold

        return node_view(self, host_name, addresses, peer)


@dataclass
class Configuration:
    """All files of one configuration. `files`: those read, in order. `why`: the statement the dialect was told by."""

    file: str
    dialect: str
    why: str = ""
    common: Scope | None = None
    globals: Settings | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def resource_names(self, host_name: str, addresses: Iterable[str] = ()) -> list[str]:
        """The resources this node has a part in, in the order of the files."""
        local = tuple(addresses)
        return [name for name, resource in self.resources.items()
                if host_name not in resource.ignore_on and resource.host_of(host_name, local) is not None]
