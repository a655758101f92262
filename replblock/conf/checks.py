# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be seen statement by statement: things named twice, things missing, options that exclude each other.

Duplicates and missing statements as drbdadm reports them; the consistency rules are the kernel's
(139: two primaries need protocol C, 154: no stonith fencing with A, 155: on-congestion needs A).
"""

from __future__ import annotations

from collections.abc import Callable

from .addresses import MAX_PORT, Address
from .errors import ConfigError, shown
from .model import Configuration, HostSection, Resource, Volume
from .options import names_in
from .resolve import effective, volume_of, volume_setting
from .values import DISCARD_NODE, Setting


def check(configuration: Configuration) -> None:
    """Raise ConfigError for the first thing wrong; collect warnings in the configuration."""
    _name_stacked(configuration)
    _check_duplicates(configuration)
    _check_nbd_ports(configuration)
    for resource in configuration.resources.values():
        _check_hosts(resource)
        for rule in RULES:
            rule(configuration, resource)


def _name_stacked(configuration: Configuration) -> None:
    """A stacked section stands on the hosts of the resource below."""
    for resource in configuration.resources.values():
        for host in resource.hosts:
            if host.kind != "stacked":
                continue
            lower = configuration.resources.get(host.lower or "")
            if lower is None:
                raise ConfigError(host.file, host.line, f"resource {resource.name} stands on top of "
                                  f"{shown(host.lower or '')}, which is not defined")
            if any(below.kind == "stacked" for below in lower.hosts):
                raise ConfigError(host.file, host.line, f"resource {lower.name} is stacked itself; "
                                  "stacking is one level deep")
            host.names = tuple(name for below in lower.hosts for name in below.names)


def _check_duplicates(configuration: Configuration) -> None:
    """Addresses everywhere; minors, disks, metadata slots and nbd devices per host."""
    uses: dict[tuple[str, ...], tuple[Resource, HostSection, int]] = {}

    def claim(what: str, key: tuple[str, ...], text: str, resource: Resource, host: HostSection, number: int) -> None:
        first = uses.setdefault((what, *key), (resource, host, number))
        if first[0] is resource and first[1] is host and first[2] == number:
            return
        raise ConfigError(host.file, host.line, f"conflicting use of {what} {text} in resource {resource.name}, "
                          f"{host.title}: first in resource {first[0].name}, {first[1].title} "
                          f"({first[1].file}:{first[1].line})")

    for resource in configuration.resources.values():
        for host in resource.hosts:
            if host.address is not None:
                claim("address", (str(host.address),), str(host.address), resource, host, 0)
            for name in host.names or (host.title,):
                for number in _numbers(resource, host):
                    volume = volume_of(resource, host, number)
                    for what, key in _things(volume):
                        claim(what, (name, key), f"{shown(key)} on {name}", resource, host, number)


def _things(volume: Volume) -> list[tuple[str, str]]:
    found = []
    if volume.device is not None:
        found.append(("device minor", str(volume.device.minor)))
        if volume.device.nbd is not None:
            found.append(("device", f"/dev/nbd{volume.device.nbd}"))
    if volume.disk not in (None, "none", ""):
        found.append(("disk", str(volume.disk)))
    meta = volume.meta_disk
    if meta is not None and meta.kind != "internal":
        found.append(("meta-disk", f"{meta.path}[{meta.index}]" if meta.kind == "indexed" else f"{meta.path}"))
    return found


def _check_nbd_ports(configuration: Configuration) -> None:
    """Each volume listens on a port of its own, which nothing else of the same node listens on."""
    taken: dict[str, list[tuple[Address, str]]] = {}
    everywhere = [(resource, host) for resource in configuration.resources.values() for host in resource.hosts]
    for resource, host in everywhere:
        for node in host.names or (host.title,):
            if host.address is not None:
                text = f"the address of resource {resource.name} ({host.file}:{host.line})"
                taken.setdefault(node, []).append((host.address, text))
    for resource, host in everywhere:
        found = effective(configuration, resource, "replblock", "nbd-listen", host)
        if found is None or not isinstance(found.value, Address):
            continue
        for number in _numbers(resource, host):
            here = found.value._replace(port=found.value.port + number)
            what = f"resource {resource.name}: nbd-listen {found.value} is {here} for volume {number}"
            if here.port > MAX_PORT:
                raise ConfigError(found.file, found.line, f"{what}, and there are no ports above {MAX_PORT}")
            for node in host.names or (host.title,):
                for other, text in taken.setdefault(node, []):
                    if here.meets(other):
                        raise ConfigError(found.file, found.line, f"{what}, on {node}; that is {text}")
                place = f"({found.file}:{found.line})"
                taken[node].append((here, f"nbd-listen of resource {resource.name}, volume {number} {place}"))


def _numbers(resource: Resource, host: HostSection) -> list[int]:
    return sorted({*resource.volumes, *host.volumes})


def _check_hosts(resource: Resource) -> None:
    everywhere: dict[int, HostSection] = {}
    for host in resource.hosts:
        where = f"in resource {resource.name}, {host.title}"
        if host.address is None:
            raise ConfigError(host.file, host.line, f"{where}: address missing")
        numbers = _numbers(resource, host)
        if not numbers and resource.volumes == {} and all(not other.volumes for other in resource.hosts):
            raise ConfigError(host.file, host.line, f"{where}: device, disk and meta-disk missing")
        for number in numbers:
            everywhere.setdefault(number, host)
            _check_volume(resource, host, number, where)
    for host in resource.hosts:
        for number, first in everywhere.items():
            if number not in _numbers(resource, host):
                raise ConfigError(host.file, host.line, f"in resource {resource.name}, {host.title}: volume {number} "
                                  f"missing (present in: {first.title})")
            if volume_of(resource, host, number).implicit != volume_of(resource, first, number).implicit:
                raise ConfigError(host.file, host.line, f"in resource {resource.name}: volume {number} has a volume "
                                  f"section in one host section and none in the other")


def _check_volume(resource: Resource, host: HostSection, number: int, where: str) -> None:
    volume = volume_of(resource, host, number)
    own, general = host.volumes.get(number), resource.volumes.get(number)
    if own is not None and general is not None and own.implicit != general.implicit:
        raise ConfigError(own.file, own.line, f"{where}: mixing explicit and implicit volumes is not allowed")
    needed = {"device": volume.device}
    if host.kind != "stacked":
        needed |= {"disk": volume.disk, "meta-disk": volume.meta_disk}  # type: ignore[dict-item]
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        at = f", volume {number}" if not volume.implicit else ""
        raise ConfigError(host.file, host.line, f"{where}{at}: {', '.join(missing)} missing")


def _net(configuration: Configuration, resource: Resource, name: str) -> Setting | None:
    return effective(configuration, resource, "net", name)


def _text(setting: Setting | None, default: str) -> str:
    return str(setting.value) if setting is not None else default


def _place(resource: Resource, *settings: Setting | None) -> tuple[str, int]:
    """The last of the settings that was made: that is where an operator looks."""
    made = [setting for setting in settings if setting is not None]
    return (made[-1].file, made[-1].line) if made else (resource.file, resource.line)


def protocol_needed(configuration: Configuration, resource: Resource) -> None:
    """8.3 has no default protocol."""
    if configuration.dialect == "8.3" and _net(configuration, resource, "protocol") is None:
        raise ConfigError(resource.file, resource.line, f"resource {resource.name} has no protocol, nor has common; "
                          "8.3 files must say 'protocol A;', B or C")


def two_primaries_need_c(configuration: Configuration, resource: Resource) -> None:
    two, protocol = (_net(configuration, resource, name) for name in ("allow-two-primaries", "protocol"))
    if two is not None and two.value and _text(protocol, "C") != "C":
        file, line = _place(resource, protocol, two)
        raise ConfigError(file, line, f"resource {resource.name}: allow-two-primaries needs protocol C, "
                                      f"found {_text(protocol, 'C')} (139)")


def congestion_needs_a(configuration: Configuration, resource: Resource) -> None:
    policy, protocol = (_net(configuration, resource, name) for name in ("on-congestion", "protocol"))
    if _text(policy, "block") != "block" and _text(protocol, "C") != "A":
        file, line = _place(resource, protocol, policy)
        raise ConfigError(file, line, f"resource {resource.name}: on-congestion {_text(policy, '')} needs protocol A, "
                                      f"found {_text(protocol, 'C')} (155)")


def stonith_not_with_a(configuration: Configuration, resource: Resource) -> None:
    protocol = _net(configuration, resource, "protocol")
    if _text(protocol, "C") != "A":
        return
    settings = [effective(configuration, resource, "disk", "fencing")]
    settings += [volume_setting(configuration, resource, host, number, "fencing")
                 for host in resource.hosts for number in _numbers(resource, host)]
    for fencing in settings:
        if _text(fencing, "") == "resource-and-stonith":
            file, line = _place(resource, fencing)
            raise ConfigError(file, line, f"resource {resource.name}: fencing resource-and-stonith does not go with "
                                          "protocol A (154)")


def primaries_are_hosts(configuration: Configuration, resource: Resource) -> None:
    found = effective(configuration, resource, "startup", "become-primary-on")
    if found is None or not names_in(found.value) or not resource.hosts:
        return
    two = _net(configuration, resource, "allow-two-primaries")
    known = {name for host in resource.hosts for name in host.names}
    for name in names_in(found.value):
        if name == "both":
            if two is None or not two.value:
                raise ConfigError(found.file, found.line, f"resource {resource.name}: become-primary-on both needs "
                                                          "allow-two-primaries")
        elif name not in known and known:
            raise ConfigError(found.file, found.line, f"resource {resource.name}: become-primary-on {shown(name)}; "
                              f"expected both or a host of the resource ({', '.join(sorted(known))})")


def resync_after_exists(configuration: Configuration, resource: Resource) -> None:
    """drbdadm warns and goes on; so do we."""
    for host in resource.hosts:
        for number in _numbers(resource, host):
            after = volume_setting(configuration, resource, host, number, "resync-after")
            if after is not None and after.text.split("/")[0] not in configuration.resources:
                text = f"{after.file}:{after.line}: resource {shown(after.text)} of resync-after is not known; ignored"
                if text not in configuration.warnings:
                    configuration.warnings.append(text)


def discarded_node_is_a_host(configuration: Configuration, resource: Resource) -> None:
    found = resource.settings("net").get("after-sb-0pri")
    known = sorted({name for host in resource.hosts for name in host.names})
    if found is None or not found.text.startswith(DISCARD_NODE) or not known:
        return
    if found.text.removeprefix(DISCARD_NODE) not in known:
        raise ConfigError(found.file, found.line, f"resource {resource.name}: after-sb-0pri {found.text} names no host "
                                                  f"of the resource; expected one of: {', '.join(known)}")


def patience_below_pings(configuration: Configuration, resource: Resource) -> None:
    """timeout should be less than ping-int and connect-int (drbd.conf(5)); only a warning."""
    timeout = _net(configuration, resource, "timeout")
    for name in ("connect-int", "ping-int"):
        other = _net(configuration, resource, name)
        tenths = timeout.value if timeout is not None else 60
        seconds = other.value if other is not None else 10
        if (timeout or other) and isinstance(tenths, int) and isinstance(seconds, int) and tenths >= seconds * 10:
            file, line = _place(resource, timeout, other)
            configuration.warnings.append(f"{file}:{line}: resource {resource.name}: timeout ({tenths} x 0.1 s) "
                                          f"should be less than {name} ({seconds} s)")


def nbd_listen_needs_the_direct_door(configuration: Configuration, resource: Resource) -> None:
    """nbdkit's door has its Unix socket only. And whoever opens a port to others shall know what that means."""
    for host in resource.hosts:
        found, door = (effective(configuration, resource, "replblock", name, host) for name in ("nbd-listen", "door"))
        if found is None or not isinstance(found.value, Address):
            continue
        if _text(door, "nbdkit") != "direct":
            raise ConfigError(found.file, found.line, f"resource {resource.name}: nbd-listen needs 'door direct', "
                              f"found {_text(door, 'nbdkit')}")
        text = (f"{found.file}:{found.line}: resource {resource.name}: NBD on {found.value} has no authentication: "
                "whoever reaches the port reads and writes the device while this node is Primary")
        if not found.value.is_loopback and text not in configuration.warnings:
            configuration.warnings.append(text)


def proxies_on_both_sides(configuration: Configuration, resource: Resource) -> None:
    without = [host for host in resource.hosts if host.proxy is None]
    if without and len(without) < len(resource.hosts):
        raise ConfigError(without[0].file, without[0].line, f"in resource {resource.name}, {without[0].title}: proxy "
                          "missing; either all host sections have one or none")


RULES: tuple[Callable[[Configuration, Resource], None], ...] = (
    protocol_needed, two_primaries_need_c, congestion_needs_a, stonith_not_with_a, primaries_are_hosts,
    discarded_node_is_a_host, proxies_on_both_sides, resync_after_exists, patience_below_pings,
    nbd_listen_needs_the_direct_door)
