# SPDX-License-Identifier: GPL-2.0-or-later
"""Small pieces of configuration on which we and drbdadm must give the same verdict, and where we knowingly differ."""

from __future__ import annotations

HOSTS = """  on a { device /dev/drbd0; disk /dev/sda1; address 10.0.0.1:7788; meta-disk internal; }
  on b { device /dev/drbd0; disk /dev/sda1; address 10.0.0.2:7788; meta-disk internal; }
"""
GLOBAL = "global { disable-ip-verification; usage-count no; }\n"

# Put into a resource that has two hosts and a protocol.
IN_RESOURCE = r"""
net { timeout 61k; }|net { timeout 0; }|net { timeout 600; }|net { timeout 601; }|net { timeout -1; }
net { timeout "60"; }|net { timeout 0x10; }|net { timeout 010; }|net { timeout 1.5; }|net { timeout 6s; }
net { timeout abc; }|net { timeout; }|net { timeout 60 }|net { timeout 60; timeout 61; }|net { } net { }
net { sndbuf-size 1M; }|net { sndbuf-size 10M; }|net { sndbuf-size 11M; }|net { sndbuf-size 1m; }
net { sndbuf-size 8s; }|net { congestion-fill 10G; }|net { congestion-fill 11G; }|net { congestion-fill 20971521; }
syncer { rate 4194304; }|syncer { rate 4194305; }|syncer { rate 4G; }|syncer { rate 5G; }|syncer { rate 1s; }
syncer { rate 0; }|disk { size 16T; }|disk { size 34359738368; }|disk { size 34359738369; }|disk { size 1024G; }
disk { size 2199023255553; }|disk { size 3s; }|net { after-sb-0pri; }|net { allow-two-primaries yes; }
net { allow-two-primaries no; }|net { allow-two-primaries maybe; }|net { no-allow-two-primaries; }
net { no-tcp-cork yes; }|net { no-tcp-cork; }|net { tcp-cork; }|net { tcp-cork no; }|disk { disk-barrier; }
disk { disk-barrier YES; }|disk { disk-barrier "no"; }|disk { no-al-updates; }|disk { al-updates no; }
net { bogus 3; }|net { bogus; }|net { discard-my-data; }|net { tentative; }|net { dry-run; }|net { protocol A; }
net { protocol a; }|net { protocol D; }|net { protocol AB; }|protocol A; protocol B;|protocol;
disk { no-disk-barrier; disk-barrier yes; }|handlers { foo bar; }|handlers { unfence-peer bar; }
handlers { outdate-peer a; fence-peer b; }|handlers { split-brain; }|handlers { quorum-lost x; }
startup { wfc-timeout 300000; }|startup { wfc-timeout 300001; }|startup { wait-after-sb; }|startup { wait-after-sb no; }
startup { wait-after-sb 20; }|startup { become-primary-on both; }|startup { become-primary-on a b; }
startup { become-primary-on q; }|startup { become-primary-on; }|startup { stacked-timeouts; }
startup { stacked-timeouts yes; }|startup { become-primary-on both; } net { allow-two-primaries; }
options { on-no-data-accessible suspend-io; }|options { auto-promote yes; }|options { } options { }
syncer { after r; }|syncer { after "q"; }|disk { resync-after r/0; }|disk { resync-after q/1; }
disk { read-balancing 32K-striping; }|disk { use-bmbv; }|disk { use-bmbv yes; }|disk { no-use-bmbv; }
disk { al-extents 67; }|disk { al-extents 65534; }|syncer { al-extents 3833; }|syncer { use-rle; }
syncer { use-rle no; }
syncer { cpu-mask 3; }|syncer { resync-rate 3M; }|net { congestion-extents 66; }|net { verify-alg; }
net { verify-alg md5; csums-alg md5; csums-after-crash-only; }|foo { }|foo;|foo bar;|;|net { ; }|net { timeout 5;; }
proxy { }|proxy { memlimit 1G; }|proxy { bogus 1; }|proxy { read-loops; }|proxy { plugin { foo; } }
proxy { plugin { a b c; d; } plugin { e; } }|proxy { bwlimit 10; }|@|!|'a'|net { timeout @; }|net { shared-secret 'x'; }
net { shared-secret a@b; }|net { shared-secret "x; }|net { shared-secret é; }|net { shared-secret "é"; }
net { shared-secret "a\tb\qc\"d"; }|net { shared-secret "a\\"; }|net { shared-secret ""; }|net{timeout 5;}
net { shared-secret "a#b"; }|net { shared-secret a_b.c-d/e; }|net { shared-secret a:b; }|net { shared-secret a=b; }
net { shared-secret "a"b; }|net { shared-secret "a" "b"; }|net { "timeout" 5; }|"net" { timeout 5; }
net { timeout: 5; }|net { timeout = 5; }|net = { timeout 5; }|net { shared-secret yes; }|net { shared-secret net; }
net { shared-secret 5; }|net { shared-secret protocol; }|net { shared-secret on; }|net { shared-secret 1.2.3.4; }
net { shared-secret internal; }|net { timeout 5;}}|net {|}|net { \ }|handlers { split-brain "x"; split-brain "y"; }
disk { c-max-rate 499s; }|disk { c-max-rate 497s; }|disk { c-max-rate 249S; }|net { timeout ""; }|net { timeout K; }
disk { size 99999999999999999G; }|disk { size 18446744073709551616; }|syncer { rate 5M; } disk { resync-rate 6M; }
on x;|ignore-on 5;|ignore-on c;|ignore-on c d;|volume 0 { bogus; }|device minor 1;|disk /dev/foo;|meta-disk internal;
timeout 5;|usage-count no;|protocol C protocol B;|net { timeout 60 _is_default; }|syncer { } syncer { }
disk { } disk { }|handlers { } handlers { }|startup { } startup { }|proxy { } proxy { }|net { ping-timeout 5; }
"""

# Whole files but for the resource r below them.
TOP = r"""
skip { }|skip foo { bar { } baz }|skip resource x { }|skip "res" { }|skip foo bar { }|skip { @@ $$ ' }|skip { " }
skip { "}" }|skip {|skip|skip foo;|include;|include foo;|include "nope.conf";|include "nope*.conf";
include "nope[a].conf";|include "/nonexist/*";|include "*" { }|foo { }|foo;|}|common { }|common { } common { }
common { protocol A; }|common { net { } net { } }|common { on a { } }|common { global { } }|common { foo; }
common { options { } }|common { ignore-on x; }|common { floating 1.2.3.4:5; }|common { resource q { } }|global { }
global { } global { }|global { foo; }|global { minor-count 0; }|global { minor-count 256; }|global { minor-count 10k; }
global { dialog-refresh 600; }|global { dialog-refresh 601; }|global { usage-count maybe; }|global { usage-count; }
global { usage-count ask; usage-count no; }|global { cmd-timeout-short -1; }|global { cmd-timeout-short 901; }
global { udev-always-use-vnr yes; }|global { disable-ip-verification yes; }|common foo { }|resource { }|resource x;
resource 0 { }|resource yes { }|resource on { }|resource "" { }|resource q:1 { }|resource 1.2.3.4 { }|resource "q q" { }
"""

# What host a says of itself.
HOST_A = r"""
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd_x minor 3; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd_x; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbdx minor 3; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd3 minor 4; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/sda minor 3; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd/3; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device minor 3; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device minor -1; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device minor 3k; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device minor; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd007; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0 foo; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd3 minor 3 4; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd_ minor 1; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m[0]; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m [ 5 ]; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m[-1]; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m[x]; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m[0; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk internal[0]; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk /dev/m 3; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; flexible-meta-disk /dev/m; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; flexible-meta-disk /dev/m[0]; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; flexible-meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk; address 1.2.3.4:5;
device /dev/drbd0; disk; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; disk a b; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; disk /dev/y; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; device /dev/drbd1; disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk internal; meta-disk /dev/z[0]; address 1.2.3.4:5;
disk /dev/x; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; meta-disk internal; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk internal;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; address 1.2.3.4:5;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 10.0.0.2:7788;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:0;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:70000;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:abc;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address foo:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address [::1]:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipv6 ::1:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipv6 [::1]:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipv6 [::zz]:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipv6 1.2.3.4:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipv4 [::1]:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipx 1.2.3.4:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address sci 1.2.3.4:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address "1.2.3.4:80";
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4 : 80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address ipv6 [fe80::1%eth0]:80;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; bogus 1;
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; net { }
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; options { cpu-mask 3; }
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; proxy on a { inside 1.1.1.1:5; }
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; proxy { }
device /dev/drbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5; alternate-address 1.2.3.5:5;
"""

# What drbdadm takes and we refuse, and why. Its kernel or drbdsetup would refuse most of it later.
STRICTER: dict[str, str] = {
    "net { after-sb-0pri bogus; }": "an unknown policy; drbdsetup would refuse it at connect",
    "disk { fencing bogus; }": "the same at attach",
    "disk { on-io-error panic; }": "the same at attach",
    "net { on-congestion foo; }": "the same at connect",
    "net { after-sb-0pri discard-node-q; }": "no such host",
    "net { ping-timeout 301; }": "beyond drbdsetup's range",
    "net { ping-timeout 0; }": "the same",
    "net { unplug-watermark 0; }": "the same",
    "disk { disk-timeout 6001; }": "the same",
    "disk { max-bio-bvecs 129; }": "the same",
    "syncer { al-extents 7; } options { }": "8.3's range; drbdsetup-84 would refuse it at attach",
    "syncer { cpu-mask zzz; }": "not hexadecimal; the kernel would refuse it",
    "net { shared-secret 0123456789012345678901234567890123456789012345678901234567890123; }": "64 bytes; 63 fit",
    "net { on-congestion pull-ahead; }": "needs protocol A (155)",
}
STRICTER_HOST_A = {
    "device /dev/drbd0; disk /dev/x; meta-disk internal; address 999.2.3.4:80;": "not an address",
    "device minor 1048576; disk /dev/x; meta-disk internal; address 1.2.3.4:5;": "beyond the kernel's minors",
}
# What drbdadm refuses and we take.
LOOSER_HOST_A = {
    "disk { al-extents 77; } device minor 3; disk /dev/x; meta-disk internal; address 1.2.3.4:5;":
        "drbdadm's own dump prints this",
    "device /dev/nbd0; disk /dev/x; meta-disk internal; address 1.2.3.4:5;": "replblock's own kind of device",
}


def pieces(text: str) -> list[str]:
    """One snippet a line, or several with | between them."""
    return [piece for line in text.strip().split("\n") for piece in line.split("|")]
