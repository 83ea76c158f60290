"""Runs commands, several at a time, and copes with killed jobs and a killed scheduler.

Each job has a folder with its log and `status.json`, which is locked while the job runs. The job's
own process holds the lock. So a job whose scheduler was killed is not started twice, and several
schedulers may share folders. On Linux a job is also told to stop when its scheduler dies. A job
that is killed gets a second try, because a training resumes from its checkpoint. If a job fails,
the others continue.
"""

import collections
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from stugan_tf.cores import num_cores
from stugan_tf.files import InUseError, locked, write_atomically
from stugan_tf.runs.interruption import Interruption
from stugan_tf.runs.manifest import THREADS

POLL_SECONDS = 0.5
ATTEMPTS = 2

# A separate program, because code between fork and exec could deadlock with TensorFlow's threads.
_STOPPED_WITH_PARENT = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1  # Outlives the exec.
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(parent):  # It died before.
    sys.exit(128 + signal.SIGTERM)
os.execvp(command[0], command)
"""


class Job(NamedTuple):
    """One command.

    Attributes:
        name: a unique name.
        folder: folder of `log.txt`, `status.json` and the lock; made if needed.
        command: program and arguments.
        is_done: `() -> bool`, whether the job has finished, even if another process ran it.
        threads: `() -> the CPU threads of its last start`, which it gets again; None if it has not
            started.
    """

    name: str
    folder: pathlib.Path
    command: list[str]
    is_done: Callable[[], bool]
    threads: Callable[[], int | None] = lambda: None


class Stopped(BaseException):
    """A signal asked the scheduler to stop, and all jobs have stopped.

    Attributes:
        exit_code: 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        """Keeps the signal."""
        super().__init__(f"{signal.Signals(number).name}: stopped. The same command goes on.")
        self.exit_code = 128 + number


class Scheduler:
    """Runs jobs, `processes` at a time."""

    def __init__(self, jobs, processes, show, gpus=(), poll_seconds=POLL_SECONDS):
        """Keeps the jobs.

        Args:
            jobs: `Job`s with different names.
            processes: the number of jobs to run at the same time.
            show: function of `(running, waiting, done, failed)`, each a list of `Job`s. It is
                called at each look at the processes and decides what to print.
            gpus: names for CUDA_VISIBLE_DEVICES, which the processes get in turn. () leaves the
                environment as it is.
            poll_seconds: seconds between two looks at the processes.
        """
        self._waiting = collections.deque(jobs)
        self._show = show
        self._gpus = gpus
        self._poll_seconds = poll_seconds
        self._slots = set(range(processes))
        self._threads = max(1, num_cores() // processes) if processes > 1 else None
        self._running = {}  # Name -> _Running
        self._attempts = collections.Counter()
        self._signals = []
        self.done = []
        self.failed = []

    def run(self) -> list[Job]:
        """Runs all jobs that are not done.

        Returns:
            The jobs that failed.

        Raises:
            Stopped: if a signal came. A second SIGTERM or SIGINT is also passed on to the jobs,
                where it acts at once.
        """
        with self._heeding_signals():
            while self._running or (self._waiting and not self._signals):
                self._reap()
                self._start()
                for running in self._running.values():
                    running.hand_on(self._signals)
                jobs = [running.job for running in self._running.values()]
                self._show(jobs, self._waiting, self.done, self.failed)
                time.sleep(self._poll_seconds)
        self._show([], self._waiting, self.done, self.failed)
        if self._signals:
            raise Stopped(self._signals[0])
        return self.failed

    @contextlib.contextmanager
    def _heeding_signals(self):
        insisted = False

        def note(number, frame):
            # A job gets a SIGTERM for each. After a warning such as SIGUSR1 it is saving already,
            # and the first SIGTERM, which Slurm sends next, must not keep it from that.
            nonlocal insisted
            del frame
            insists = number in Interruption.SIGNALS
            if not self._signals or (insists and insisted):
                self._signals.append(number)
            insisted |= insists

        former = {number: signal.signal(number, note) for number in Interruption.heeded()}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _reap(self):
        for name, running in list(self._running.items()):
            code = running.process.poll()
            if code is None:
                continue
            del self._running[name]
            self._slots.add(running.slot)
            running.end(code)
            if code == 0 and running.job.is_done():
                self.done.append(running.job)
            elif self._signals or (_was_killed(code) and self._attempts[name] < ATTEMPTS):
                self._waiting.append(running.job)
            else:
                self.failed.append(running.job)

    def _start(self):
        for _ in range(len(self._waiting)):
            if not self._slots or self._signals:
                return
            job = self._waiting.popleft()
            try:
                with locked(job.folder / ".lock", str(job.folder)) as lock:
                    self._start_job(job, lock)
            except InUseError:  # Another scheduler, or an orphan of one, runs it: try again later.
                self._waiting.append(job)

    def _start_job(self, job, lock):
        if job.is_done():
            self.done.append(job)
            return
        slot = min(self._slots)
        self._slots.remove(slot)
        self._attempts[job.name] += 1
        self._running[job.name] = _Running(job, slot, lock, self._environment(job, slot))

    def _environment(self, job, slot):
        environment = dict(os.environ)
        # The number of threads decides how sums are rounded, so a job keeps it.
        threads = job.threads() or self._threads
        if threads is not None:
            # Several TensorFlows that each use all cores would slow each other down.
            environment.setdefault(THREADS, str(threads))
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return environment


class _Running:
    """A job's process."""

    def __init__(self, job, slot, lock, environment):
        """Starts it.

        Args:
            job: a `Job`.
            slot: its number among the jobs that run now.
            lock: file descriptor of its lock, which the process keeps.
            environment: environment variables of the process.
        """
        self.job = job
        self.slot = slot
        self._num_signals = 0
        command = job.command
        if sys.platform.startswith("linux"):
            command = [sys.executable, "-c", _STOPPED_WITH_PARENT, str(os.getpid()), *command]
        with open(job.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock],
                # Ctrl-C must reach only the scheduler, which passes it on once: a second signal
                # would keep a training from saving.
                start_new_session=True,
            )

    def hand_on(self, signals):
        """Asks the process to save and stop, once for each signal that came."""
        for _ in signals[self._num_signals :]:
            self.process.send_signal(signal.SIGTERM)
        self._num_signals = len(signals)

    def end(self, code):
        """Writes down how the job ended."""
        status = {"exit_code": code, "command": self.job.command}
        write_atomically(self.job.folder / "status.json", json.dumps(status, indent=2).encode())


def _was_killed(code):
    """Whether a signal ended the job, or made it save and exit."""
    return code < 0 or code > 128
