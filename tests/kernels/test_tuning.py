import json

import pytest

from stugan_tf.kernels import library, tuning
from stugan_tf.kernels.convolution import Choice

PROBLEM = tuning.Problem(64, 8, 8, (3, 3, 16, 32), "same", 0.05)
NAME = "64x8x8 3x3x16x32 same 0.05"
TIMES = {"forward": [2.0, 1.0], "input_gradient": [1.0, 2.0], "kernel_gradient": [3.0, 0.1]}
CHOICE = Choice(forward=True, input_gradient=False, kernel_gradient=True)


class Measurements:
    """Instead of a race: the times of `TIMES`, counted."""

    def __init__(self, monkeypatch, folder):
        self.path = folder / "stugan_tf" / "execution.json"
        self.problems = []
        self.times = TIMES
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setattr(tuning, "measure", self.measure)
        self.set_machine = lambda name: monkeypatch.setattr(tuning, "machine", lambda: name)
        self.set_machine("this machine")
        self.forget()

    def measure(self, problem):
        self.problems.append(problem)
        return self.times

    def forget(self):
        """As in a new process."""
        tuning.fastest.cache_clear()


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    yield (made := Measurements(monkeypatch, tmp_path))
    made.forget()


def test_a_problem_is_measured_once_and_kept(measurements):
    assert tuning.fastest(PROBLEM) == tuning.fastest(PROBLEM) == CHOICE
    assert measurements.problems == [PROBLEM]
    assert json.loads(measurements.path.read_text()) == {"this machine": {NAME: TIMES}}


def test_a_later_process_reads_instead_of_measuring(measurements):
    tuning.fastest(PROBLEM)
    measurements.forget()
    measurements.times = {part: [1.0, 9.0] for part in TIMES}
    assert tuning.fastest(PROBLEM) == CHOICE
    assert measurements.problems == [PROBLEM]


def test_every_problem_and_machine_has_its_own_times(measurements):
    other = PROBLEM._replace(batch=1)
    tuning.fastest(PROBLEM)
    tuning.fastest(other)
    measurements.forget()
    measurements.set_machine("that machine")
    tuning.fastest(PROBLEM)
    assert measurements.problems == [PROBLEM, other, PROBLEM]
    kept = json.loads(measurements.path.read_text())
    assert {machine: set(times) for machine, times in kept.items()} == {
        "this machine": {NAME, NAME.replace("64x8x8", "1x8x8")},
        "that machine": {NAME},
    }


def test_what_another_process_kept_while_this_one_measured_is_not_lost(measurements, monkeypatch):
    def measure(problem):
        measurements.path.parent.mkdir(parents=True)
        measurements.path.write_text('{"this machine": {"another": {}}, "that machine": {}}')
        return TIMES

    monkeypatch.setattr(tuning, "measure", measure)
    tuning.fastest(PROBLEM)
    assert json.loads(measurements.path.read_text()) == {
        "this machine": {"another": {}, NAME: TIMES},
        "that machine": {},
    }


@pytest.mark.parametrize("content", [b"", b'{"this machine": {', b"\xff\xfe", b"[]", b"null", b"1"])
def test_a_corrupt_file_is_measured_and_written_anew(measurements, content):
    measurements.path.parent.mkdir(parents=True)
    measurements.path.write_bytes(content)
    assert tuning.fastest(PROBLEM) == CHOICE
    assert json.loads(measurements.path.read_text()) == {"this machine": {NAME: TIMES}}


def test_times_that_cannot_be_kept_are_used_and_the_warning_says_where(
    measurements, tmp_path, caplog
):
    (tmp_path / "stugan_tf").write_text("a file where a folder must be")
    assert tuning.fastest(PROBLEM) == tuning.fastest(PROBLEM) == CHOICE
    assert measurements.problems == [PROBLEM]
    assert f"Cannot keep the times of layers in {measurements.path}" in caplog.text


@pytest.mark.parametrize(
    ("dense", "sparse", "chosen"),
    [(1.0, 0.5, True), (1.0, 0.94, True), (1.0, 0.96, False), (1.0, 1.0, False), (1.0, 2.0, False)],
)
def test_sparse_must_be_faster_by_more_than_noise(measurements, dense, sparse, chosen):
    for part in TIMES:
        measurements.forget()
        measurements.path.unlink(missing_ok=True)
        measurements.times = {**TIMES, part: [dense, sparse]}
        assert tuning.fastest(PROBLEM) == CHOICE._replace(**{part: chosen})


@pytest.mark.usefixtures("operations")
def test_the_race_runs_every_part_on_small_and_empty_kernels(monkeypatch):
    monkeypatch.setattr(tuning, "SECONDS", 0)
    for padding, density in [("same", 0.5), ("valid", 0.0), ("valid", 1.0)]:
        times = tuning.measure(tuning.Problem(2, 4, 5, (3, 2, 3, 4), padding, density))
        assert list(times) == list(Choice._fields)
        assert all(time > 0 for pair in times.values() for time in pair)
        assert all(len(pair) == 2 for pair in times.values())


@pytest.mark.usefixtures("operations")
def test_the_machine_is_named_by_what_its_times_depend_on():
    assert library.fingerprint() in tuning.machine()
    assert "threads" in tuning.machine()


def test_times_beside_another_dense_library_are_others(monkeypatch):
    names = set()
    for value in ("0", "1"):
        monkeypatch.setenv(tuning.ONEDNN, value)
        tuning.machine.cache_clear()
        names.add(tuning.machine())
    tuning.machine.cache_clear()
    assert len(names) == 2
