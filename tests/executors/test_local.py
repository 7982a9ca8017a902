from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from milsurv.errors import CohortError, MilsurvError
from milsurv.executors.base import IN_OTHER_HANDS, Event, Report, Unit
from milsurv.executors.devices import choose_device, count_workers, visible_gpus
from milsurv.executors.local import LocalExecutor
from milsurv.storage.locks import try_lock


def square(report: Report, value: int) -> int:
    report({"event": "squared", "value": value})
    return value * value


def fail(report: Report, problems: list[str]) -> None:
    report({"event": "failing"})
    raise CohortError(problems)


def die(report: Report) -> None:
    report({"event": "dying"})
    os._exit(9)


def linger(report: Report, folder: Path) -> None:
    (folder / "started").touch()
    for _ in range(600):
        report({"event": "tick"})
        time.sleep(0.05)
    (folder / "finished").touch()


def linger_through_interrupts(report: Report, steps: list[str]) -> None:
    """Ctrl-C in the middle of each step, which is finished all the same."""
    for step in ("one", "two", "three"):
        report({"event": step})
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        steps.append(step)


def _units(work: Any, arguments: list[dict[str, Any]]) -> list[Unit]:
    return [Unit(f"unit {index}", work, values) for index, values in enumerate(arguments)]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a shell's foreground: what runs in its background may be deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalExecutor]:
    """Started once: a worker imports torch."""
    with LocalExecutor(2, threads=1) as executor:
        yield executor


@pytest.mark.usefixtures("interruptible")
def test_a_first_interrupt_waits_for_a_report() -> None:
    steps: list[str] = []
    with LocalExecutor(1, threads=1) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.run(_units(linger_through_interrupts, [{"steps": steps}]), lambda *_: None)
        assert steps == ["one"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert executor.run(_units(square, [{"value": 3}]), lambda *_: None) == [9]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_an_event_is_heard_does_not_wait_for_it_to_end() -> None:
    heard: list[str] = []

    def on_event(_unit: Unit, _event: Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        heard.append("to the end")

    with LocalExecutor(1, threads=1) as executor, pytest.raises(KeyboardInterrupt):
        executor.run(_units(square, [{"value": 3}]), on_event)
    assert heard == []


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_events_with_their_unit(workers: int, two_workers: LocalExecutor) -> None:
    seen: list[tuple[str, Event]] = []
    units = _units(square, [{"value": value} for value in range(6)])
    executor = two_workers if workers == 2 else LocalExecutor(1, threads=1)
    results = executor.run(units, lambda unit, event: seen.append((unit.name, event)))
    assert results == [0, 1, 4, 9, 16, 25]
    assert executor.run(units[:2], lambda *_: None) == [0, 1]
    squared = {name: event["value"] for name, event in seen if event["event"] == "squared"}
    assert squared == {f"unit {value}": value for value in range(6)}


HELD: list[int] = []
"""What units of one process share, until :func:`let_go`."""


def hold(report: Report, value: int) -> int:
    HELD.append(value)
    report({"event": "held"})
    return len(HELD)


def let_go() -> None:
    HELD.clear()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_units_share_is_let_go_in_every_worker_after_the_last(workers: int) -> None:
    units = _units(hold, [{"value": value} for value in range(3)])
    with LocalExecutor(workers, threads=1) as executor:
        for _ in range(2):
            held = executor.run(units, lambda *_: None, after=let_go)
            assert sorted(held)[0] == 1
            assert max(held) <= 3
            assert sum(1 for count in held if count == 1) <= workers
    assert not HELD


def test_what_units_share_is_let_go_when_one_fails() -> None:
    HELD.append(1)
    with LocalExecutor(1, threads=1) as executor, pytest.raises(CohortError):
        executor.run(_units(fail, [{"problems": ["one"]}]), lambda *_: None, after=let_go)
    assert not HELD


@pytest.mark.parametrize("workers", [1, 2])
def test_a_units_error_is_raised_whole(workers: int) -> None:
    with LocalExecutor(workers, threads=1) as executor, pytest.raises(CohortError) as caught:
        executor.run(_units(fail, [{"problems": ["one", "two"]}]), lambda *_: None)
    assert caught.value.problems == ("one", "two")


def test_a_worker_that_dies_is_reported_with_what_to_do() -> None:
    with (
        LocalExecutor(2, threads=1) as executor,
        pytest.raises(MilsurvError, match=r"worker process died.*run the same"),
    ):
        executor.run(_units(die, [{}]), lambda *_: None)


def test_leaving_stops_the_units_at_their_next_report(tmp_path: Path) -> None:
    def interrupt(_unit: Unit, event: Event) -> None:
        if event["event"] == "tick":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), LocalExecutor(2, threads=1) as executor:
        executor.run(_units(linger, [{"folder": tmp_path}]), interrupt)
    assert (tmp_path / "started").exists()
    assert not (tmp_path / "finished").exists()


def test_workers_and_devices() -> None:
    assert count_workers(3, "cpu") == 3
    assert count_workers("auto", "cuda:0") == 1
    assert 1 <= count_workers("auto", "cpu") <= 8
    assert choose_device("cpu") == "cpu"


def chatter(report: Report, count: int) -> None:
    for number in range(count):
        report({"event": "word", "number": number})


def test_every_event_arrives_before_the_run_returns_and_none_after(two_workers: LocalExecutor) -> None:
    for _ in range(20):
        heard: list[str] = []
        two_workers.run(_units(chatter, [{"count": 30}] * 3), lambda unit, _event: heard.append(unit.name))  # noqa: B023
        assert sorted(heard) == [f"unit {index}" for index in range(3) for _ in range(30)]


def meet(report: Report, folder: Path, number: int) -> str:
    """Ends when the other one has come too."""
    (folder / str(number)).touch()
    while len(list(folder.iterdir())) < 2:
        report({"event": "waiting"})
        time.sleep(0.01)
    return threading.current_thread().name


def test_a_worker_does_units_side_by_side(tmp_path: Path) -> None:
    units = _units(meet, [{"folder": tmp_path, "number": number} for number in range(2)])
    with LocalExecutor(1, threads=1) as executor:
        assert len(set(executor.run(units, lambda *_: None, side_by_side=2))) == 2


def test_a_unit_that_fails_stops_its_neighbours(tmp_path: Path) -> None:
    units = [*_units(linger, [{"folder": tmp_path}]), *_units(fail, [{"problems": ["one"]}])]
    with LocalExecutor(1, threads=1) as executor, pytest.raises(CohortError) as caught:
        executor.run(units, lambda *_: None, side_by_side=2)
    assert caught.value.problems == ("one",)
    assert not (tmp_path / "finished").exists()


def look(report: Report, folder: Path, number: int) -> str:
    meet(report, folder, number)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_worker_sees_one_gpu(tmp_path: Path) -> None:
    units = _units(look, [{"folder": tmp_path, "number": number} for number in range(2)])
    with LocalExecutor(2, threads=1, gpus=("3", "5")) as executor:
        assert sorted(executor.run(units, lambda *_: None)) == ["3", "5"]


def environment(_report: Report) -> str:
    return os.environ["SET_JUST_NOW"]


def test_workers_have_the_environment_of_the_moment_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv("SET_JUST_NOW", value)
        with LocalExecutor(2, threads=1) as executor:
            assert executor.run(_units(environment, [{}, {}]), lambda *_: None) == [value, value]


def test_gpus_that_are_hidden_are_not_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,7")
    assert visible_gpus("cuda") == ["2", "7"]
    assert count_workers("auto", "cuda") == 2
    assert visible_gpus("cuda:1") == visible_gpus("cpu") == []


def make(report: Report, artifact: Path) -> str:
    if artifact.exists():
        return "there already"
    artifact.write_text("made")
    report({"event": "made"})
    return "made"


@pytest.mark.parametrize("workers", [1, 2])
def test_units_in_other_hands_are_done_last_and_looked_at_again(
    workers: int, tmp_path: Path, two_workers: LocalExecutor
) -> None:
    """Another open claim keeps two units back until all others are done; one of them is then there already."""
    artifacts = [tmp_path / f"{number}.txt" for number in range(5)]
    units = [Unit(path.stem, make, {"artifact": path}, path) for path in artifacts]
    heard: list[tuple[str, str]] = []
    executor = two_workers if workers == 2 else LocalExecutor(1, threads=1)
    with ExitStack() as others:
        for path in artifacts[:2]:
            assert others.enter_context(try_lock(path))

        def on_event(unit: Unit, event: Event) -> None:
            heard.append((unit.name, event["event"]))
            if heard.count(("0", IN_OTHER_HANDS)) and heard.count(("1", IN_OTHER_HANDS)):
                if not artifacts[0].exists():
                    artifacts[0].write_text("made elsewhere")
                others.close()

        results = executor.run(units, on_event)
    assert results == ["there already", "made", "made", "made", "made"]
    assert artifacts[0].read_text() == "made elsewhere"
    assert sorted(heard[:3]) == [(name, "made") for name in "234"]
    assert sorted(heard[3:5]) == [("0", IN_OTHER_HANDS), ("1", IN_OTHER_HANDS)]
    assert heard[5:] == [("1", "made")]
    assert set(tmp_path.iterdir()) == set(artifacts)
