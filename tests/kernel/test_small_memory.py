# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine stands in the way of its own machine's memory reclaim: dirty pages go through it, and it needs memory."""

from __future__ import annotations

import pytest

from tests.kernel.pair import DEVICE, MOUNTED, Pair

FILE_MIB = 1024
MEMORY_MIB = 128


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.machines(memory_mib=MEMORY_MIB, disk_mib=FILE_MIB + 256)
def test_writing_far_more_than_memory(pair: Pair) -> None:
    """Eight times the memory through ext3 on the device: no hang, nothing killed for want of memory."""
    for machine in pair.machines:   # nbdkit's Python reserves 192 MiB of addresses
        machine.sh("echo 1 >/proc/sys/vm/overcommit_memory")
    pair.set_up(first_sync=False)
    first = pair.dados
    first.sh(f"mkfs.ext3 -q {DEVICE}", timeout_s=300)
    first.mount()
    writer = first.guest.begin("dd", "if=/dev/zero", f"of={MOUNTED}/zeroes", "bs=1M", f"count={FILE_MIB}", "conv=fsync",
                               timeout_s=400)  # fmt: skip
    done = writer.wait(400)
    assert done.code == 0, done.err
    assert first.sh(f"stat -c %s {MOUNTED}/zeroes").strip() == str(FILE_MIB << 20)
    said = first.kernel_log()
    assert not [line for line in said.splitlines() if "oom-killer" in line or "blocked for more" in line], said
    first.umount()
    pair.settle(300)
    first.do("secondary", "r0")
    pair.assert_same_data()
