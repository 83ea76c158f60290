"""Which signals ask a run to save and stop, and which act at once."""

import os
import signal

import pytest

from stugan_tf.runs.interruption import Interruption

ALL = (*Interruption.SIGNALS, *Interruption.WARNINGS)


@pytest.fixture
def counted(monkeypatch):
    """The signals that would have ended the program, in place of its end."""
    arrived = []
    former = {number: signal.getsignal(number) for number in ALL}
    for number in Interruption.SIGNALS:
        signal.signal(number, lambda number, frame: arrived.append(number))
    for number in Interruption.WARNINGS:
        signal.signal(number, signal.SIG_DFL)
    yield arrived
    for number, handler in former.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_the_first_signal_only_asks(counted, number):
    before = [signal.getsignal(one) for one in ALL]
    with Interruption() as interruption:
        assert interruption.signal_number is None
        send(number)
        assert interruption.signal_number == number
    assert counted == []
    assert [signal.getsignal(one) for one in ALL] == before


def test_a_second_request_acts_at_once(counted):
    with Interruption():
        send(signal.SIGTERM, signal.SIGINT)
        assert counted == [signal.SIGINT]


def test_a_warning_asks_as_often_as_it_comes_and_does_not_count_as_a_request(counted):
    """Slurm warns, then sends SIGTERM; a closed terminal may send SIGHUP twice."""
    with Interruption() as interruption:
        send(signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)
        assert interruption.signal_number == signal.SIGUSR1
        assert counted == []
        send(signal.SIGUSR1, signal.SIGTERM)
        assert counted == [signal.SIGTERM]


def test_what_the_program_ignores_or_handles_itself_is_left_alone(counted):
    mine = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As under nohup.
    signal.signal(signal.SIGUSR1, lambda number, frame: mine.append(number))
    with Interruption() as interruption:
        send(signal.SIGHUP, signal.SIGUSR1)
        assert interruption.signal_number is None
    assert mine == [signal.SIGUSR1]
