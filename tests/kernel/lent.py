# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/unpack has unpacked, as if it were installed in a guest; and the checkout where no mount can hide it."""

from __future__ import annotations

from tests.e2e.pair import ROOT

DEBIAN = ROOT / ".venv" / "debian"
CHECKOUT = "/run/checkout"

#: /usr is laid over, not copied: the guest's memory is its disk. The upper layer is where its own files go.
LEND = f"""
mkdir -p {CHECKOUT} /run/usr/upper /run/usr/work
mount --bind {ROOT} {CHECKOUT}
mount -t overlay -o lowerdir={DEBIAN}/usr:/usr,upperdir=/run/usr/upper,workdir=/run/usr/work overlay /usr
tar -C {DEBIAN} -c etc lib var | tar -C / -x --keep-directory-symlink
ldconfig
getent group haclient >/dev/null || groupadd -r haclient
getent passwd hacluster >/dev/null || useradd -r -g haclient -d /var/lib/pacemaker -s /usr/sbin/nologin hacluster
"""

#: replctl of the checkout, whoever calls it in whatever environment.
REPLCTL = f"""#!{CHECKOUT}/.venv/bin/python
import sys
sys.path.insert(0, "{CHECKOUT}")
from replblock.cli.main import main
sys.exit(main())
"""
