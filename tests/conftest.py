# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: hypothesis profiles, and who may run the tests that need root or network namespaces."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest
from hypothesis import HealthCheck, settings

# The same tree gives the same result: a run that fails by luck teaches people to run it again. New examples are looked
# at by HYPOTHESIS_PROFILE=deep (make deep), and a failure there prints the blob that reproduces it.
settings.register_profile(
    "ci",
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("deep", settings.get_profile("ci"), derandomize=False,
                          max_examples=5000, stateful_step_count=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@functools.cache
def can_unshare_network() -> bool:
    """Root in a container may still lack the right to make network namespaces."""
    command = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("netns") and not can_unshare_network():
        pytest.skip("needs root and the right to make network namespaces")
