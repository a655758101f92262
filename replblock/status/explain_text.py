# SPDX-License-Identifier: GPL-2.0-or-later
"""An explanation as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Any

from replblock.status.progress import human_kib

WIDTH = 80
SLOTS = ("current", "bitmap", "history", "older")
SIDES = ("here", "there")
NO_CONNECTION = "no connection, nothing is discarded"

Made = Mapping[str, Any]


def render(made: Made) -> str:
    """All of it, with a newline at the end."""
    return "\n".join(_lines(made)) + "\n"


def _lines(made: Made) -> Iterator[str]:
    names = _names(made)
    yield _title(made)
    yield from _decisions(made)
    yield from _data(made, names)
    if made["forecast"]:
        yield from _forecast(made, names)
        yield from _losses(made, names)
        yield from _policies(made, names)
        yield from _ways(made)
    for note in made["notes"]:
        yield ""
        yield from _wrapped(note, "Note: ", "      ")


def _names(made: Made) -> dict[str, str]:
    """What the sides are called: the node's name, but for two of the same."""
    found = {side: str(made[side]["name"]) for side in SIDES if made[side]}
    if len(set(found.values())) < len(found):
        return {side: side for side in SIDES}
    return found


def _wrapped(text: str, first: str = "  ", rest: str = "  ") -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _title(made: Made) -> str:
    what = made["resource"] or "two metadata sets"
    return f"{what}: {made['connection']}" if made["connection"] else f"{what}"


def when(unix_ms: int | None) -> str:
    """Local time, to the second."""
    return "?" if unix_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_ms / 1000))


def _decisions(made: Made) -> Iterator[str]:
    if made["from"] != "live":
        return
    yield ""
    yield "What was decided so far, newest last:"
    for item in made["decisions"]:
        at = f"{when(item['time-ms'])} " if item.get("time-ms") else ""
        yield from _wrapped(f"{at}{item['rule']}: {item['text']}", "  ", "    ")
    if not made["decisions"]:
        yield "  no decision was needed yet"


def _data(made: Made, names: Mapping[str, str]) -> Iterator[str]:
    if not names:
        return
    yield ""
    yield "The data, by its generations (bit 0 of the last digit: was Primary):"
    for side in SIDES:
        node = made[side]
        if node is None:
            continue
        crashed = ", crashed as Primary" if node["crashed-primary"] else ""
        heard = f", as of {when(node['heard-ms'])}" if node["heard-ms"] else ""
        role = f"{node['role']} " if made["from"] == "live" else ""
        place = f" ({side})" if names[side] != side else ""
        yield from _wrapped(f"{names[side]}{place}: {role}{node['disk']}{crashed}{heard}")
        for first, second in (("current", "bitmap"), ("history", "older")):
            at = SLOTS.index(first)
            yield f"    {first:<8}{node['uuids'][at]}   {second:<7}{node['uuids'][at + 1]}"
        yield f"    {_blocks(node['marked-blocks'])} marked as different from the peer"


def _blocks(count: int) -> str:
    if not count:
        return "no blocks"
    return f"{count} block{'' if count == 1 else 's'} of 4 KiB ({human_kib(4 * count)})"


def _forecast(made: Made, names: Mapping[str, str]) -> Iterator[str]:
    found = made["forecast"]
    yield ""
    again = made["from"] == "live" and made["connection"] == "Connected"
    yield f"If they {'had to connect anew' if again else 'connected'} now:"
    yield f"  rule {found['rule']} (DRBD's rule {found['drbd-rule']}, uuid_compare {found['drbd-result']})"
    yield from _wrapped(found["meaning"], "    ", "    ")
    if found["split-brain"]:
        policy = found["policy"]
        count = ("no node is", "one node is", "both nodes are")[found["primaries"]]
        value = policy["value"] or "not known (name the resource, too); taken as disconnect"
        yield from _wrapped(f"{count} Primary, so {policy['option']} counts; it is {value}")
    for outcome in (found["outcome"], found["otherwise"]):
        if outcome is not None:
            yield from _wrapped(f"=> {_end(outcome, made, names)}", "  ", "     ")
            if outcome["rule"] != found["rule"]:
                yield from _wrapped(f"rule {outcome['rule']}: {outcome['meaning']}", "     ", "     ")


    wrote = found["if-peer-wrote"]
    if wrote:
        yield f"  but {names['there']} was Primary when the nodes parted; if it has written since:"
        ends = [_wrote(one, names) for one in (wrote["outcome"], wrote["otherwise"]) if one is not None]
        more = ", depending on how much" if len(ends) > 1 else ""
        yield from _wrapped(f"=> rule {wrote['rule']}: {' or '.join(ends)}{more}", "  ", "     ")


def _wrote(outcome: Made, names: Mapping[str, str]) -> str:
    if outcome["discards"]:
        return f"{names[outcome['discards']]} loses its changes"
    target = {"sync-from-here": "there", "sync-to-here": "here"}.get(outcome["what"])
    if target is None:
        return NO_CONNECTION if outcome["what"] == "no-connection" else "connected, nothing is copied"
    return f"{names[target]} is brought up to date"


def _end(outcome: Made, made: Made, names: Mapping[str, str]) -> str:
    """One outcome in words."""
    what = outcome["what"]
    if what == "no-connection":
        who = " and ".join(names[side] for side in outcome["refused-by"])
        return f"no connection: {who} refuse{'s' if len(outcome['refused-by']) == 1 else ''}; nothing is discarded"
    if what == "connected":
        kept = outcome["stays-marked-blocks"]
        return f"connected, {_blocks(kept)} stay marked" if kept else "connected, nothing is copied"
    source, target = SIDES if what == "sync-from-here" else SIDES[::-1]
    blocks = sum(made[side]["marked-blocks"] for side in SIDES)
    much = "everything" if outcome["full-sync"] else f"at most {_blocks(blocks)}" if blocks else "nothing"
    text = f"{names[source]} is the source, {names[target]} gets {much}"
    if outcome["gives-up-primary"]:
        text += f"; {names[outcome['gives-up-primary'][0]]} gives up its role first"
    return text + (f"; what {names[target]} changed is discarded" if outcome["discards"] else "")


def _losses(made: Made, names: Mapping[str, str]) -> Iterator[str]:
    if all(made[side]["loses"]["bound"] == "none" for side in SIDES):
        return
    yield ""
    yield "What each side loses if the other one's data is taken:"
    wide = max(len(names[side]) for side in SIDES)
    for side in SIDES:
        yield from _wrapped(f"{names[side]:<{wide}}  {_loss(made[side])}", "  ", " " * (wide + 4))


def _loss(node: Made) -> str:
    loss = node["loses"]
    if loss["bound"] == "none":
        return "nothing"
    much = f"everything, up to {_blocks(loss['blocks'])}" if loss["bound"] == "everything" else (
        f"{loss['bound'].replace('-', ' ')} {_blocks(loss['blocks'])}")
    if node["since-ms"]:
        return f"{much}, written since {when(node['since-ms'])}"
    if node["not-before-ms"]:
        return f"{much}, written after {when(node['not-before-ms'])}, when the nodes parted"
    return f"{much}, since when is not known"


def _policies(made: Made, names: Mapping[str, str]) -> Iterator[str]:
    """Rows that lean on after-sb-0pri are joined where they end the same way."""
    options = made["options"] or {}
    by_class: dict[tuple[str, ...], list[Made]] = {}
    for row in made["policies"]:
        by_class.setdefault(tuple(row["primary"]), []).append(row)
    for primary, rows in by_class.items():
        who = " and ".join(names[side] for side in primary)
        yield ""
        yield f"What every {rows[0]['option']} would do ({f'Primary: {who}' if who else 'no Primary'}):"
        for value in dict.fromkeys(row["value"] for row in rows):
            mark = "*" if value == options.get(rows[0]["option"]) else " "
            ends: dict[str, list[str]] = {}
            for row in rows:
                if row["value"] == value:
                    ends.setdefault(_short(row, names), []).append(row["after-sb-0pri"] or "")
            yield from _policy(mark, value, ends, options.get("after-sb-0pri"))
    if options and by_class:
        yield "  (* as configured)"


def _policy(mark: str, value: str, ends: Mapping[str, list[str]], zero: str | None) -> Iterator[str]:
    head = f"{mark} {value:<23} "
    for end, zeros in ends.items():
        named = [name + ("*" if name == zero and mark == "*" else "") for name in zeros if name]
        text = f"{end}, if after-sb-0pri is {' or '.join(named)}" if named else end
        yield from _wrapped(text, head, " " * 26)
        head = " " * 26


def _short(row: Made, names: Mapping[str, str]) -> str:
    ends = [_brief(one, names) for one in (row["outcome"], row["otherwise"]) if one is not None]
    return " or ".join(dict.fromkeys(ends)) + (", by chance" if len(ends) > 1 else "")


def _brief(outcome: Made, names: Mapping[str, str]) -> str:
    if outcome["rule"] == "state-not-allowed":
        return "no connection: two Primaries are not allowed"
    if outcome["what"] == "no-connection":
        return NO_CONNECTION
    if not outcome["discards"]:
        return "connects"
    demoted = ", gives up its role" if outcome["gives-up-primary"] else ""
    return f"{names[outcome['discards']]} loses its changes{demoted}"


def _ways(made: Made) -> Iterator[str]:
    for way in made["ways-out"]:
        yield ""
        yield f"To {way['text']}:"
        lines = [f"on {step['node']}: {step['command']}" for step in way["steps"]]
        wide = max(len(line) for line in lines)
        for line, step in zip(lines, way["steps"]):
            if not step["only-if"]:
                yield f"  {line}"
            elif wide + len(step["only-if"]) + 9 <= WIDTH:
                yield f"  {line:<{wide}}  # if {step['only-if']}"
            else:
                yield f"  # if {step['only-if']}:"
                yield f"  {line}"
