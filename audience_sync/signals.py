"""SIGINT and SIGTERM as an event: the first asks for an orderly end, the second ends the process at once.

Python runs signal handlers between two instructions of the main thread, which may just then hold a lock or a database
connection. So both signals are blocked, and a thread of their own waits for them. Work that cannot look at the event,
because it waits for somebody else, says with `interrupting` how it is ended.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK = 0.1  # seconds between two looks whether the work is over

_came = threading.Event()  # the first signal, of the block that is under way
_interrupts: dict[object, Callable[[], None]] = {}  # of the work under way, by work
_alone = threading.Lock()


@contextmanager
def stoppable(on_stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Yield an event that the first signal sets, telling `on_stop`; a second one ends the process, as 128 + its number.

    Threads must be started within the block: they inherit that the signals are blocked.
    """
    stop, over = threading.Event(), threading.Event()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    watcher = threading.Thread(target=_watch, args=(stop, over, on_stop), name="signals", daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        over.set()
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


def _watch(stop: threading.Event, over: threading.Event, on_stop: Callable[[], None]) -> None:
    while not over.is_set():
        received = signal.sigtimedwait(SIGNALS, LOOK)
        if received is None:
            continue
        if stop.is_set():
            os._exit(128 + received.si_signo)
        stop.set()
        on_stop()
        with _alone:
            _came.set()
            for interrupt in _interrupts.values():
                interrupt()
