"""SIGINT and SIGTERM as an event: the first asks for an orderly end, the second ends the process at once.

Python runs signal handlers between two instructions of the main thread, which may just then hold a lock or a database
connection. So both signals are blocked, and a thread of their own waits for them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK = 0.1  # seconds between two looks whether the work is over


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
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(stop: threading.Event, over: threading.Event, on_stop: Callable[[], None]) -> None:
    while not over.is_set():
        received = signal.sigtimedwait(SIGNALS, LOOK)
        if received is None:
            continue
        if stop.is_set():
            os._exit(128 + received.si_signo)
        stop.set()
        on_stop()
