"""The command ``regmask``: demo, fit, predict, mask, cv, tune, report, benchmark, motifs, info.

Results go to files, progress to stderr. Every error is one line on stderr with a remedy, and a
non-zero exit: 2 for wrong options, 130 after Ctrl-C, 1 for all else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from regmask_sk.cli.messages import UserInterrupt, interruptible, one_line, warnings_in_one_line
from regmask_sk.cli.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after ``regmask``; those of the process by default.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version`` (0) and wrong options (2).

    Examples
    --------
    >>> main(["info", "--model", "no-such-folder"])
    1
    """
    args = parse(argv)
    command = f"regmask {args.command}"
    try:
        with warnings_in_one_line(command), interruptible():
            if args.n_threads is not None:
                import_module("torch").set_num_threads(args.n_threads)
            # Loaded here: it loads pandas, which Ctrl-C may meet too.
            import_module("regmask_sk.cli.commands").COMMANDS[args.command](args)
    except UserInterrupt:
        print(f"{command}: interrupted; nothing more is written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing is left to say or to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(f"{command}: error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0
