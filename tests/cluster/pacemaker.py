# SPDX-License-Identifier: GPL-2.0-or-later
"""Pacemaker's own programs without a cluster: with CIB_file they work on a file as on a cluster's configuration.

They are Debian's as shipped, unpacked and not installed (tools/unpack). Only crm_node and crmadmin, which ask a running
cluster who this node is and whether another one lives, say what the test wants.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as xml

from replblock.cluster import layout
from tests.e2e.pair import Node, Result

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / ".venv" / "debian"
LIBRARIES = [*(str(path) for path in sorted((DEBIAN / "usr/lib").glob("*-linux-gnu"))), str(DEBIAN / "usr/lib")]
CLONE = "ms-r0"
PATIENCE = ("--timeout", "1", "--dc-timeout", "1", "--poll", "0.1")

CIB = """<cib crm_feature_set="3.11.0" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0"
     have-quorum="1">
  <configuration>
    <crm_config><cluster_property_set id="options">
      <nvpair id="stonith" name="stonith-enabled" value="false"/></cluster_property_set></crm_config>
    <nodes><node id="1" uname="alfa"/><node id="2" uname="beta"/></nodes>
    <resources>
      <clone id="ms-other"><meta_attributes id="mo"><nvpair id="mo1" name="promotable" value="true"/></meta_attributes>
        <primitive id="other" class="ocf" provider="replblock" type="replblock"><instance_attributes id="io">
          <nvpair id="io1" name="resource" value="r00"/></instance_attributes></primitive></clone>
      <clone id="ms-r0"><meta_attributes id="m"><nvpair id="m1" name="promotable" value="true"/></meta_attributes>
        <primitive id="p-r0" class="ocf" provider="replblock" type="replblock"><instance_attributes id="i">
          <nvpair id="i1" name="resource" value="r0"/></instance_attributes></primitive></clone>
    </resources>
    <constraints/>
  </configuration>
  <status>
    <node_state id="1" uname="alfa" in_ccm="true" crmd="online" join="member" expected="member"/>
    <node_state id="2" uname="beta" in_ccm="true" crmd="online" join="member" expected="member"/>
  </status>
</cib>
"""


class Cluster:
    """One configuration that both nodes see, and our scripts as they would be installed."""

    def __init__(self, directory: Path) -> None:
        assert (DEBIAN / "usr/sbin/cibadmin").exists(), "no cibadmin; run: make setup"
        self.directory = directory
        self.path = directory / "cib.xml"
        self.path.write_text(CIB)
        self.tools = directory / "tools"
        self.tools.mkdir()
        self.lock = directory / "lock"
        self.lock.touch()
        for name in ("cibadmin", "crm_attribute", "crm_master", "crm_resource"):    # one at a time, as on a cluster
            self.tool(name, f'exec flock {self.lock} {DEBIAN}/usr/sbin/{name} "$@"')
        self.tool("crm_node", "echo $REPLBLOCK_HOST")
        self.peer_answers(True)
        for source in ("ocf/replblock", "lib/replblock-crm-fence", "lib/replblock-crm-unfence"):
            shutil.copy(layout.HERE / source, directory)
        self.agent = directory / "replblock"
        self.more: dict[str, str] = {}
        """Further variables for all programs; they go first."""

    def environment(self, node: Node) -> dict[str, str]:
        """For any of the programs on this node."""
        return {
            **node.environment, "PATH": f"{self.tools}:{os.environ['PATH']}", "CIB_file": str(self.path),
            "PCMK_schema_directory": str(DEBIAN / "usr/share/pacemaker"), "LD_LIBRARY_PATH": ":".join(LIBRARIES),
            "REPLCTL": " ".join(node.command()), "UNFENCE": str(self.directory / "replblock-crm-unfence"),
            "PROMOTE_PAUSE": "0", "SUPERVISOR_S": "0", **self.more,
        }  # fmt: skip

    def run(self, node: Node, *command: str, **more: str) -> Result:
        environment = {**self.environment(node), **more}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)  # fmt: skip
        node._note_pid()
        return Result(command, done.returncode, done.stdout, done.stderr)

    # ---- the agent

    def ocf(self, node: Node, action: str, *, interval: str = "10000", **parameters: str) -> Result:
        """One action as Pacemaker calls it. A parameter is written resource="r0"; meta attributes CRM_meta_…"""
        meta = {"clone_max": "2", "clone_node_max": "1", "promoted_max": "1", "promoted_node_max": "1",
                "notify": "true", "interval": interval, "timeout": "7000", "on_node": node.name}  # fmt: skip
        given = {"resource": "r0", **{f"CRM_meta_{key}": value for key, value in meta.items()}, **parameters}
        variables = {f"OCF_RESKEY_{key}": value for key, value in given.items()}
        return self.run(node, str(self.agent), action, OCF_RESOURCE_INSTANCE="p-r0", **variables)

    def score(self, node: Node) -> str:
        """The promotion score of the node; empty if it has none."""
        number = {"alfa": "1", "beta": "2"}[node.name]
        pairs = self.base().iterfind(f"status/node_state[@id='{number}']//nvpair[@name='master-p-r0']")
        return next((pair.get("value", "") for pair in pairs), "")

    # ---- the configuration

    def base(self) -> xml.Element:
        with self.lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return xml.fromstring(self.path.read_text())

    def state(self, name: str, **attributes: str) -> None:
        """What the cluster knows of a node."""
        base = self.base()
        found = base.find(f"status/node_state[@uname='{name}']")
        assert found is not None
        found.attrib.update(attributes)
        self.path.write_text(xml.tostring(base, encoding="unicode"))

    def set(self, quorum: str = "1", stonith: str = "false") -> None:
        base = self.base()
        base.set("have-quorum", quorum)
        option = base.find(".//nvpair[@name='stonith-enabled']")
        assert option is not None
        option.set("value", stonith)
        self.path.write_text(xml.tostring(base, encoding="unicode"))

    def constraints(self) -> list[str]:
        """For each: on which nodes the promoted role is allowed."""
        found = []
        for location in self.base().iterfind("configuration/constraints/rsc_location"):
            assert location.get("rsc") == CLONE
            rule, expression = location.find("rule"), location.find("rule/expression")
            assert rule is not None and expression is not None
            assert (rule.get("role"), rule.get("score")) == ("Promoted", "-INFINITY")
            assert (expression.get("attribute"), expression.get("operation")) == ("#uname", "ne")
            found.append(expression.get("value", ""))
        return found

    def peer_answers(self, yes: bool) -> None:
        self.tool("crmadmin", f"exit {0 if yes else 102}")

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.tools / name).chmod(0o755)

    # ---- the handlers

    def handler(self, node: Node, name: str, *words: str, **more: str) -> Result:
        """replblock-crm-fence or -unfence, as the engine calls it, but with less patience."""
        given = {"DRBD_RESOURCE": "r0", "DRBD_PEER": "beta" if node.name == "alfa" else "alfa",
                 "DRBD_CONF": str(node.config)} | more  # fmt: skip
        return self.run(node, str(self.directory / name), *PATIENCE, *words, **given)

    def command(self, node: Node, name: str) -> str:
        """The same as a command for `handlers {}`."""
        kept = ("PATH", "CIB_file", "PCMK_schema_directory", "LD_LIBRARY_PATH", "REPLCTL", "PYTHONPATH")
        exports = "".join(f"export {key}='{value}'\n" for key, value in self.environment(node).items() if key in kept)
        path = self.directory / f"{name}-on-{node.name}"
        path.write_text(f"#!/bin/sh\n{exports}exec {self.directory / name} {' '.join(PATIENCE)}\n")
        path.chmod(0o755)
        return f'"{path}"'
