"""One test for every case and path; see the package."""

import math
import os

import pytest

from . import cases, server  # noqa: F401
from .harness import CASES, PYG
from .pool import Pool

_PARAMETERS = [
    pytest.param(
        case, path, id=f"{case.name}-{path}", marks=[pytest.mark.slow] if case.slow else []
    )
    for case in CASES.values()
    for path in case.paths
]


@pytest.fixture(scope="session")
def pool(request):
    pool = Pool()
    for item in request.session.items:
        if getattr(item, "function", None) is test_case:
            case, path = item.callspec.params["case"], item.callspec.params["path"]
            if case.missing() is None:
                pool.start(case.name, path)
                if case.both:
                    pool.start(case.name, PYG)
    yield pool
    pool.close()


@pytest.mark.parametrize(("case", "path"), _PARAMETERS)
def test_case(pool, case, path):
    verdict = pool.judge(case, path)
    if verdict.status == "skipped":
        pytest.skip(verdict.text)
    if verdict.status == "failed":
        pytest.fail(f"{case.name} on the path {path!r}: {verdict.text}", pytrace=False)


def test_there_are_enough_cases():
    assert sum(case.both for case in CASES.values()) >= 90


@pytest.mark.parametrize(
    ("used", "seconds", "overdue"),
    [(61, 59, False), (61, 61, True), (59, 61, False), (1, 301, True), (math.nan, 61, True)],
)
def test_a_busy_machine_gives_a_run_more_time(monkeypatch, used, seconds, overdue):
    monkeypatch.setattr(server, "_cpu_seconds", lambda pid: used)
    assert server._overdue(1, 60, seconds) is overdue


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="/proc is not here")
def test_what_a_run_has_computed():
    assert server._cpu_seconds(os.getpid()) == pytest.approx(sum(os.times()[:4]), abs=0.5)
