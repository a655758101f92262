# SPDX-License-Identifier: GPL-2.0-or-later
"""Every option of drbd.conf in one table: the parser, the views, the documentation and the completion read it.

Sections, ranges and units are those of DRBD 8.4 (`drbdsetup-84 xml-help`, `drbdadm-84 dump`) and 8.3
(`drbdsetup-83 xml`, `drbdadm-83 dump`); the tests hold the table against these tools.
"""

from __future__ import annotations

from typing import NamedTuple

from .addresses import Address

Value = int | bool | str | tuple[str, ...] | Address | None


def names_in(value: Value) -> tuple[str, ...]:
    """The host names that an option of kind names has."""
    return value if isinstance(value, tuple) and not isinstance(value, Address) else ()


NUMBER, INTEGER, BOOL, ENUM, TEXT, NAMES, FLAG, WORD, ADDRESS = (
    "number", "integer", "bool", "enum", "text", "names", "flag", "word", "address")


class Option(NamedTuple):
    """One row. `unit` is what a value counts in; `scale` what a number without suffix means: "1", "k" or "s".

    kind: number (suffix K, M, G or s allowed), integer (digits only), bool, enum (one of `words`), text (any
    string), names (host names), flag (stands alone), word (enum written as one of `words` only, unquoted), address
    (ADDRESS:PORT or none).
    section_83 None: DRBD 8.3 has no such option. support "accepted": read and shown, but replblock does not act on it.
    """

    name: str
    section: str
    kind: str
    default: Value
    meaning: str
    unit: str = ""
    scale: str = "1"
    minimum: int = 0
    maximum: int = 0
    words: tuple[str, ...] = ()
    since: str = "8.3"
    support: str = "yes"
    section_83: str | None = None
    name_83: str = ""
    default_83: Value = None
    minimum_83: int = 0
    maximum_83: int = 0
    negated_83: bool = False

    def range(self, dialect: str) -> tuple[int, int]:
        return (self.minimum_83, self.maximum_83) if dialect == "8.3" else (self.minimum, self.maximum)

    def default_of(self, dialect: str) -> Value:
        """The built-in default. Options 8.3 lacks keep their 8.4 default under 8.3."""
        return self.default_83 if dialect == "8.3" else self.default


class Old(NamedTuple):
    """What differs in 8.3; None in a field: as in 8.4."""

    section: str | None = None
    name: str | None = None
    default: Value = None
    minimum: int | None = None
    maximum: int | None = None
    negated: bool = False


SAME = Old()
NEW = Old(name="")  # 8.4 only
SYNCER = Old("syncer")


def _row(row: Option, old: Old) -> Option:
    if old is NEW:
        return row._replace(since=row.since if row.since != "8.3" else "8.4", default_83=row.default,
                            minimum_83=row.minimum, maximum_83=row.maximum)
    return row._replace(
        section_83=old.section or row.section, name_83=old.name or row.name,
        default_83=row.default if old.default is None else old.default,
        minimum_83=row.minimum if old.minimum is None else old.minimum,
        maximum_83=row.maximum if old.maximum is None else old.maximum, negated_83=old.negated)


def number(section: str, name: str, low: int, high: int, default: int, unit: str, meaning: str, old: Old = SAME,
           scale: str = "1", support: str = "yes", since: str = "8.3", kind: str = NUMBER) -> Option:
    return _row(Option(name, section, kind, default, meaning, unit, scale, low, high, (), since, support), old)


def boolean(section: str, name: str, default: bool, meaning: str, old: Old = SAME, support: str = "yes",
            since: str = "8.3") -> Option:
    return _row(Option(name, section, BOOL, default, meaning, since=since, support=support), old)


def enum(section: str, name: str, words: str, meaning: str, old: Old = SAME, support: str = "yes",
         default: str | None = None, kind: str = ENUM, since: str = "8.3") -> Option:
    """The first word is the default unless another is given."""
    known = tuple(words.split())
    return _row(Option(name, section, kind, default or known[0], meaning, words=known, since=since, support=support),
                old)


def text(section: str, name: str, meaning: str, old: Old = SAME, support: str = "yes", kind: str = TEXT,
         since: str = "8.3") -> Option:
    default: Value = () if kind == NAMES else None
    return _row(Option(name, section, kind, default, meaning, since=since, support=support), old)


def flag(section: str, name: str, meaning: str, old: Old = SAME, support: str = "accepted") -> Option:
    return _row(Option(name, section, FLAG, False, meaning, support=support), old)


def no(name: str, default: bool = True) -> Old:
    """8.3 writes `no-NAME` to switch the thing off."""
    return Old(name="no-" + name, default=default, negated=True)


KIB_S = "KiB/s"
TENTHS = "0.1 s"
SECTORS = "sectors"

DISK = (
    number("disk", "size", 0, 2199023255552, 0, SECTORS, "use only so much of the disk; 0 = all of it",
           Old(maximum=34359738368), scale="s"),
    enum("disk", "on-io-error", "detach pass_on call-local-io-error", "what an error of the local disk leads to",
         Old(default="pass_on")),
    enum("disk", "fencing", "dont-care resource-only resource-and-stonith",
         "whether the peer is fenced before this node goes on alone"),
    boolean("disk", "disk-barrier", False, "order writes by barriers of the disk", no("disk-barrier"), "accepted"),
    boolean("disk", "disk-flushes", True, "flush the data disk at the end of an epoch", no("disk-flushes")),
    boolean("disk", "disk-drain", True, "wait for the disk's queue at the end of an epoch", no("disk-drain"),
            "accepted"),
    boolean("disk", "md-flushes", True, "flush the metadata disk after metadata writes", no("md-flushes")),
    number("disk", "resync-rate", 1, 4194304, 250, KIB_S, "where the resync starts; the rate if c-plan-ahead is 0",
           Old("syncer", "rate"), scale="k"),
    text("disk", "resync-after", "resync only when that resource has finished", Old("syncer", "after"), "accepted"),
    number("disk", "al-extents", 67, 65534, 1237, "4 MiB extents", "how much of the disk may be hot at once",
           Old("syncer", default=127, minimum=7, maximum=3833)),
    boolean("disk", "al-updates", True, "keep the activity log on disk", NEW, "accepted"),
    number("disk", "c-plan-ahead", 0, 300, 20, TENTHS, "time the resync controller plans ahead; 0 = fixed rate",
           Old("syncer", default=0)),
    number("disk", "c-delay-target", 1, 100, 10, TENTHS, "delay the controller aims at if c-fill-target is 0", SYNCER),
    number("disk", "c-fill-target", 0, 1048576, 100, SECTORS, "resync data the controller keeps in flight",
           Old("syncer", default=0), scale="s"),
    number("disk", "c-max-rate", 250, 4194304, 102400, KIB_S, "resync never goes faster", SYNCER, scale="k"),
    number("disk", "c-min-rate", 0, 4194304, 250, KIB_S, "resync yields to applications above this; 0 = never",
           Old("syncer", default=4096), scale="k"),
    number("disk", "disk-timeout", 0, 6000, 0, TENTHS, "a disk that is silent so long has failed; 0 = never"),
    enum("disk", "read-balancing", "prefer-local prefer-remote round-robin least-pending when-congested-remote "
         "32K-striping 64K-striping 128K-striping 256K-striping 512K-striping 1M-striping",
         "which node's disk serves reads", NEW, "accepted"),
    number("disk", "rs-discard-granularity", 0, 1048576, 0, "bytes", "resync zeroes by discards of this size", NEW,
           since="8.4.7"),
    boolean("disk", "discard-zeroes-if-aligned", True, "trust aligned discards to read back as zeroes", NEW,
            "accepted"),
    boolean("disk", "disable-write-same", False, "do not offer WRITE SAME", NEW, "accepted"),
    number("disk", "max-bio-bvecs", 0, 128, 0, "segments", "limit the segments of a request", support="accepted"),
    boolean("disk", "use-bmbv", False, "obsolete switch of the kernel module", support="accepted"),
)

NET = (
    enum("net", "protocol", "A B C", "when a write is complete: A sent, B received by the peer, C on both disks",
         Old("resource"), default="C"),
    number("net", "timeout", 1, 600, 60, TENTHS, "a peer that does not answer so long is given up"),
    number("net", "connect-int", 1, 120, 10, "s", "time between attempts to connect"),
    number("net", "ping-int", 1, 120, 10, "s", "idle time after which the peer is asked whether it lives"),
    number("net", "ping-timeout", 1, 300, 5, TENTHS, "time the peer has to answer that", Old(maximum=100)),
    number("net", "max-buffers", 32, 131072, 2048, "4 KiB buffers", "what the receiving side keeps in flight"),
    number("net", "max-epoch-size", 1, 20000, 2048, "writes", "most writes between two barriers"),
    number("net", "unplug-watermark", 1, 131072, 128, "requests", "when the peer's disk is told to start",
           support="accepted"),
    number("net", "sndbuf-size", 0, 10485760, 0, "bytes", "TCP send buffer; 0 = the system's choice"),
    number("net", "rcvbuf-size", 0, 10485760, 0, "bytes", "TCP receive buffer; 0 = the system's choice"),
    number("net", "ko-count", 0, 200, 7, "timeouts", "a peer that takes no data so long is cut off; 0 = never",
           Old(default=0)),
    boolean("net", "allow-two-primaries", False, "let both nodes be Primary", support="accepted"),
    text("net", "cram-hmac-alg", "digest with which both nodes prove that they know the secret"),
    text("net", "shared-secret", "that secret, at most 63 bytes"),
    enum("net", "after-sb-0pri", "disconnect discard-younger-primary discard-older-primary discard-zero-changes "
         "discard-least-changes discard-local discard-remote", "split brain found, no node is Primary; "
         "also discard-node-NAME"),
    enum("net", "after-sb-1pri", "disconnect consensus discard-secondary call-pri-lost-after-sb violently-as0p",
         "split brain found, one node is Primary"),
    enum("net", "after-sb-2pri", "disconnect call-pri-lost-after-sb violently-as0p",
         "split brain found, both nodes are Primary"),
    boolean("net", "always-asbp", False, "apply the policies even if a third node's data is involved"),
    enum("net", "rr-conflict", "disconnect call-pri-lost violently", "the resync would go against a Primary"),
    text("net", "data-integrity-alg", "digest sent with every block of application data"),
    boolean("net", "tcp-cork", True, "let the kernel collect small packets", no("tcp-cork"), "accepted"),
    enum("net", "on-congestion", "block pull-ahead disconnect", "the link cannot keep up (protocol A)",
         support="accepted"),
    number("net", "congestion-fill", 0, 20971520, 0, SECTORS, "data in flight that counts as congestion; 0 = off",
           scale="s", support="accepted"),
    number("net", "congestion-extents", 67, 65534, 1237, "4 MiB extents", "hot extents that count as congestion",
           Old(default=127, minimum=7, maximum=3833), support="accepted"),
    text("net", "csums-alg", "digest: a resync sends only blocks that differ", SYNCER),
    boolean("net", "csums-after-crash-only", False, "use csums-alg only after a crash of the Primary", NEW,
            since="8.4.5"),
    text("net", "verify-alg", "digest of the online verify", SYNCER),
    boolean("net", "use-rle", True, "compress the bitmap when it is exchanged", Old("syncer", default=False)),
    number("net", "socket-check-timeout", 0, 300, 0, TENTHS, "wait for the first packet of a connection; "
           "0 = ping-timeout", NEW),
)

OPTIONS = (
    text("options", "cpu-mask", "CPUs that work for the resource, hexadecimal", SYNCER),
    enum("options", "on-no-data-accessible", "io-error suspend-io", "neither node's disk can serve a request", SYNCER),
)

STARTUP = (
    number("startup", "wfc-timeout", 0, 300000, 0, "s", "how long a booting node waits for its peer; 0 = for ever"),
    number("startup", "degr-wfc-timeout", 0, 300000, 0, "s", "the same if the cluster was degraded; 0 = for ever"),
    number("startup", "outdated-wfc-timeout", 0, 300000, 0, "s", "the same if the peer was outdated; 0 = for ever"),
    boolean("startup", "wait-after-sb", False, "wait on even if a split brain was found"),
    text("startup", "become-primary-on", "hosts made Primary by the init script, or: both", kind=NAMES),
    flag("startup", "stacked-timeouts", "use the timeouts above for stacked resources too"),
)


def _handler(name: str, meaning: str, old: Old = SAME) -> Option:
    return text("handlers", name, meaning, old)


HANDLERS = (
    _handler("pri-on-incon-degr", "Primary, degraded, and the local data became inconsistent"),
    _handler("pri-lost-after-sb", "this Primary lost after a split brain"),
    _handler("pri-lost", "this Primary would have to become sync target"),
    _handler("initial-split-brain", "split brain found, before the policies are applied"),
    _handler("split-brain", "split brain found and not solved"),
    _handler("fence-peer", "fence the peer (old name: outdate-peer)"),
    _handler("unfence-peer", "lift that after the resync", NEW),
    _handler("local-io-error", "the local disk failed"),
    _handler("before-resync-target", "before this node becomes sync target"),
    _handler("after-resync-target", "after this node was sync target"),
    _handler("before-resync-source", "before this node becomes sync source"),
    _handler("out-of-sync", "the online verify found differences"),
)

GLOBAL = (
    number("global", "minor-count", 1, 255, 32, "devices", "reserved devices of the kernel module", Old(maximum=256),
           support="accepted", kind=INTEGER),
    number("global", "dialog-refresh", 0, 600, 1, "s", "how often the wait dialogue counts", kind=INTEGER),
    flag("global", "disable-ip-verification", "do not check that the configured address is this host's",
         support="yes"),
    enum("global", "usage-count", "ask yes no", "replblock calls home to nobody", kind=WORD),
    number("global", "cmd-timeout-short", 0, 900, 5, "s", "patience with drbdsetup", NEW, support="accepted",
           kind=INTEGER),
    number("global", "cmd-timeout-medium", 0, 900, 600, "s", "patience with drbdsetup", NEW, support="accepted",
           kind=INTEGER),
    number("global", "cmd-timeout-long", 0, 900, 0, "s", "patience with drbdsetup", NEW, support="accepted",
           kind=INTEGER),
    flag("global", "udev-always-use-vnr", "name the implicit volume like an explicit one", NEW),
)


def _proxy(name: str, old: Old = SAME) -> Option:
    return text("proxy", name, "option of DRBD Proxy", old, "accepted")


PROXY = (
    _proxy("memlimit"), _proxy("read-loops"), _proxy("compression"), _proxy("bwlimit", NEW),
    number("proxy", "sndbuf-size", 0, 10485760, 0, "bytes", "option of DRBD Proxy", support="accepted"),
    number("proxy", "rcvbuf-size", 0, 10485760, 0, "bytes", "option of DRBD Proxy", support="accepted"),
    number("proxy", "ping-timeout", 1, 300, 5, TENTHS, "option of DRBD Proxy", support="accepted"),
)

REPLBLOCK = (
    enum("replblock", "door", "nbdkit direct", "who speaks NBD: nbdkit (every filter fits) or the engine itself", NEW,
         since="ours"),
    text("replblock", "nbd-listen", "with door direct: NBD by TCP as well, volume N on PORT + N", NEW, kind=ADDRESS,
         since="ours"),
    enum("replblock", "compression", "none lz4 zstd", "compress data on the link, between two replblock nodes", NEW,
         since="ours"),
    boolean("replblock", "tls", False, "encrypt the link, between two replblock nodes", NEW, since="ours"),
    text("replblock", "tls-certificates", "directory with ca-cert.pem, cert.pem and key.pem", NEW, since="ours"),
    text("replblock", "tls-psk", "file with pre-shared keys, instead of certificates", NEW, since="ours"),
    enum("replblock", "attach", "auto nbd fuse none", "how the block device comes to this host", NEW, since="ours"),
    enum("replblock", "io", "buffered direct", "backing disk through the page cache, or O_DIRECT", NEW, since="ours"),
    number("replblock", "poll-max-us", 0, 10000, 200, "µs", "how long to look for the next event awake before sleeping",
           NEW, since="ours", kind=INTEGER),
    number("replblock", "threads", 1, 64, 4, "threads", "disk threads of the engine", NEW, since="ours", kind=INTEGER),
)

TABLE: tuple[Option, ...] = (*DISK, *NET, *OPTIONS, *STARTUP, *HANDLERS, *GLOBAL, *PROXY, *REPLBLOCK)

SECRET_BYTES = 63  # DRBD keeps 64 with the closing zero byte

OUTDATE_PEER = "outdate-peer"  # old name of fence-peer, taken in both dialects
