"""Turn a request to stop (Ctrl-C, SIGTERM) into a question that a training asks after each step."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether somebody asked to stop; for `pretrain(should_stop=…)`.

    The first signal only raises a flag, so that the step in progress ends and is saved; a second
    one does what it always did. Outside of the main thread signals cannot be caught: never True.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked
        asked = True
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
