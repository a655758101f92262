# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry point of `replctl` (and of `drbdadm`, when called under that name).

Nothing is imported here that the verb does not need: a cluster manager waits for this process at a failover.
"""

from __future__ import annotations

import os
import sys

from replblock.cli.arguments import Words, parse
from replblock.cli.errors import CANNOT, USAGE, Stop
from replblock.cli.run import Run


def main(argv: list[str] | None = None) -> int:
    """Carry out one command line; returns the exit code. Errors go to stderr, the clear sentence first."""
    words = sys.argv[1:] if argv is None else argv
    program = os.path.basename(sys.argv[0]) or "replctl"
    if program in ("__main__.py", "main.py", "-c", "-m"):
        program = "replctl"
    try:
        code = _carry_out(parse(words, program), program)
        sys.stdout.flush()
        return code
    except Stop as stop:
        try:
            sys.stdout.flush()
        except OSError:
            pass
        for line in stop.lines:
            print(line, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `replctl dump | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return CANNOT


def _carry_out(words: Words, program: str) -> int:
    from importlib import import_module

    if "--version" in words.general:
        return _texts("version", program)
    if "--help" in words.general:
        return _texts("usage", program, words.verb.name if words.verb else "")
    if words.verb is None:
        _texts("usage", program, stream=sys.stderr)
        print("\nNo command specified", file=sys.stderr)
        return USAGE
    run = Run(program, words.verb, words.names, words.general, words.options)
    if run.dry_run and not words.verb.prints:
        from replblock.cli.dry import print_commands

        return print_commands(run)
    try:
        module = import_module(f"replblock.cli.{words.verb.module}")
    except ModuleNotFoundError as missing:
        if missing.name != f"replblock.cli.{words.verb.module}":
            raise
        raise Stop(CANNOT, f"{program}: '{words.verb.name}' is not supported yet", "see: replctl help") from None
    code: int = getattr(module, words.verb.function)(run)
    return code


def _texts(what: str, program: str, verb: str = "", stream: object = None) -> int:
    from replblock.cli import texts

    text = texts.version() if what == "version" else texts.usage(program, verb)
    print(text, end="", file=stream)  # type: ignore[call-overload]
    return 0


if __name__ == "__main__":
    sys.exit(main())
