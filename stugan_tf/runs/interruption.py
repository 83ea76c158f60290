"""Signals ask a run to save and leave: SIGTERM, SIGINT, SIGHUP and SIGUSR1."""

import signal
from collections.abc import Iterable
from typing import Any


class Interrupted(BaseException):
    """A signal asked the run to stop, and the run has saved.

    Attributes:
        exit_code: 128 + the signal's number, so that a scheduler knows that the run is unfinished.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        """Keeps the signal and the step that was saved."""
        super().__init__(
            f"{signal.Signals(signal_number).name}: saved at step {step}. The same command with "
            "this --workdir goes on from there."
        )
        self.exit_code = 128 + signal_number


class Interruption:
    """A context that notes the first signal. A second SIGTERM or SIGINT acts at once.

    SIGHUP (the terminal is closed) and SIGUSR1 (Slurm warns of the end of the time) often come more
    than once, or before SIGTERM, so they only ask. They are left alone if the program ignores them,
    as under `nohup`, or handles them.

    Attributes:
        signal_number: the first signal that came, or None.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    WARNINGS = (signal.SIGHUP, signal.SIGUSR1)

    @classmethod
    def heeded(cls) -> tuple[signal.Signals, ...]:
        """The signals that a program heeds, given what it does with them now."""
        warnings = [one for one in cls.WARNINGS if signal.getsignal(one) is signal.SIG_DFL]
        return (*cls.SIGNALS, *warnings)

    def __enter__(self) -> "Interruption":
        self.signal_number: int | None = None
        self._former: dict[int, Any] = {
            number: signal.signal(number, self._note) for number in self.heeded()
        }
        return self

    def _note(self, number: int, frame: object) -> None:
        del frame
        if self.signal_number is None:
            self.signal_number = number
        if number in self.SIGNALS:
            self._restore(self.SIGNALS)

    def _restore(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            signal.signal(number, self._former[number])

    def __exit__(self, *_: object) -> None:
        self._restore(self._former)
