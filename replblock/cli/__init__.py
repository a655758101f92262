# SPDX-License-Identifier: GPL-2.0-or-later
"""replctl: the command line. One small module per family of verbs, all made from the table in `verbs`."""
