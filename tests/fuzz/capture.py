# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the seeds of the corpus: python -m tests.fuzz.capture. What two simulated nodes say to each other, and more.

A seed is a real conversation behind the few bytes from which its target draws its decisions.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from replblock.core.requests import Op
from replblock.meta.activity_log import initialized_block
from replblock.meta.superblock import Superblock
from replblock.wire.commands import Stream
from replblock.wire.stream import StreamDecoder
from tests.core.simhost import Pipe
from tests.core.world import World
from tests.fuzz.mutate import CORPUS
from tests.fuzz.target_nbd import STARTS
from tests.fuzz.target_wire import STREAMS, VERSIONS
from tests.nbd import speaker as nbd

CONF = Path(__file__).resolve().parent.parent / "conf" / "corpus"
MOST_BYTES = 3000
CONTROL_LINES = (
    b'{"verb":"status"}', b'{"verb":"connect","args":{"discard_my_data":true}}',
    b'{"verb":"primary","args":{"force":1}}',
    b'{"verb":"wait_connect","args":{"timeout_s":1}}', b'{"verb":"disconnect","args":{"force":true,"volume":0}}',
    b'{"verb":"log_level","args":{"level":"debug"}}', b'{"verb":"wait_sync","args":{"timeout_s":"x"}}', b'[]', b'"x"',
    b'{"verb":"new_current_uuid","args":{"clear_bitmap":true}}', b'{"verb":"invalidate"}', b'{"verb":["a"],"args":[]}',
    b'{"verb":"net_options","args":{"settings":{"protocol":"Z"}}}', b"{" * 40, b"[" * 3000, b"nul\0l", b"1e999",
)

NBD_OPTIONS = (
    nbd.option(nbd.LIST), nbd.go(b"0", 1, 2, 3, number=nbd.INFO), nbd.go(b"secondary", 3), nbd.go(b"7"),
    nbd.option(nbd.STRUCTURED), nbd.contexts(nbd.LIST_CONTEXTS, b"0"), nbd.option(nbd.STARTTLS),
    nbd.contexts(nbd.SET_CONTEXTS, b"0", b"base:allocation", b"qemu:dirty-bitmap:x"),
    nbd.contexts(nbd.LIST_CONTEXTS, b"0", b"base:"),
)
NBD_REQUESTS = (
    nbd.request(nbd.READ, 1, 0, 512), nbd.request(nbd.READ, 2, 1024, 1536, flags=nbd.DF), nbd.write(3, 512, b"w" * 512),
    nbd.write(4, 0, b"xyz" * 512, nbd.FUA), nbd.request(nbd.FLUSH, 5), nbd.request(nbd.TRIM, 6, 4096, 16384),
    nbd.request(nbd.ZEROES, 7, 0, 65536, flags=nbd.NO_HOLE), nbd.request(nbd.CACHE, 8, 0, 4096),
    nbd.request(nbd.STATUS, 9, 0, 65536, flags=nbd.REQ_ONE), nbd.request(nbd.STATUS, 10, 4096, 8192),
    nbd.request(nbd.READ, 11, 65024, 1024), nbd.request(nbd.READ, 12, 0, 2048) * 8, nbd.request(nbd.FLUSH, 13) * 12,
)


def conversation(version: int, **settings: Any) -> dict[tuple[str, int], bytes]:
    """A short life of two nodes: (who, which of his sockets) → what he said there."""
    said: dict[tuple[str, int], bytearray] = {}
    carry = Pipe.carry

    def noted(self: Pipe, side: int, data: bytes) -> None:
        host, sock = self.ends[side]
        said.setdefault((host.name, sock), bytearray()).extend(data)
        carry(self, side, data)

    Pipe.carry = noted  # type: ignore[method-assign]
    try:
        world = World(version, 1 << 20, version_max=version, offer_features=0xD, **settings).pair()
        world.write(world.a, 0, b"x" * 512)
        world.submit(world.a, Op.TRIM, 4096, 4096)
        world.flush(world.a)
        world.run(11_000)
        world.kill(world.b)
        world.run(2000)
        world.write(world.a, 8192, b"y" * 512)
        world.up(world.b)
        world.settle()
        world.ok(world.a, "disconnect")
    finally:
        Pipe.carry = carry  # type: ignore[method-assign]
    return {key: bytes(data) for key, data in said.items()}


def decoder_seed(version: int, data: bytes) -> bytes:
    """Short packets kept, long ones left out: a seed must be small to be damaged everywhere."""
    head, rest = data[:8], data[8:]
    if head[:4] != bytes.fromhex("83740267") or head[4:6] not in (b"\xff\xf1", b"\xff\xf2"):
        head, rest = b"", data
    opens_data = head[4:6] != b"\xff\xf1" and rest.startswith(bytes.fromhex("83740267fffe"))
    stream = Stream.DATA if opens_data else Stream.META
    late = {True: 2 if head else 1, False: 0}[stream is Stream.DATA]
    opening = head
    if stream is Stream.DATA:
        opening, rest = head + rest[:80], rest[80:]
        late = 3 if head else 2
    decoder = StreamDecoder(stream)
    decoder.agreed(version, 0xD)
    kept = bytearray(opening if late else b"")
    at = 0
    header = 16 if version >= 100 else 8
    for _, _, body in decoder.feed(rest):
        packet = rest[at : at + header + len(body)]
        at += len(packet)
        if len(packet) < 700 and len(kept) + len(packet) < MOST_BYTES:
            kept += packet
    features, index = 0xD, STREAMS.index(Stream.EITHER if late and head else stream)
    if not late:
        kept = kept or bytearray(rest[:200])
    return bytes((VERSIONS.index(version), features, index, 0, version, late)) + bytes(kept)


def save(target: str, name: str, data: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main() -> None:
    rng = random.Random(20)
    for version, settings in ((101, {}), (100, {"protocol": "A"}), (99, {}), (94, {"protocol": "B"}), (86, {}),
                              (101, {"cram_hmac_alg": "sha1", "shared_secret": "s"})):
        talk = conversation(version, **settings)
        alg = "-auth" if settings.get("cram_hmac_alg") else ""
        for (who, sock), data in talk.items():
            seed = decoder_seed(version, data)
            if len(seed) > 60:
                save("wire-decoder", f"{version}{alg}-{who}{sock}", seed)
    for number, path in enumerate(sorted(CONF.glob("*.conf"))):
        data = path.read_bytes()
        save("conf", path.stem, bytes((0,)) + data[:6000])
        included = b"\0include \"f*\";\n\n----\n" + data[: 900 + number] + b"\n----\ninclude \"f1\";\n"
        save("conf", path.stem + "-included", included)
    loop = b'\0include "drbd.conf";\ninclude "f*";\n----\ninclude "f1"; include "f2";\n----\ninclude "drbd.conf";'
    save("conf", "loop", loop)
    for number in range(4):
        lines = rng.sample(CONTROL_LINES, 6)
        save("control", f"lines{number}", bytes((number,)) + b"".join(b"\x0f\xff" + line + b"\n" for line in lines))
    for number in range(24):
        save("handshake", f"story{number:02}", bytes((number % 12, number % 4)) + rng.randbytes(150))
        save("connected", f"story{number:02}", bytes((number % 12,)) + rng.randbytes(250))
    world = World(1, 1 << 20).pair()
    where = world.a.disk.geometry
    block = bytes(world.a.disk.content[where.superblock_offset_bytes :][:4096])
    save("meta-superblock", "after-use", block[:128])
    save("meta-superblock", "created", Superblock().pack()[:97])
    save("meta-gi", "after-use", b"12C3D6A6021F3F8F:0000000000000000:0000000000000004:0:1:1:0:1:0:0:0")
    save("meta-activity", "initialized", bytes((0, 1)) + b"\x01" * 8)
    assert initialized_block()[:4] == bytes.fromhex("69cb65a2")
    for number in range(8):
        save("meta-activity", f"noise{number}", bytes((number, 1)) + rng.randbytes(200))
        save("meta-image", f"noise{number}", bytes((5 + number % 4, number)) + b"\1" + rng.randbytes(120))
        save("meta-bitmap", f"noise{number}", rng.randbytes(100))
        save("wire-bitmap", f"noise{number}", rng.randbytes(100))
        save("wire-typed", f"noise{number}", rng.randbytes(200))
    rng = random.Random(21)
    for number in range(len(STARTS)):
        save("nbd", f"options{number}", bytes((0, 0, number)) + nbd.hello() + b"".join(rng.sample(NBD_OPTIONS, 5))
             + nbd.go(b"0") + b"".join(rng.sample(NBD_REQUESTS, 5)))  # fmt: skip
        talk = b"".join(rng.sample(NBD_REQUESTS, 8)) + nbd.request(nbd.DISC, 0)
        save("nbd", f"requests{number}", bytes((number, 0, number)) + talk)
    for number in range(12):
        save("compressed", f"story{number:02}", bytes((number,)) + rng.randbytes(250))
        save("wire-lz4", f"noise{number:02}", rng.randbytes(400))
    save("nbd", "abort", bytes(3) + nbd.hello() + nbd.option(nbd.LIST) + nbd.option(nbd.ABORT))
    save("nbd", "too-long", bytes((3, 0, 0)) + nbd.write(1, 0, bytes(2560)) + nbd.request(nbd.FLUSH, 2))


if __name__ == "__main__":
    main()
