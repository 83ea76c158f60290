"""SIGTERM and SIGINT ask a run to save and leave."""

import signal


class Interrupted(BaseException):
    """The run was asked to stop, and has saved.

    Attributes:
        exit_code: 128 + the signal's number, so that whoever restarts jobs sees an unfinished one.
    """

    def __init__(self, signal_number, step):
        """Notes the signal and the step that was saved."""
        super().__init__(
            f"{signal.Signals(signal_number).name}: saved at step {step}. The same command with "
            "this --workdir goes on from there."
        )
        self.exit_code = 128 + signal_number


class Interruption:
    """While open, remembers the first such signal; a second one acts at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self.signal_number = None
        self._former = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def _note(self, number, frame):
        del frame
        self.signal_number = number
        self._restore()

    def _restore(self):
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def __exit__(self, *_):
        self._restore()
