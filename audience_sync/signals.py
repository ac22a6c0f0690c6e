"""Turn signals into events.

SIGINT and SIGTERM ask for an orderly end, and a second one ends the process at once. SIGHUP can ask for a reload.

Python runs signal handlers between two instructions of the main thread, which may hold a lock or a database
connection at that moment. So the signals are blocked, and a separate thread receives them with `sigwait`.
(`sigtimedwait` does not work: in CPython 3.11 it returns an arbitrary signal after the process was stopped and
continued.) Work that cannot check the event while it waits for something else uses `interrupting` to say how it can
be ended.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})

_came = threading.Event()  # the first signal, of the block that is under way
_interrupts: dict[object, Callable[[], None]] = {}  # of the work under way, by work
_alone = threading.Lock()


@contextmanager
def stoppable(on_stop: Callable[[], None], *, on_hangup: Callable[[], bool] | None = None) -> Iterator[threading.Event]:
    """Yield an event that the first signal sets, after which `on_stop` is called.

    A second signal ends the process with 128 plus its number. SIGHUP calls `on_hangup`, which returns whether it is
    such a signal, too; once the end was asked for, SIGHUP does nothing. Without `on_hangup` it ends the process, as it
    does by default. Both functions are called in another thread.

    Threads must be started within the block: they inherit that the signals are blocked.
    """
    stop, over = threading.Event(), threading.Event()
    waited_for = STOP_SIGNALS if on_hangup is None else STOP_SIGNALS | {signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    watcher = threading.Thread(
        target=_watch, args=(waited_for, stop, over, on_stop, on_hangup), name="signals", daemon=True
    )
    watcher.start()
    try:
        yield stop
    finally:
        over.set()
        signal.pthread_kill(watcher.ident or 0, signal.SIGTERM)  # to that thread alone: it wakes up and ends
        watcher.join()
        _came.clear()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """Have the work of a block interrupted by the first signal, or at once if that came before.

    `interrupt` is called in another thread, must not take long, and is not called once the block has ended.
    """
    work = object()
    with _alone:
        _interrupts[work] = interrupt
        if _came.is_set():
            interrupt()
    try:
        yield
    finally:
        with _alone:
            del _interrupts[work]


def _watch(
    waited_for: Set[signal.Signals],
    stop: threading.Event,
    over: threading.Event,
    on_stop: Callable[[], None],
    on_hangup: Callable[[], bool] | None,
) -> None:
    while True:
        received = signal.sigwait(waited_for)
        if over.is_set():
            return
        if received == signal.SIGHUP and on_hangup is not None and (stop.is_set() or not on_hangup()):
            continue
        if stop.is_set():
            os._exit(128 + received)
        stop.set()
        with _alone:
            _came.set()
            for interrupt in _interrupts.values():
                interrupt()
        with suppress(OSError):  # it may tell a terminal that has closed
            on_stop()
