# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has the last word on an option: volume > host > resource > common > built-in default."""

from __future__ import annotations

from .model import Configuration, HostSection, Resource, Settings, Volume
from .values import Setting


def effective(configuration: Configuration, resource: Resource, section: str, name: str,
              host: HostSection | None = None) -> Setting | None:
    """The setting of an option that is not a volume's; None: the default holds."""
    places = (host.sections.get(section) if host else None, resource.sections.get(section),
              configuration.common.sections.get(section) if configuration.common else None)
    return _first(places, name)


def volume_setting(configuration: Configuration, resource: Resource, host: HostSection, number: int,
                   name: str) -> Setting | None:
    """The setting of a disk option for one volume on one host."""
    own, general = host.volumes.get(number), resource.volumes.get(number)
    shared = configuration.common.volumes.get(number) if configuration.common else None
    places = (own.settings if own else None, general.settings if general else None, resource.sections.get("disk"),
              shared.settings if shared else None,
              configuration.common.sections.get("disk") if configuration.common else None)
    return _first(places, name)


def _first(places: tuple[Settings | None, ...], name: str) -> Setting | None:
    for place in places:
        found = place.get(name) if place is not None else None
        if found is not None:
            return found
    return None


def volume_of(resource: Resource, host: HostSection, number: int) -> Volume:
    """The volume as this host has it: what its own section leaves out comes from the resource's.

    Raises KeyError if neither speaks of it.
    """
    own, general = host.volumes.get(number), resource.volumes.get(number)
    if own is None or general is None:
        found = own or general
        if found is None:
            raise KeyError(number)
        return found
    stacked = host.kind == "stacked"  # has no disk of its own: it stands on the lower resource's device
    return Volume(
        number, own.file, own.line, own.device or general.device,
        None if stacked else own.disk if own.disk is not None else general.disk,
        None if stacked else own.meta_disk or general.meta_disk,
        Settings([*general.settings.items, *own.settings.items]), own.implicit)
