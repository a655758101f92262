# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbdkit plugin: one replicated resource, one process. Callbacks only; what they do is in replblock.engine.

nbdkit -U SOCKET python replblock.py resource=r0 [config=FILE] [host=NAME] [run=DIR]   (replctl up does this)
"""

from typing import Any

import nbdkit

from replblock.engine import boot
from replblock.engine.door import MAX_NBD_BYTES, PREFERRED_BYTES, SECTOR_BYTES

API_VERSION = 2

options: dict[str, str] = {}
engine: Any = None


def config(key: str, value: str) -> None:
    if key not in boot.PARAMETERS:
        raise ValueError(f"unknown parameter '{key}'; known: {', '.join(boot.PARAMETERS)}")
    options[key] = value


def config_complete() -> None:
    if "resource" not in options:
        raise ValueError("the parameter resource=NAME is missing")


def thread_model() -> int:
    return nbdkit.THREAD_MODEL_PARALLEL


def after_fork() -> None:
    global engine
    engine = boot.run(options)
    engine.door.set_error = nbdkit.set_error


def cleanup() -> None:
    if engine is not None:
        engine.end()


def open(readonly: bool) -> Any:
    return engine.door.open(readonly, nbdkit.export_name())


def close(h: Any) -> None:
    engine.door.close(h)


def get_size(h: Any) -> int:
    return engine.door.size_bytes()


def block_size(h: Any) -> tuple[int, int, int]:
    return (SECTOR_BYTES, PREFERRED_BYTES, MAX_NBD_BYTES)


def can_write(h: Any) -> bool:
    return not h.readonly


def can_flush(h: Any) -> bool:
    return True


def can_fua(h: Any) -> int:
    return nbdkit.FUA_NATIVE


def can_trim(h: Any) -> bool:
    return True


def can_zero(h: Any) -> bool:
    return True


def can_fast_zero(h: Any) -> bool:
    return False


def can_extents(h: Any) -> bool:
    return False


def can_cache(h: Any) -> int:
    return nbdkit.CACHE_NONE


def can_multi_conn(h: Any) -> bool:
    return True     # a flush on one connection covers the writes of all


def is_rotational(h: Any) -> bool:
    return False


def pread(h: Any, buf: Any, offset: int, flags: int) -> None:
    engine.door.pread(h, buf, offset)


def pwrite(h: Any, buf: Any, offset: int, flags: int) -> None:
    engine.door.pwrite(h, buf, offset, bool(flags & nbdkit.FLAG_FUA))


def flush(h: Any, flags: int) -> None:
    engine.door.flush(h)


def trim(h: Any, count: int, offset: int, flags: int) -> None:
    engine.door.trim(h, count, offset, bool(flags & nbdkit.FLAG_FUA))


def zero(h: Any, count: int, offset: int, flags: int) -> None:
    engine.door.zero(h, count, offset, bool(flags & nbdkit.FLAG_FUA), bool(flags & nbdkit.FLAG_MAY_TRIM))


