"""What the command line says on stderr: progress, warnings, errors and interrupts."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Parameters that errors name, and that are options here under the same words.
_OPTION_WORDS = (
    "chrom_alias", "tss_base", "allow_unstranded", "name_column", "chrom_column", "tss_column",
    "strand_column", "promoter_length", "max_epochs", "batch_size", "learning_rate",
    "validation_chroms", "validation_fraction", "min_width", "merge_gap", "name_attribute",
    "p_value", "n_shuffled", "n_matched", "position_tolerance", "gc_tolerance",
)  # fmt: skip
# Errors whose message says it all. Any other shows its type, and where it came from on request.
_EXPECTED = (
    OSError, ValueError, TypeError, RuntimeError, FloatingPointError, ImportError, MemoryError,
)  # fmt: skip


class UserInterrupt(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which skorch takes for the end of the training."""


def say(args: argparse.Namespace, text: str) -> None:
    """Print one line of progress on stderr.

    Parameters
    ----------
    args : argparse.Namespace
        Of the command that runs.
    text : str
        What to say.

    Examples
    --------
    >>> say(argparse.Namespace(command="fit"), "training")
    """
    print(f"regmask {args.command}: {text}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    r"""Say an error in one line, in the words of the command line.

    Parameters
    ----------
    error : BaseException
        The error.

    Returns
    -------
    str
        Its message, with parameters of this package as options.

    Examples
    --------
    >>> one_line(ValueError("unknown chromosome;\ngive chrom_alias"))
    'unknown chromosome; give --chrom-alias'
    """
    text = _in_words_of_options(str(error.args[0] if isinstance(error, KeyError) else error))
    if isinstance(error, MemoryError) and "memory" not in text:
        return f"out of memory {text}; take a smaller --batch-size or --length"
    if not text or not isinstance(error, _EXPECTED):
        return f"{type(error).__name__} {text}; --debug shows where"
    return text


def _in_words_of_options(text: str) -> str:
    text = " ".join(text.split()).replace("overwrite=True", "--force")
    text = text.replace("resume=True", "--resume")
    for option in _OPTION_WORDS:
        text = re.sub(rf"\b{option}\b", "--" + option.replace("_", "-"), text)
    text = text.replace("--allow-unstranded=True", "--allow-unstranded")
    text = re.sub(r"--chrom-alias=\{[^}]*\}", "--chrom-alias NAME_IN_LOCI=NAME_IN_FILE", text)
    text = re.sub(r"\bfile_format='?(\w+)'?", r"--loci-format \1", text)
    text = re.sub(r"\bfile_format\b", "--loci-format", text)
    text = re.sub(r"\bmax_bytes\b", "--cache-max-bytes", text)
    text = re.sub(r"\bdtype='(float\d+)'", r"--cache-dtype \1", text)
    return re.sub(r"\b(missing|mask|training|scaling)='(\w+)'", r"--\1 \2", text)


@contextmanager
def warnings_in_one_line(command: str) -> Iterator[None]:
    """Show warnings on stderr as one line each.

    Parameters
    ----------
    command : str
        What each line begins with.
    """

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = _in_words_of_options(str(message))
        print(f"{command}: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module="regmask_sk")
        warnings.showwarning = show
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `UserInterrupt` at Ctrl-C; in threads other than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked reader of files
            os._exit(130)
        raise UserInterrupt

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
