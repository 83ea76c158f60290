"""SIGTERM and SIGINT ask a run to save and leave."""

import signal


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
    """A context that notes the first SIGTERM or SIGINT. The second acts at once.

    Attributes:
        signal_number: the signal that came, or None.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "Interruption":
        self.signal_number: int | None = None
        self._former = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def _note(self, number: int, frame: object) -> None:
        del frame
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
