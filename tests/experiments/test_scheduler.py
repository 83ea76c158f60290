"""Scheduling of commands that take no time: small programs that wait for files."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from stugan_tf.experiments.scheduler import Job, Scheduler, Stopped

PATIENCE = 60  # Seconds until a test that waits gives up.


@pytest.fixture(autouse=True)
def _heeding_sighup():
    """The tests themselves may run under nohup, which has SIGHUP ignored."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


def python(program):
    return [sys.executable, "-c", textwrap.dedent(program)]


def has_succeeded(folder):
    status = folder / "status.json"
    return status.exists() and json.loads(status.read_text())["exit_code"] == 0


def job(folder, name, program, is_done=None):
    own = folder / name
    return Job(name, own, python(program), is_done or (lambda: has_succeeded(own)))


def run(jobs, processes=1, show=lambda *_: None, **options):
    scheduler = Scheduler(jobs, processes, show, poll_seconds=0.01, **options)
    failed = scheduler.run()
    return [j.name for j in scheduler.done], [j.name for j in failed]


def wait_for(path):
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def is_running(pid):
    """Whether there is such a process that has not ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_fails_is_left_and_the_others_go_on(tmp_path):
    jobs = [
        job(tmp_path, "bad", "import sys; sys.exit('it is wrong')"),
        job(tmp_path, "good", "print('it is well')"),
    ]
    assert run(jobs) == (["good"], ["bad"])
    assert "it is wrong" in (tmp_path / "bad/log.txt").read_text()
    assert (tmp_path / "good/log.txt").read_text() == "it is well\n"


def test_what_is_done_is_not_run_again_and_what_failed_is(tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    fail_once = f"""
        import os, sys
        there = os.path.exists({str(tmp_path / "fixed")!r})
        sys.exit(not there)
    """
    jobs = [job(tmp_path, "counts", count), job(tmp_path, "fails", fail_once)]
    assert run(jobs) == (["counts"], ["fails"])
    (tmp_path / "fixed").touch()
    assert run(jobs) == (["counts", "fails"], [])
    assert (tmp_path / "count").read_text() == "x"


def test_a_run_that_others_finished_is_done(tmp_path):
    never = job(tmp_path, "never", "import sys; sys.exit(1)", is_done=lambda: True)
    assert run([never]) == (["never"], [])
    assert not (tmp_path / "never/log.txt").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_so_many_run_at_a_time(tmp_path, processes):
    """Each waits until as many have started as should run at once."""
    program = f"""
        import pathlib, os, time
        folder = pathlib.Path({str(tmp_path)!r})
        (folder / f"started_{{os.getpid()}}").touch()
        end = time.monotonic() + {PATIENCE}
        while len(list(folder.glob("started_*"))) < {processes} and time.monotonic() < end:
            time.sleep(0.01)
    """
    most = 0

    def show(running, *_):
        nonlocal most
        most = max(most, len(running))

    jobs = [job(tmp_path, f"job{number}", program) for number in range(3)]
    done, failed = run(jobs, processes, show)
    assert (sorted(done), failed) == (["job0", "job1", "job2"], [])
    assert most == processes


def test_a_killed_run_gets_one_more_try(tmp_path):
    kill_once = f"""
        import os, pathlib, signal
        mark = pathlib.Path({str(tmp_path / "mark")!r})
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    kill_always = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    jobs = [job(tmp_path, "once", kill_once), job(tmp_path, "always", kill_always)]
    assert run(jobs) == (["once"], ["always"])


SAVES_ON_SIGTERM = """
    import pathlib, signal, sys, time
    here = pathlib.Path({folder!r})
    def save(number, frame):
        (here / "saved").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, save)
    if (here / "saved").exists():
        sys.exit(0)
    (here / "started").write_text("")
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_makes_all_save_and_the_same_jobs_go_on(tmp_path, number):
    jobs = [
        job(tmp_path, "running", SAVES_ON_SIGTERM.format(folder=str(tmp_path))),
        job(tmp_path, "waiting", ""),
    ]
    asked = False

    def show(running, *_):
        nonlocal asked
        if (tmp_path / "started").exists() and not asked:
            asked = True
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped) as stopped:
        run(jobs, show=show)
    assert stopped.value.exit_code == 128 + number
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "waiting/log.txt").exists()
    assert run(jobs) == (["running", "waiting"], [])


@pytest.mark.parametrize(
    ("numbers", "passed_on"),
    [
        ([signal.SIGUSR1, signal.SIGTERM], 1),  # Slurm warns, then ends the job.
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGINT], 1),
        ([signal.SIGTERM, signal.SIGUSR1], 1),
        ([signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM], 2),
        ([signal.SIGTERM, signal.SIGINT], 2),
    ],
)
def test_only_a_second_sigterm_or_sigint_keeps_jobs_from_saving(tmp_path, numbers, passed_on):
    counts = f"""
        import pathlib, signal, sys, time
        here, count = pathlib.Path({str(tmp_path)!r}), 0
        def note(number, frame):
            global count
            count += 1
            (here / f"told{{count}}").touch()
        signal.signal(signal.SIGTERM, note)
        (here / "started").touch()
        while not (here / "saved").exists():
            time.sleep(0.01)
        sys.exit(128 + signal.SIGTERM)
    """
    left = list(numbers)

    def show(*_):
        told = len(list(tmp_path.glob("told*")))
        # The second waits for the first, because two at once may count as one.
        ready = (tmp_path / "started").exists() if left == numbers else told
        if left and ready:
            os.kill(os.getpid(), left.pop(0))
        elif told == passed_on and not left:
            (tmp_path / "saved").touch()

    with pytest.raises(Stopped):
        run([job(tmp_path, "job", counts)], show=show)
    assert len(list(tmp_path.glob("told*"))) == passed_on


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells a child")
def test_a_killed_scheduler_takes_its_jobs_with_it(tmp_path):
    """What it ran saves; until that is done nobody else starts it, then the same jobs go on."""
    program = f"""
        import os, pathlib, signal, sys, time
        here = pathlib.Path({str(tmp_path)!r})
        def save(number, frame):
            (here / "told").touch()
            while not (here / "let_go").exists():
                time.sleep(0.01)
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        (here / "written").write_text(str(os.getpid()))
        os.rename(here / "written", here / "pid")
        time.sleep(600)
    """
    parent = f"""
        import pathlib
        from stugan_tf.experiments.scheduler import Job, Scheduler
        folder = pathlib.Path({str(tmp_path / "job")!r})
        job = Job("job", folder, {python(program)!r}, lambda: False)
        Scheduler([job], 1, lambda *_: None).run()
    """
    scheduler = subprocess.Popen(python(parent))
    try:
        wait_for(tmp_path / "pid")
        child = int((tmp_path / "pid").read_text())
    finally:
        scheduler.kill()
        scheduler.wait()
    wait_for(tmp_path / "told")
    looks = 0

    def show(running, waiting, done, failed):
        nonlocal looks
        if not done:
            assert not running
            looks += 1
            if looks == 3:
                (tmp_path / "let_go").touch()

    is_done = (tmp_path / "let_go").exists
    assert run([job(tmp_path, "job", "import sys; sys.exit(1)", is_done)], show=show) == (
        ["job"],
        [],
    )
    assert looks >= 3
    assert not is_running(child)


def test_each_process_gets_its_gpu_and_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr("stugan_tf.experiments.scheduler.num_cores", lambda: 8)
    program = f"""
        import os, pathlib, time
        here = pathlib.Path({str(tmp_path)!r})
        names = ("CUDA_VISIBLE_DEVICES", "TF_NUM_INTRAOP_THREADS")
        (here / "_".join(os.environ[name] for name in names)).touch()
        end = time.monotonic() + {PATIENCE}
        while len(list(here.glob("?_4"))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    """
    jobs = [job(tmp_path, name, program) for name in ("one", "other")]
    run(jobs, processes=2, gpus=["5", "7"])
    assert sorted(path.name for path in tmp_path.glob("?_4")) == ["5_4", "7_4"]


def test_a_job_keeps_the_threads_that_it_had_unless_the_user_chooses_them(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr("stugan_tf.experiments.scheduler.num_cores", lambda: 8)
    program = f"""
        import os, pathlib, sys
        threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "all")
        (pathlib.Path({str(tmp_path)!r}) / f"{{sys.argv[1]}}_{{threads}}").touch()
    """

    def start(name, threads, processes):
        made = job(tmp_path, name, program)
        made = made._replace(command=[*made.command, name], threads=lambda: threads)
        assert run([made], processes) == ([name], [])

    start("resumed", 3, processes=1)
    start("resumed_beside_another", 3, processes=2)
    start("new", None, processes=2)
    start("alone", None, processes=1)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    start("chosen", 3, processes=2)
    found = {path.name for path in tmp_path.glob("*_*") if path.is_file()}
    assert found == {"resumed_3", "resumed_beside_another_3", "new_4", "alone_all", "chosen_5"}


def test_a_job_that_ends_well_without_its_result_has_failed(tmp_path):
    lost = job(tmp_path, "lost", "", is_done=lambda: False)
    assert run([lost]) == ([], ["lost"])
