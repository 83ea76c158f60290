"""What a test may cost: processor seconds, so that others on the machine do not matter.

Counted are this process, all its threads and the processes that the test started and waited for.
What a fixture of a wider scope costs to set up is shared by many tests, so it is counted by
itself. Budgets are seconds of an idle core. What shares a core with another program counts up to
twice as many, so a test fails at twice its budget. `TEST_BUDGET=4` allows four times as many, on a
slower machine; `TEST_BUDGET=0` counts nothing. `TEST_COSTS=FILE` adds a line of JSON for each test
and each shared fixture.
"""

import json
import os
import resource

import pytest

SECONDS = 5.0
SHARED_SECONDS = 20.0
ADVICE = (
    "Make it smaller (a smaller network, fewer steps, fewer examples), share what it compiles in "
    "a fixture of its module, or leave functions untraced (the fixture `untraced`). If it can't "
    "be smaller, mark it `ci`; if it must run each day, @pytest.mark.budget(seconds, reason)."
)


def cpu_seconds():
    """Of this process and of all processes that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def resident_mib():
    """What this process keeps in memory now, where the system tells it, else 0."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


class Budget:
    """A plugin of pytest that fails tests over their budget.

    Args:
        factor: what every budget is multiplied with; 0 for no budgets.
        costs: path of a file for what was measured, or None.
    """

    def __init__(self, factor=1.0, costs=None):
        self._factor = factor
        self._costs = costs
        self._of_test = 0.0
        self._shared = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """Takes what a shared fixture costs out of what the test pays."""
        if fixturedef.scope == "function":
            return (yield)
        begin, shared_before = cpu_seconds(), self._shared
        try:
            return (yield)
        finally:
            # A fixture that it asked for on the way has counted itself.
            seconds = cpu_seconds() - begin - (self._shared - shared_before)
            self._shared += seconds
            name = f"{fixturedef.baseid}::{fixturedef.argname}"
            self._note(name, seconds)
            if not _is_long(request.node) and seconds > SHARED_SECONDS * self._factor > 0:
                message = f"The fixture {fixturedef.argname} took {seconds:.1f} processor seconds"
                pytest.fail(f"{message}, its budget is {SHARED_SECONDS:g}. {ADVICE}", pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        """Counts the fixtures of the test alone."""
        self._of_test = 0.0
        begin, shared_before = cpu_seconds(), self._shared
        try:
            return (yield)
        finally:
            self._of_test += cpu_seconds() - begin - (self._shared - shared_before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        """Fails a test that has passed but took too long."""
        begin, shared_before = cpu_seconds(), self._shared
        try:
            result = yield
        finally:
            self._of_test += cpu_seconds() - begin - (self._shared - shared_before)
            self._note(item.nodeid, self._of_test)
        allowed = budget_of(item)
        if not _is_long(item) and self._of_test > allowed * self._factor > 0:
            message = f"It took {self._of_test:.1f} processor seconds, its budget is {allowed:g}"
            pytest.fail(f"{message}. {ADVICE}", pytrace=False)
        return result

    def _note(self, name, seconds):
        if self._costs:
            line = {"name": name, "seconds": round(seconds, 3), "mib": round(resident_mib())}
            with open(self._costs, "a") as file:
                file.write(json.dumps(line) + "\n")


def budget_of(item):
    """The processor seconds that a test may take; its marker says so if they are not the usual."""
    marker = item.get_closest_marker("budget")
    return _read_marker(*marker.args, **marker.kwargs) if marker else SECONDS


def _read_marker(seconds, reason):
    if not reason:
        raise pytest.UsageError("@pytest.mark.budget needs a reason")
    return float(seconds)


def _is_long(node):
    return any(node.get_closest_marker(name) for name in ("ci", "slow"))


def pytest_configure(config):
    """Registers it with what the environment says."""
    factor = float(os.environ.get("TEST_BUDGET", "2"))
    config.pluginmanager.register(Budget(factor, os.environ.get("TEST_COSTS")), "budget_of_tests")
