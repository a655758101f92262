# SPDX-License-Identifier: GPL-2.0-or-later
"""A configuration as text, laid out as `drbdadm-84 dump` and `drbdadm-83 dump` lay it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .addresses import IPV4_LIKE
from .lexer import in_quotes, quoted
from .model import Address, Configuration, Device, HostSection, MetaDisk, Resource, Scope, Settings, Volume
from .options import ADDRESS, BOOL, FLAG, NAMES, names_in
from .resolve import volume_of
from .values import Setting
from .vocabulary import RESERVED

NAME_WIDTH = 24  # where values begin, counted from the left edge, less the blank
FORM_84 = ("options", "net", "disk", "startup", "proxy", "handlers", "replblock")
FORM_83 = ("net", "disk", "syncer", "startup", "proxy", "handlers", "replblock")

# Shown by drbdadm-84 unless they have these values, whatever its own defaults are.
QUIET_TIMEOUTS = {"cmd-timeout-short": (5, 5), "cmd-timeout-medium": (600, 121), "cmd-timeout-long": (0, 600)}


def dump(configuration: Configuration, host_name: str, addresses: Iterable[str] = (), *, dialect: str | None = None,
         without_ours: bool = False, resources: Iterable[str] | None = None) -> str:
    """The configuration as seen from a node.

    dialect: "8.4" prints any configuration in 8.4's words; "8.3" only one that is 8.3 style (ValueError otherwise);
    None: as the files are. without_ours: nothing that drbdadm would refuse. resources: only those, without the
    global and common sections.
    """
    form = dialect or configuration.dialect
    if form == "8.3" and configuration.dialect != "8.3":
        raise ValueError("only an 8.3 style configuration can be printed in 8.3 words")
    printer = Printer(configuration, host_name, tuple(addresses), form, without_ours)
    return "\n".join(printer.lines(None if resources is None else list(resources))) + "\n"


class Printer:
    """Lines of one dump."""

    def __init__(self, configuration: Configuration, host_name: str, addresses: tuple[str, ...], form: str,
                 without_ours: bool) -> None:
        self.configuration = configuration
        self.host_name = host_name
        self.addresses = addresses
        self.here = set(configuration.resource_names(host_name, addresses))
        self.old = form == "8.3"
        self.without_ours = without_ours

    def lines(self, wanted: list[str] | None) -> Iterator[str]:
        if wanted is None:
            yield f"# {self.configuration.file}"
            yield from self.globals()
            if self.configuration.common is not None:
                yield from ("common {", *self.sections(self.configuration.common), "}", "")
        for name, resource in self.configuration.resources.items():
            if wanted is None or name in wanted:
                yield from self.resource(resource)

    # -- global

    def globals(self) -> Iterator[str]:
        made = self.configuration.globals or Settings()
        body = []
        for name in ("disable-ip-verification", "minor-count", "dialog-refresh", "usage-count"):
            item = made.get(name)
            if item is None or (name == "dialog-refresh" and item.value == 1):
                continue
            if name == "usage-count" and (self.old or item.value == "ask"):
                continue
            body.append(f"    {name};" if item.option.kind == FLAG else f"    {name} {item.value};")
        if not body:
            return
        if not self.old:
            for name, (default, quiet) in QUIET_TIMEOUTS.items():
                item = made.get(name)
                value = item.value if item is not None else default
                if value != quiet:
                    body.append(f"    {name} {value};")
        yield from ("global {", *body, "}", "")

    # -- resources

    def resource(self, resource: Resource) -> Iterator[str]:
        yield (f"# resource {_name(resource.name)} on {self.host_name}: {self._part(resource)}")
        if not self.old:
            yield f"# defined at {resource.file}:{resource.line}"
        yield f"resource {_name(resource.name)} {{"
        if self.old:
            yield from (f"    {'protocol':<22} {item.value};" for item in _written(resource, "resource"))
        for host in resource.hosts:
            yield from self.host(resource, host)
        yield from self.sections(resource, with_protocol=False)
        yield from ("}", "")

    def _part(self, resource: Resource) -> str:
        host = resource.host_of(self.host_name, self.addresses)
        if host is None or self.host_name in resource.ignore_on:
            return "ignored, not stacked"
        return "not ignored, stacked" if host.kind == "stacked" else "not ignored, not stacked"

    def sections(self, scope: Scope, with_protocol: bool = True) -> Iterator[str]:
        if self.old and with_protocol:
            yield from (f"    {'protocol':<22} {item.text};" for item in _written(scope, "resource"))
        for name in FORM_83 if self.old else FORM_84:
            if name == "replblock" and self.without_ours:
                continue
            plugins = scope.sections.get(name, Settings()).plugins
            items = _written(scope, name) if self.old else scope.sections.get(name, Settings()).items
            if isinstance(scope, Resource):
                items = [item for item in items if not self._waits_for_a_stranger(item)]
            yield from self.section(name, items, plugins, 4)

    def _waits_for_a_stranger(self, item: Setting) -> bool:
        """resync-after of a resource that is not this node's means nothing here; drbdadm drops it."""
        return item.name == "resync-after" and item.text.split("/")[0] not in self.here

    def section(self, name: str, items: list[Setting], plugins: list[tuple[str, ...]], indent: int) -> Iterator[str]:
        body = [self.option(item, indent + 4) for item in items if item.option.kind not in (FLAG, NAMES)]
        for kind in (FLAG, NAMES):  # drbdadm prints these last, and only the last of each
            last = {item.name: item for item in items if item.option.kind == kind}
            body += [self.option(item, indent + 4) for item in last.values()]
        if plugins:
            body += [f"{'':{indent + 4}}plugin {{", *(f"{'':{indent + 8}}{' '.join(line)};" for line in plugins),
                     f"{'':{indent + 4}}}}"]
        if body:
            yield from (f"{'':{indent}}{name} {{", *body, f"{'':{indent}}}}")

    def option(self, item: Setting, indent: int) -> str:
        width = NAME_WIDTH - indent
        if self.old and item.option.kind in (BOOL, FLAG) and item.bare:
            return f"{'':{indent}}{item.spelled};"
        if item.option.kind == FLAG:
            return f"{'':{indent}}{item.name};"
        name = item.spelled if self.old else item.name
        if item.option.kind == NAMES:
            return f"{'':{indent}}{name:<{width}} {' '.join(_name(one) for one in names_in(item.value)):>3};"
        text = item.text if item.option.kind in (BOOL, ADDRESS) else _word(item.text)
        if item.name == "protocol":
            text = str(item.value)  # 8.4 prints a lower case letter as upper
        return f"{'':{indent}}{name:<{width}} {text:>3};"

    # -- hosts

    def host(self, resource: Resource, host: HostSection) -> Iterator[str]:
        assert host.address is not None
        yield f"    {_title(host)} {{"
        if host.kind == "stacked":
            yield f"        # on {' '.join(host.names)} "
        if not self.old:
            yield from self.section("options", host.sections.get("options", Settings()).items, [], 8)
        for number in sorted({*resource.volumes, *host.volumes}):
            volume = volume_of(resource, host, number)
            if volume.implicit:
                yield from self.volume(host, volume, 8)
            else:
                yield from (f"        volume {number} {{", *self.volume(host, volume, 12), "        }")
        if host.kind != "floating" and not self.old:
            yield f"        {'address':<16} {_address(host.address)};"
        yield from self._proxy(host)
        if not self.without_ours:
            yield from self.section("replblock", host.sections.get("replblock", Settings()).items, [], 8)
        yield "    }"

    def volume(self, host: HostSection, volume: Volume, indent: int) -> Iterator[str]:
        width = NAME_WIDTH - indent
        pad = " " * indent
        if not self.old:
            items = [item for item in volume.settings.items if not self._waits_for_a_stranger(item)]
            yield from self.section("disk", items, [], indent)
        if volume.device is not None:
            yield f"{pad}{'device':<{width}} {self._device(volume.device)};"
        if volume.disk is not None:
            yield f"{pad}{'disk':<{width}} {_word(volume.disk)};"
        if self.old and host.kind != "floating" and host.address is not None:
            yield f"{pad}{'address':<{width}} {_address(host.address)};"
        if volume.meta_disk is not None:
            yield f"{pad}{self._meta_disk(volume.meta_disk, width)};"

    def _device(self, device: Device) -> str:
        if device.name is None or (self.without_ours and device.nbd is not None):
            return f"minor {device.minor}"
        return f"{_word(device.name)} minor {device.minor}"

    def _meta_disk(self, meta: MetaDisk, width: int) -> str:
        if meta.kind == "internal" or meta.path is None:
            return f"{'meta-disk':<{width}} internal"
        if meta.kind == "indexed":
            return f"{'meta-disk':<16} {_word(meta.path)} [{meta.index}]"
        return f"{'flexible-meta-disk' if self.old else 'meta-disk':<16} {_word(meta.path)}"

    def _proxy(self, host: HostSection) -> Iterator[str]:
        if host.proxy is None:
            return
        yield f"        proxy on {' '.join(_name(name) for name in host.proxy.names)} {{"
        yield f"            {'inside':<16} {_address(host.proxy.inside)};"
        yield f"            {'outside':<16} {_address(host.proxy.outside)};"
        yield from self.section("options", host.proxy.settings.items, [], 12)
        yield "        }"


def _word(text: str) -> str:
    """A value. Unlike drbdadm we keep the quotes where a bare word would be read as something else."""
    return in_quotes(text) if text in RESERVED or IPV4_LIKE.fullmatch(text) else quoted(text)


def _name(text: str) -> str:
    """The name of a resource or host; here a number needs quotes, too."""
    return in_quotes(text) if text == "on" or text.isdigit() else _word(text)


def _title(host: HostSection) -> str:
    if host.kind == "floating":
        assert host.address is not None
        return f"floating {_address(host.address)}"
    if host.kind == "stacked":
        return f"stacked-on-top-of {_name(host.lower or '')}"
    return "on " + " ".join(_name(name) for name in host.names)


def _address(address: Address) -> str:
    return f"{address.family} {address}"


def _written(scope: Scope, name: str) -> list[Setting]:
    """The settings that stood in that section of the 8.3 file, wherever the model keeps them; in file order."""
    return [item for item in scope.written if item.section_written == name]
