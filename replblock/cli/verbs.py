# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of verbs. Usage, help, completion, `hidden-commands` and the parser are made from it.

Names, aliases and the rule which verbs take `RES/VOL` are drbdadm's (drbd-utils, drbdadm(8) for 8.4); our own verbs
stand in the group OWN.
"""

from __future__ import annotations

from typing import NamedTuple

# what a verb works on
NONE = "none"  # takes no resource
ANY = "any"  # resources are optional: without one, all of the configuration
RESOURCE = "resource"  # needs RES… or all; a volume is refused
VOLUME = "volume"  # needs RES[/VOL]… or all
WORD = "word"  # takes words of its own

# groups, in the order of the usage text
MAIN = "commands"
OWN = "replblock's own"
SHELL = "for shell scripts"
EXPERT = "for experts"


class Option(NamedTuple):
    """One option of a verb. `value` is the name of its argument, empty for a switch."""

    name: str
    help: str
    value: str = ""
    short: str = ""
    """One letter, understood only after `--` (8.3's backend options)."""
    same_as: str = ""
    """Name of the option this one is another spelling of."""


class Verb(NamedTuple):
    """One row: `function` of module replblock.cli.`module` carries it out."""

    name: str
    module: str
    needs: str
    help: str
    options: tuple[Option, ...] = ()
    group: str = MAIN
    live: bool = False
    """True if a running resource can be asked without reading the configuration."""
    prints: bool = False
    """True if it changes nothing, so that --dry-run carries it out like any other run."""
    alias_of: str = ""
    more: tuple[str, ...] = ()
    """Further lines of its help."""

    @property
    def function(self) -> str:
        return (self.alias_of or self.name).replace("-", "_")


FORCE = Option("--force", "do it even if data may be lost", short="f")
OVERWRITE = Option("--overwrite-data-of-peer", "8.3's name of --force", short="o", same_as="--force")
DISCARD = Option("--discard-my-data", "in a split brain, give up the changes made here", short="D")
TENTATIVE = Option("--tentative", "find out what a connection would do, then disconnect")
JSON = Option("--json", "as JSON, with the keys of drbdsetup status --json")
WAITS = (
    Option("--wfc-timeout", "give up after so many seconds (0: never)", "SECONDS", "t"),
    Option("--degr-wfc-timeout", "the same if the cluster was degraded before", "SECONDS", "d"),
    Option("--outdated-wfc-timeout", "the same if the peer was outdated", "SECONDS", "o"),
    Option("--wait-after-sb", "go on waiting after a split brain", short="w"),
)
STATUS = (
    JSON,
    Option("--verbose", "also what is usually uninteresting"),
    Option("--statistics", "also counters"),
    Option("--color", "accepted; the text has no colours", "WHEN"),
)
EVENTS = (
    Option("--now", "stop after the present state"),
    Option("--timestamps", "put the time before every line"),
    Option("--statistics", "also counters"),
    Option("--json", "one JSON object a line"),
)
CLEAR_BITMAP = Option("--clear-bitmap", "both disks are known to hold the same: skip the initial sync", short="c")
VERIFY = (Option("--start", "begin at this sector", "SECTOR"), Option("--stop", "end at this sector", "SECTOR"))
RESIZE = (
    Option("--size", "this size instead of the largest possible", "SIZE"),
    Option("--assume-clean", "do not synchronise the new area"),
    Option("--assume-peer-has-space", "resize while not connected"),
)
RESIZE_MORE = (
    "Enlarge the disks below both nodes first (lvextend, truncate), then run it on one of",
    "them while they are connected and one is Primary. Internal metadata moves to the new",
    "end. What is new is copied from the Primary. Nothing ever shrinks. docs/resync.md",
)
CHECK_RESIZE = (Option("--was", "the disk's former size, if nobody remembers it", "SIZE"),)
EXPLAIN = (
    Option("--json", "as JSON, schema replblock-explain/1 (docs/explain.md)"),
    Option("--images", "of two metadata sets instead: explain --images ONE OTHER [RESOURCE]"),
)
EXPLAIN_MORE = (
    "Of a running resource: what was decided, what would happen if the nodes connected",
    "now, and how to get out of a split brain. With --images the same of two metadata",
    "sets, for every combination of roles; RESOURCE lends its after-sb policies.",
    "ONE and OTHER are, in any mixture:",
    "  a disk or an image of one     internal metadata, or external: FILE[flexible],",
    "                                FILE[INDEX]",
    "  the text of dump-md           replctl's or drbdmeta's; with the line of get-gi in",
    "                                the same file its flags are known, too",
    "  the text of explain --json    of the other node, while it runs there",
    "  a resource of this node       running or down",
    "  -                             one of the texts, from standard input",
    "Nothing is changed. Example, with the peer's resource down:",
    "  ssh beta replctl dump-md r0 | replctl explain --images r0 - r0",
)
SUPERVISED = Option("--supervised", "be the engine, for a supervisor, instead of leaving one behind")
INSTALL = (
    Option("--prefix", "below this directory instead of /", "DIR"),
    Option("--remove", "take out what was put there"),
    Option("--force", "set aside, as NAME.before-replblock, what is in the way"),
)
RESTART = (
    Option("--crashed", "only if it died: what is running well is left alone"),
    Option("--leave", "only end the engine, whose supervisor starts the next one"),
)
RESTART_MORE = (
    "With a kernel nbd device. Its users wait; they go on where they were unless the peer",
    "was promoted or its data moved on meanwhile: then the device fails, and must be",
    "unmounted. A peer that was connected is waited for half a minute.",
)
TERSE = Option("--drbd", "leave out what only replblock understands")

VERBS: tuple[Verb, ...] = (
    Verb("up", "lifecycle", VOLUME, "start a resource: attach its disk, look for its peer"),
    Verb("down", "lifecycle", RESOURCE, "stop a resource: disconnect, detach, end its process", live=True),
    Verb("attach", "lifecycle", VOLUME, "attach the backing disk"),
    Verb("detach", "lifecycle", VOLUME, "detach the backing disk", (FORCE,), live=True),
    Verb("connect", "lifecycle", RESOURCE, "look for the peer and connect", (DISCARD, TENTATIVE)),
    Verb("disconnect", "lifecycle", RESOURCE, "leave the peer and stop looking for it", (FORCE,), live=True),
    Verb("adjust", "lifecycle", RESOURCE, "make what runs follow the configuration"),
    Verb("primary", "roles", VOLUME, "make the device usable on this node", (FORCE, OVERWRITE), live=True),
    Verb("secondary", "roles", VOLUME, "give the device up on this node", live=True),
    Verb("status", "show", ANY, "state of resources, as text or JSON", STATUS, live=True, prints=True),
    Verb("role", "show", VOLUME, "roles, LOCAL/PEER", live=True),
    Verb("cstate", "show", VOLUME, "connection state", live=True),
    Verb("dstate", "show", VOLUME, "disk states, LOCAL/PEER; of the metadata while down", live=True),
    Verb("dump", "configuration", ANY, "the configuration as understood", (TERSE,), prints=True),
    Verb("create-md", "metadata", VOLUME, "write fresh metadata", (FORCE,)),
    Verb("show-gi", "metadata", VOLUME, "data generation identifiers, explained", live=True),
    Verb("get-gi", "metadata", VOLUME, "data generation identifiers, on one line", live=True),
    Verb("dump-md", "metadata", VOLUME, "the whole metadata as text", (FORCE,)),
    Verb("wipe-md", "metadata", VOLUME, "destroy the metadata", (FORCE,)),
    Verb("apply-al", "metadata", VOLUME, "note in the bitmap what a crash left in the activity log"),
    Verb("invalidate", "data", VOLUME, "distrust the data here: copy everything from the peer"),
    Verb("invalidate-remote", "data", VOLUME, "distrust the peer's data: copy everything to it", live=True),
    Verb("outdate", "data", VOLUME, "mark the data here as outdated"),
    Verb("verify", "data", VOLUME, "compare both disks while in use", VERIFY, live=True),
    Verb("pause-sync", "data", VOLUME, "pause a resynchronisation", live=True),
    Verb("resume-sync", "data", VOLUME, "let a paused resynchronisation go on", live=True),
    Verb("suspend-io", "data", VOLUME, "freeze all I/O until resume-io", live=True),
    Verb("resume-io", "data", VOLUME, "let frozen I/O go on, also if the peer could not be fenced", live=True),
    Verb("resize", "data", VOLUME, "grow in use, after the backing disks did", RESIZE, live=True, more=RESIZE_MORE),
    Verb("wait-connect", "waits", VOLUME, "wait until connected; exit 5 after the time-out", WAITS),
    Verb("wait-sync", "waits", VOLUME, "wait until in sync; exit 5 after the time-out", WAITS),
    Verb("wait-con-int", "waits", NONE, "wait for all peers; a user may end the waiting", WAITS),
    Verb("events2", "events", ANY, "follow what happens, as drbdsetup events2", EVENTS, live=True, prints=True),
    Verb("proc", "show", NONE, "what /proc/drbd would say", prints=True),
    Verb("hidden-commands", "texts", NONE, "the commands that stand in no usage text", prints=True),
    Verb("help", "texts", WORD, "help on a command", prints=True),
    Verb("watch", "own", ANY, "a live view of resources", group=OWN, prints=True),
    Verb("explain", "explain", RESOURCE, "which rule decides between two data sets, and what each side would lose",
         EXPLAIN, group=OWN, live=True, prints=True, more=EXPLAIN_MORE),
    Verb("metrics", "own", ANY, "counters in Prometheus' text format", group=OWN, prints=True),
    Verb("restart", "restart", RESOURCE, "start the engine anew under a mounted file system", RESTART, group=OWN,
         more=RESTART_MORE),
    Verb("sh-nbd", "shell", RESOURCE, "the NBD URIs of the resource on this node", group=OWN, prints=True),
    Verb("demo", "demo", WORD, "two nodes on this machine: replicate, fail over, resynchronise", group=OWN),
    Verb("install-scripts", "install", NONE, "put resource script, drbdadm link, manual pages and units in place",
         INSTALL, group=OWN, prints=True),  # it sees to --dry-run itself
    Verb("manual", "manual", WORD, "a manual page as roff: replctl manual replctl.8", group=OWN, prints=True),
    Verb("completion", "completion", WORD, "completion script: replctl completion bash", group=OWN, prints=True),
    # ---- hidden: for shell scripts
    Verb("sh-nop", "shell", NONE, "only check the configuration", group=SHELL, prints=True),
    Verb("sh-resources", "shell", NONE, "names of this node's resources", group=SHELL, prints=True),
    Verb("sh-resource", "shell", RESOURCE, "name of the resource", group=SHELL, prints=True),
    Verb("sh-mod-params", "shell", NONE, "parameters of the module that is not needed", group=SHELL, prints=True),
    Verb("sh-mod-parms", "shell", NONE, "the same", group=SHELL, prints=True, alias_of="sh-mod-params"),
    Verb("sh-dev", "shell", VOLUME, "device names", group=SHELL, prints=True),
    Verb("sh-minor", "shell", VOLUME, "minor numbers", group=SHELL, prints=True),
    Verb("sh-ll-dev", "shell", VOLUME, "backing disks", group=SHELL, prints=True),
    Verb("sh-md-dev", "shell", VOLUME, "disks that hold the metadata", group=SHELL, prints=True),
    Verb("sh-md-idx", "shell", VOLUME, "where in them: internal, flexible or a number", group=SHELL, prints=True),
    Verb("sh-ip", "shell", VOLUME, "own addresses", group=SHELL, prints=True),
    Verb("sh-lr-of", "shell", VOLUME, "the resource below a stacked one", group=SHELL, prints=True),
    Verb("sh-b-pri", "shell", VOLUME, "become primary where become-primary-on says so", group=SHELL),
    Verb("sh-status", "shell", ANY, "state as shell assignments", group=SHELL, prints=True),
    # ---- hidden: for experts
    Verb("adjust-with-progress", "lifecycle", RESOURCE, "adjust, for init scripts", group=EXPERT),
    Verb("new-resource", "lifecycle", RESOURCE, "only start the engine: no disk, no peer", (SUPERVISED,),
         group=EXPERT),
    Verb("new-minor", "lifecycle", RESOURCE, "the same: a minor is no object of its own", group=EXPERT,
         alias_of="new-resource"),
    Verb("sh-new-minor", "lifecycle", RESOURCE, "the same", group=EXPERT, alias_of="new-resource"),
    Verb("new-current-uuid", "data", VOLUME, "begin a new data generation", (CLEAR_BITMAP,), group=EXPERT, live=True),
    Verb("check-resize", "data", VOLUME, "move internal metadata after the disk grew", CHECK_RESIZE, group=EXPERT),
    Verb("dump-xml", "configuration", ANY, "the configuration as XML", group=EXPERT, prints=True),
    Verb("state", "show", VOLUME, "old name of role", group=EXPERT, live=True, alias_of="role"),
    Verb("syncer", "lifecycle", RESOURCE, "8.3's name of adjust", group=EXPERT, alias_of="adjust"),
    Verb("net-options", "lifecycle", RESOURCE, "adjust the connection's options", group=EXPERT, alias_of="adjust"),
    Verb("disk-options", "lifecycle", VOLUME, "adjust the disk's options", group=EXPERT, alias_of="adjust"),
    Verb("resource-options", "lifecycle", RESOURCE, "adjust the resource's options", group=EXPERT, alias_of="adjust"),
)

BY_NAME: dict[str, Verb] = {verb.name: verb for verb in VERBS}


class General(NamedTuple):
    """An option that every verb takes, before or after it."""

    long: str
    short: str
    value: str
    help: str


GENERAL: tuple[General, ...] = (
    General("--config-file", "-c", "FILE", "read this configuration"),
    General("--config-to-test", "-t", "FILE", "check this file too (dump, sh-nop)"),
    General("--dry-run", "-d", "", "print the commands, one a line, and do nothing"),
    General("--sh-varname", "-n", "VAR", "with -d: a line VAR=RES before each resource's commands"),
    General("--host", "", "NAME", "be this node (default: $REPLBLOCK_HOST, uname -n)"),
    General("--stacked", "-S", "", "work on stacked resources (there are none)"),
    General("--verbose", "-v", "", "say what is done"),
    General("--peer", "-P", "NAME", "accepted: there is one peer"),
    General("--setup-option", "-W", "OPTION", "an option for the command itself, as after --"),
    General("--drbdsetup", "-s", "FILE", "accepted and ignored"),
    General("--drbdmeta", "-m", "FILE", "accepted and ignored"),
    General("--drbd-proxy-ctl", "-p", "FILE", "accepted and ignored"),
    General("--version", "-V", "", "versions, as shell assignments"),
    General("--help", "-h", "", "this text, or that of a command"),
)
