"""Errors of the commands with their exit codes, and the common frame of a command.

| code          | meaning                                                 |
|--------------:|---------------------------------------------------------|
| 0             | done                                                    |
| 2             | bad input, in one line                                  |
| 3             | training or sampling diverged                           |
| 4             | something could not be written                          |
| 5             | no progress, or another process was lost                |
| 130, 143      | stopped by Ctrl-C or SIGTERM                            |
| 129, 138, 140 | stopped by SIGHUP, SIGUSR1 or SIGUSR2                   |

A command outlives the readers of its output: what cannot be written to standard output
or standard error is dropped.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from difflib import SequenceMatcher
from types import FrameType
from typing import Any, NoReturn, TextIO

# SLURM sends SIGUSR1 or SIGUSR2 on request, and a closed terminal SIGHUP.
SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_LEAST_SIMILARITY = 0.65
_READER_IS_GONE = errno.EPIPE, errno.EIO
# Addresses of local copies, by their paths.
shown_as: dict[str, str] = {}
# Errors of JAX that were not caused by another process.
_OWN_FAULTS = "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED"


class Error(Exception):
    """Failure of a command, explained in one line.

    Attributes:
      exit_code: exit code of the command.
      everywhere: whether all processes of a run raise it together, so that none keeps
        an orderly exit waiting.
    """

    exit_code: int = 2
    everywhere: bool = False


class InputError(Error, ValueError):
    """Input is not valid; the message names it and what is accepted."""


class NonFiniteError(Error):
    """A loss, gradient, parameter or pixel became NaN or infinite."""

    exit_code = 3
    everywhere = True


class UsageError(InputError):
    """A flag is missing, unknown or invalid."""


class Interrupted(Error):
    """A command stopped on a signal; everything is saved."""

    everywhere = True

    def __init__(self, signum: int, where: str) -> None:
        """Takes the signal number and the place where it stopped."""
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name}, {where}; the same command resumes")
        self.exit_code = 128 + signum


def exit_with(main: Callable[[list[str]], Any], argv: list[str]) -> None:
    """Runs a command; on failure prints one line and exits with the error's code.

    A signal raises SystemExit in the command, so that unfinished files are removed.
    """
    output, _ = _guard("stdout"), _guard("stderr")
    try:
        with _signals(_raise_exit):
            main(argv)
    except BaseException as error:
        reason, code = _explain(error)
        if reason:
            _fail(reason, code, getattr(error, "everywhere", False))
        if isinstance(error, Exception) and _is_distributed():
            _leave("".join(traceback.format_exception(error)), code)
        raise
    sys.stdout.flush()
    lost = output.error if output else None
    if lost and lost.errno not in _READER_IS_GONE:
        _fail(f"standard output: {lost.strerror}", 4)


def default_signals() -> contextlib.AbstractContextManager[None]:
    """Lets signals kill the process at once, even inside a long call into C."""
    return _signals(signal.SIG_DFL)


def heard_signals() -> list[signal.Signals]:
    """Returns `SIGNALS` without those to be ignored, as SIGHUP is under nohup."""
    always = signal.SIGINT, signal.SIGTERM
    return [s for s in SIGNALS if s in always or signal.getsignal(s) != signal.SIG_IGN]


def shown(text: str) -> str:
    """Returns a message with addresses in place of the paths of local copies."""
    for path, name in shown_as.items():
        text = text.replace(path, name)
    return text


def last_line(error: BaseException) -> str:
    """Returns the last line of an error's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def escaped(text: object, most: int = 80) -> str:
    """Returns a text from a file for a line: printable ASCII, of limited length."""
    return ascii(str(text))[1:-1][:most]


def reason_of(error: BaseException) -> str:
    """Returns the message of a reader's error, which may quote the file, for a line."""
    return escaped(" ".join(str(error).split()), 200)


def not_one_of(word: str, choices: Iterable[str]) -> str:
    """Returns the refusal of a word that is not in a small closed set."""
    return f"{word!r} is not one of {', '.join(choices)}"


def did_you_mean(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """Returns "; did you mean …?" for a misspelt or abbreviated word, or ""."""
    near = nearest(word, choices)
    return f"; did you mean {prefix}{near}?" if near else ""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that a misspelt or abbreviated word means, if one is near.

    Initials abbreviate: "base.lr" is near "base.learning_rate". So do beginnings: "ema"
    is near "ema_decay". Of equally near choices the first is returned.
    """
    scores = {choice: _similarity(word.lower(), choice) for choice in choices}
    best = max(scores, key=lambda choice: scores[choice], default=None)
    return best if best is not None and scores[best] >= _LEAST_SIMILARITY else None


def _similarity(word: str, choice: str) -> float:
    """Returns how near a word is to a choice, or to a short form of it, in [0, 1]."""
    path, dot, leaf = choice.rpartition(".")
    initials = "".join(part[:1] for part in leaf.split("_"))
    forms = {leaf: 0.95} | {choice: 1.0}
    if len(initials) > 1:
        forms |= {path + dot + initials: 0.9, initials: 0.85}
    scores = [
        w * SequenceMatcher(None, word, form).ratio() for form, w in forms.items()
    ]
    begins = len(word) > 2 and word in (choice[: len(word)], leaf[: len(word)])
    return max(*scores, 0.8 * begins)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or str(error).startswith(_OWN_FAULTS[0])


def _is_lost_process(error: BaseException) -> bool:
    """Whether an error, or its cause, is JAX's report that a peer is gone."""
    if not _is_distributed():
        return False
    jax_error = sys.modules["jax"].errors.JaxRuntimeError
    return any(
        isinstance(one, jax_error) and not str(one).startswith(_OWN_FAULTS)
        for one in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error, the members of a group, and their causes."""
    yield error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for one in (*inner, error.__cause__):
        if one:
            yield from _causes(one)


def _explain(error: BaseException) -> tuple[str, int]:
    """Returns message and exit code of an error; no message for one in the program."""
    match error:
        case Error():
            return str(error), 5 if _is_lost_process(error) else error.exit_code
        case OSError():
            return f"{error.filename or 'a file'}: {error.strerror or error}", 4
        case KeyboardInterrupt():
            return "interrupted", 130
        case SystemExit(code=int(code)) if code > 128:
            return f"stopped by {signal.Signals(code - 128).name}", code
        case Exception() if _is_out_of_memory(error):
            return f"out of memory ({last_line(error)})", 2
        case ValueError() if _is_of_environment(error):
            return f"the environment of JAX: {last_line(error)}", 2
        case Exception() if _is_lost_process(error):
            return f"another process was lost ({last_line(error)})", 5
    return "", 1


def exit_code_of(error: BaseException) -> int:
    """Returns the exit code with which a command ends after an error."""
    return _explain(error)[1]


def _is_of_environment(error: BaseException) -> bool:
    """Whether JAX has refused a variable of the environment, when it was imported."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith("jax/_src/config.py")


def _is_distributed() -> bool:
    """Whether this process has joined others; never true without JAX."""
    jax: Any = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


class _LossyFile(io.FileIO):
    """File descriptor whose writes never fail.

    Attributes:
      error: the first error, if any; what could not be written is dropped.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Writes bytes; returns their number."""
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError as error:
            self.error = self.error or error
            written = size
        return size if written is None else written  # None if it would block


def _guard(name: str) -> _LossyFile | None:
    """Makes a standard stream lossy; None if a test or notebook has replaced it."""
    stream: TextIO | None = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__"):
        return None
    if stream is None:  # its descriptor was closed
        file = _LossyFile(os.open(os.devnull, os.O_WRONLY), "w")
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(file)))
        return file
    with contextlib.suppress(OSError):
        stream.flush()
    file = _LossyFile(stream.fileno(), "w", closefd=False)
    setattr(
        sys,
        name,
        io.TextIOWrapper(
            io.BufferedWriter(file),
            encoding=stream.encoding,
            errors="backslashreplace" if stream.errors == "strict" else stream.errors,
            line_buffering=bool(stream.line_buffering),
        ),
    )
    return file


@contextlib.contextmanager
def _signals(action: Any) -> Iterator[None]:
    """Sets the action of `heard_signals`; Ctrl-C keeps raising KeyboardInterrupt."""
    before = {s: signal.signal(s, action) for s in heard_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _raise_exit(signum: int, frame: FrameType | None) -> NoReturn:
    error = KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)
    if _is_importing(frame):  # which may swallow any exception, and writes nothing
        reason, code = _explain(error)
        with contextlib.suppress(OSError):
            print(f"progdist: {reason}", file=sys.stderr, flush=True)
        os._exit(code)
    raise error


def _is_importing(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _fail(message: str, code: int, everywhere: bool = False) -> NoReturn:
    if _is_distributed() and not everywhere:
        _leave(f"progdist: {shown(message)}\n", code)
    say(f"progdist: {shown(message)}\n")
    sys.exit(code)


def say(text: str) -> None:
    """Writes to standard error at once, if it can be written to."""
    with contextlib.suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)


def _leave(text: str, code: int) -> NoReturn:
    """Ends one of several processes; an orderly exit would wait for the others."""
    try:
        code = _last_words[-1](text, code)
    finally:
        os._exit(code)


def _say_alone(text: str, code: int) -> int:
    say(text)
    return code


_last_words: list[Callable[[str, int], int]] = [_say_alone]


def on_leaving(act: Callable[[str, int], int]) -> None:
    """Sets what one of several processes does when it fails on its own.

    Args:
      act: gets the text to say and the exit code; returns the exit code.
    """
    _last_words.append(act)
