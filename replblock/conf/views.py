# SPDX-License-Identifier: GPL-2.0-or-later
"""A resource as one node sees it: who is me, who is the peer, every option with its default resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from .errors import ConfigError, shown
from .model import Configuration, HostSection, MetaDisk, Resource
from .options import TABLE, Value
from .resolve import effective, volume_of, volume_setting
from .values import DISCARD_NODE, Setting

Options = Mapping[str, Value]


class VolumeView(NamedTuple):
    """One volume on one node. `device`: path; `nbd`: N if the device is /dev/nbdN, else None."""

    number: int
    device: str
    minor: int
    disk: str
    meta_disk: MetaDisk
    nbd: int | None
    options: Options


@dataclass(frozen=True)
class NodeView:
    """Everything one node needs of a resource. Numbers are in the option's unit (see options.TABLE)."""

    resource: str
    dialect: str
    host_name: str
    me: HostSection
    peer: HostSection
    volumes: Mapping[int, VolumeView]
    net: Options
    startup: Options
    handlers: Options
    options: Options
    replblock: Options
    proxy: Options
    globals: Options
    source: Resource

    def disk(self, volume: int = 0) -> Options:
        """The disk options of a volume. Raises KeyError for a volume that is not configured."""
        return self.volumes[volume].options

    def explicit(self, section: str, name: str, volume: int | None = None) -> Setting | None:
        """The statement that set an option, or None where its default holds."""
        configuration = _configuration(self.source)
        if section == "disk" and volume is not None:
            return volume_setting(configuration, self.source, self.me, volume, name)
        if section == "global":
            return configuration.globals.get(name) if configuration.globals else None
        return effective(configuration, self.source, section, name, self.me)

    def unused(self) -> list[Setting]:
        """Settings that are read and shown, but on which replblock does not act."""
        found: dict[tuple[str, int, str], Setting] = {}
        for option in TABLE:
            if option.support == "yes":
                continue
            numbers: tuple[int | None, ...] = (None, *self.volumes) if option.section == "disk" else (None,)
            for number in numbers:
                setting = self.explicit(option.section, option.name, number)
                if setting is not None:
                    found[(setting.file, setting.line, setting.name)] = setting
        return list(found.values())


def unused_notes(view: NodeView) -> list[str]:
    """The same as sentences, for `status`."""
    return [f"{item.file}:{item.line}: {item.option.section} {{ {item.name} }} is accepted, without effect in replblock"
            for item in view.unused()]


def node_view(resource: Resource, host_name: str, addresses: Iterable[str] = (), peer: str | None = None) -> NodeView:
    """The view of a node. `addresses`: its own IP addresses, for floating sections. `peer`: a host name, or
    ADDRESS:PORT, where more than one other host is configured. Raises ConfigError."""
    configuration = _configuration(resource)
    local = tuple(addresses)
    me = _me(resource, host_name, local)
    other = _peer(resource, me, host_name, peer)
    volumes = {number: _volume(configuration, resource, me, number)
               for number in sorted({*resource.volumes, *me.volumes})}
    if not volumes:
        raise ConfigError(me.file, me.line, f"resource {resource.name} has no volume on {host_name}")

    def section(name: str) -> Options:
        return MappingProxyType({
            option.name: _value(configuration, option.default_of(configuration.dialect),
                                effective(configuration, resource, name, option.name, me))
            for option in TABLE if option.section == name})

    return NodeView(resource.name, configuration.dialect, host_name, me, other, MappingProxyType(volumes),
                    MappingProxyType(_net(dict(section("net")), resource, host_name, me, other)),
                    MappingProxyType(_startup(dict(section("startup")))), section("handlers"), section("options"),
                    section("replblock"), section("proxy"), global_options(configuration), resource)


def global_options(configuration: Configuration) -> Options:
    """The global section with its defaults; needs no resource."""
    made = configuration.globals
    return MappingProxyType({
        option.name: _value(configuration, option.default_of(configuration.dialect),
                            made.get(option.name) if made else None)
        for option in TABLE if option.section == "global"})


def _configuration(resource: Resource) -> Configuration:
    assert resource.configuration is not None
    return resource.configuration


def _value(configuration: Configuration, default: Value, setting: Setting | None) -> Value:
    if setting is None:
        return default
    if setting.name == "resync-after" and setting.text.split("/")[0] not in configuration.resources:
        return default
    return setting.value


def _me(resource: Resource, host_name: str, addresses: tuple[str, ...]) -> HostSection:
    if host_name in resource.ignore_on:
        raise ConfigError(resource.file, resource.line, f"resource {resource.name} is ignored on {host_name}")
    found = [host for host in resource.hosts if host_name in host.names]
    found += [host for host in resource.hosts
              if host.kind == "floating" and host.address is not None and host.address.host in addresses]
    if len(found) > 1:
        raise ConfigError(found[1].file, found[1].line, f"resource {resource.name} has several host sections for this "
                          f"node: {found[0].title}; {found[1].title}")
    if found:
        return found[0]
    there = "; ".join(host.title for host in resource.hosts) or "no host at all"
    raise ConfigError(resource.file, resource.line, f"resource {resource.name} has no host section for "
                      f"{shown(host_name)}; it has: {there} (node names are those of uname -n, or given by --host)")


def _peer(resource: Resource, me: HostSection, host_name: str, wanted: str | None) -> HostSection:
    others = [host for host in resource.hosts if host is not me]
    if not others:
        raise ConfigError(resource.file, resource.line, f"resource {resource.name} has no host section but that of "
                          f"{host_name}; expected a second one, for the peer")
    if len(others) == 1:
        return others[0]
    if wanted is not None:
        found = [host for host in others if wanted in host.names or wanted in (str(host.address), host.lower)]
        if len(found) == 1:
            return found[0]
    there = "; ".join(host.title for host in others)
    raise ConfigError(resource.file, resource.line, f"resource {resource.name} has {len(others)} host sections for the "
                      f"peer; say which one is meant: {there}")


def _volume(configuration: Configuration, resource: Resource, me: HostSection, number: int) -> VolumeView:
    volume = volume_of(resource, me, number)
    assert volume.device is not None
    disk, meta = volume.disk, volume.meta_disk
    if me.kind == "stacked":
        disk, meta = _lower_device(configuration, me, number), MetaDisk("internal")
    assert disk is not None and meta is not None
    options = MappingProxyType({
        option.name: _value(configuration, option.default_of(configuration.dialect),
                            volume_setting(configuration, resource, me, number, option.name))
        for option in TABLE if option.section == "disk"})
    return VolumeView(number, volume.device.path, volume.device.minor, disk, meta, volume.device.nbd, options)


def _lower_device(configuration: Configuration, me: HostSection, number: int) -> str:
    lower = configuration.resources[me.lower or ""]
    for host in lower.hosts:
        if number in {*lower.volumes, *host.volumes}:
            device = volume_of(lower, host, number).device
            if device is not None:
                return device.path
    raise ConfigError(me.file, me.line, f"resource {lower.name} below has no volume {number}")


def _net(net: dict[str, Value], resource: Resource, host_name: str, me: HostSection,
         peer: HostSection) -> dict[str, Value]:
    """discard-node-NAME means discard-local on NAME and discard-remote on the other."""
    policy = net["after-sb-0pri"]
    if isinstance(policy, str) and policy.startswith(DISCARD_NODE):
        name = policy.removeprefix(DISCARD_NODE)
        if name == host_name or name in me.names:
            net["after-sb-0pri"] = "discard-local"
        elif name in peer.names:
            net["after-sb-0pri"] = "discard-remote"
        else:
            raise ConfigError(resource.file, resource.line, f"resource {resource.name}: after-sb-0pri {policy} names "
                              f"neither {me.title} nor {peer.title}")
    return net


def _startup(startup: dict[str, Value]) -> dict[str, Value]:
    """No wait may be longer than wfc-timeout; 0 is for ever, so it is the longest."""
    limit = startup["wfc-timeout"]
    for name in ("degr-wfc-timeout", "outdated-wfc-timeout"):
        value = startup[name]
        if isinstance(limit, int) and isinstance(value, int) and limit > 0 and (value == 0 or value > limit):
            startup[name] = limit
    return startup
