"""How every job ends: exit codes, and errors as plain messages."""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer
from typer.exceptions import TyperException

from darkroom import phases  # first: its clock begins here

DONE, FAILED, WRONG_INPUT, ENVIRONMENT = 0, 1, 2, 3
STUCK_SECONDS = 20.0  # that an interrupted job may take to let go of what it holds
KEPT = "Nothing that was committed is lost: run the same command again to go on."
AGAIN = "When that is mended, run the same command again."  # of a command that had no phase yet: nothing is kept of it


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM; raised in the main thread, so that what is held is let go of. Its text is for people: what is
    kept."""

    def __init__(self, number: int) -> None:
        super().__init__(KEPT)
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns the first SIGINT or SIGTERM into Interrupted; the second ends the process where it stands."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from darkroom.storage.patience import wait_again

    interrupt, unraisable = _Interrupt(), sys.unraisablehook
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.unraisablehook = lambda lost: interrupt.repeat(lost.exc_value) or unraisable(lost)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
        wait_again()


class _Interrupt:
    """The handler of these signals."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        from darkroom.storage.patience import stop_waiting

        if self.told:
            os._exit(128 + number)
        self.told = True
        stop_waiting()
        raise Interrupted(number)

    def repeat(self, lost: BaseException | None) -> bool:
        """Whether what was raised where nothing can be (a destructor, a weak reference's callback: Python only prints
        it) is an interruption; it is raised anew a moment later, when the main thread is somewhere else."""
        if not isinstance(lost, Interrupted):
            return False
        self.told = False
        threading.Timer(0.01, os.kill, (os.getpid(), lost.code - 128)).start()
        return True


@contextmanager
def ended_when_stuck(verbose: bool) -> Iterator[None]:
    """Ends the process some seconds after a SIGINT or SIGTERM that was to interrupt it, if it lives still: a call into
    Ray whose raylet died may never come back to the interpreter, and then nothing is raised."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_later, args=(heard, verbose), name="last resort", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(tell)


def _end_later(heard: int, verbose: bool) -> None:
    while (number := os.read(heard, 1)) and not isinstance(signal.getsignal(number[0]), _Interrupt):
        pass
    if not number:
        os.close(heard)
        return  # else it stays open: a signal that comes again must be able to write
    time.sleep(STUCK_SECONDS)
    print(f"darkroom: interrupted, and not at its end after {STUCK_SECONDS:g} s. {KEPT}", file=sys.stderr, flush=True)
    if verbose:
        faulthandler.dump_traceback()
    os._exit(128 + number[0])


@contextmanager
def exit_codes(verbose: bool = False) -> Iterator[None]:
    """Turns errors into a message on stderr and an exit code: 2 for the user's input, 3 for the environment; 130 and
    143 for Ctrl-C and SIGTERM."""
    from darkroom.batch.progress import Stalled, TooManyFailed
    from darkroom.ray_cluster import ClusterError, errors_of_ray
    from darkroom.runs.log import LogDamaged
    from darkroom.storage import StorageError

    quiet(verbose)
    try:
        with ended_when_stuck(verbose), interruptible():
            yield
    except Interrupted as error:
        _stop(f"interrupted: {error}", error.code, verbose)
    except TooManyFailed as error:
        _stop(f"{error}; what is made is kept: the same command tries the failed rows again", FAILED, verbose)
    except LogDamaged as error:
        _stop(f"{error}. `darkroom audit RUN --fix` makes a run's log anew from its metadata/", ENVIRONMENT, verbose)
    except (StorageError, ClusterError, Stalled) as error:
        _stop(f"{error}\n{KEPT if phases.current else AGAIN}", ENVIRONMENT, verbose)
    except errors_of_ray() as error:  # before ValueError: of a worker's, Ray's wrapper is one too
        *_, last = str(error).strip().splitlines() or [type(error).__name__]
        _stop(f"Ray gave up: {last}\n{KEPT}", ENVIRONMENT, verbose)
    except ValueError as error:
        _stop(str(error), WRONG_INPUT, verbose)
    except (typer.Exit, TyperException):  # of a job's own command line, which another command was given
        raise
    except Exception as error:  # a fault of ours: a sentence all the same
        _stop(f"a fault of this program, {_described(error)}; --verbose says more", ENVIRONMENT, verbose)


def _described(error: Exception) -> str:
    """An error that nobody foresaw: what it is, and the last line of ours that it went through."""
    text = " ".join(str(error).split())[:300]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "darkroom" in frame.filename]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {text}"


def quiet(verbose: bool) -> None:
    """Keeps libraries from talking, unless asked; and no usage statistics leave the machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread left over at the exit would start another Ray
    if verbose:
        return
    logging.raiseExceptions = False  # Ray's threads that outlive a job that gave up log to files that are closed
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _stop(message: str, code: int, verbose: bool) -> None:
    message = phases.redacted(message)
    if verbose:
        print(phases.redacted(traceback.format_exc()), file=sys.stderr)
    print(f"darkroom: {message}", file=sys.stderr)
    atexit.register(_keep, code)
    raise typer.Exit(code)


def _keep(code: int) -> None:
    """Ends the process before Ray does, where it runs: threads of a job that gave up may wait in it still, and then its
    end is the process', by another code. What it started here ends first; a cluster that was joined loses a driver."""
    if getattr(sys.modules.get("ray"), "is_initialized", bool)():
        from darkroom.ray_cluster.processes import kill_below

        sys.stdout.flush()
        sys.stderr.flush()
        kill_below()
        os._exit(code)  # at once: Ray ends a driver whose raylet is gone
