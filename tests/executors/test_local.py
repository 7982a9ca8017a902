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
from milsurv.executors.base import LOCKED, WORKER_DIED, Context, Event, Resources, Unit
from milsurv.executors.devices import Device, visible_gpus
from milsurv.executors.local import LocalConfig, LocalExecutor
from milsurv.storage.locks import try_lock


def square(context: Context, value: int) -> int:
    context.report({"event": "squared", "value": value})
    return value * value


def fail(context: Context, problems: list[str]) -> None:
    context.report({"event": "failing"})
    raise CohortError(problems)


def linger(context: Context, folder: Path) -> None:
    (folder / "started").touch()
    context.report({"event": "started"})
    for _ in range(600):
        context.raise_if_stopped()
        time.sleep(0.05)
    (folder / "finished").touch()


def linger_through_interrupts(context: Context, steps: list[str]) -> None:
    """Ctrl-C in the middle of each step, which is finished all the same."""
    for step in ("one", "two", "three"):
        context.report({"event": step})
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        steps.append(step)


def _local(workers: int) -> LocalExecutor:
    return LocalExecutor(LocalConfig(workers=workers), "cpu")


def _units(work: Any, arguments: list[dict[str, Any]], resources: Resources | None = None) -> list[Unit]:
    return [
        Unit(f"unit {i}", work, values, None, resources or Resources()) for i, values in enumerate(arguments)
    ]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a shell's foreground: what runs in its background may be deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalExecutor]:
    """Started once: a worker imports torch."""
    with _local(2) as executor:
        yield executor


@pytest.mark.usefixtures("interruptible")
def test_a_first_interrupt_waits_for_a_report() -> None:
    steps: list[str] = []
    with _local(1) as executor:
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

    with _local(1) as executor, pytest.raises(KeyboardInterrupt):
        executor.run(_units(square, [{"value": 3}]), on_event)
    assert heard == []


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_events_with_their_unit(workers: int, two_workers: LocalExecutor) -> None:
    seen: list[tuple[str, Event]] = []
    units = _units(square, [{"value": value} for value in range(6)])
    executor = two_workers if workers == 2 else _local(1)
    results = executor.run(units, lambda unit, event: seen.append((unit.name, event)))
    assert results == [0, 1, 4, 9, 16, 25]
    assert executor.run(units[:2], lambda *_: None) == [0, 1]
    squared = {name: event["value"] for name, event in seen if event["event"] == "squared"}
    assert squared == {f"unit {value}": value for value in range(6)}


class Network:
    """What the units of a worker share."""

    open = 0

    def __init__(self) -> None:
        Network.open += 1
        self.used = 0

    def close(self) -> None:
        Network.open -= 1


def use_network(context: Context, value: int) -> tuple[int, int]:
    network = context.shared.get("network", Network)
    network.used += 1
    context.report({"event": "used", "value": value})
    return Network.open, network.used


@pytest.mark.parametrize("workers", [1, 2])
def test_units_share_objects_that_every_worker_makes_once_and_closes_at_the_end(workers: int) -> None:
    units = _units(use_network, [{"value": value} for value in range(3)])
    with _local(workers) as executor:
        for _ in range(2):
            found = executor.run(units, lambda *_: None)
            assert {opened for opened, _ in found} == {1}
            assert sorted(used for _, used in found) in ([1, 2, 3], [1, 1, 2])
    assert Network.open == 0


def fail_with_network(context: Context) -> None:
    context.shared.get("network", Network)
    raise CohortError(["one"])


def test_shared_objects_are_closed_when_a_unit_fails() -> None:
    with _local(1) as executor, pytest.raises(CohortError):
        executor.run(_units(fail_with_network, [{}]), lambda *_: None)
    assert Network.open == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_units_error_is_raised_whole(workers: int) -> None:
    with _local(workers) as executor, pytest.raises(CohortError) as caught:
        executor.run(_units(fail, [{"problems": ["one", "two"]}]), lambda *_: None)
    assert caught.value.problems == ("one", "two")


def make_or_die(context: Context, folder: Path, number: int, deaths: int) -> int:
    """Number 1 kills its process so many times."""
    attempts = folder / "attempts"
    with attempts.open("a") as file:
        file.write(f"{number}\n")
    if number == 1 and attempts.read_text().split().count("1") <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"made {number}").touch()
    context.report({"event": "made"})
    return number * number


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_unit_whose_worker_dies_is_run_again_in_a_fresh_one(deaths: int, tmp_path: Path) -> None:
    units = _units(make_or_die, [{"folder": tmp_path, "number": n, "deaths": deaths} for n in range(5)])
    events: list[tuple[str, Event]] = []
    with _local(2) as executor:
        results = executor.run(units, lambda unit, event: events.append((unit.name, event)))
        assert executor.run(units, lambda *_: None) == results
    assert results == [0, 1, 4, 9, 16]
    assert [entry for entry in events if entry[1]["event"] == WORKER_DIED] == [
        ("unit 1", {"event": WORKER_DIED, "how": "SIGKILL", "attempt": attempt})
        for attempt in range(1, deaths + 1)
    ]
    assert sorted(name for name, event in events if event["event"] == "made") == [
        f"unit {n}" for n in range(5)
    ]


def test_a_unit_whose_workers_keep_dying_is_an_error_and_what_is_finished_stays(tmp_path: Path) -> None:
    units = _units(make_or_die, [{"folder": tmp_path, "number": n, "deaths": 99} for n in range(2)])
    with (
        _local(2) as executor,
        pytest.raises(
            MilsurvError, match=r"^unit 1: its worker process died 3 times \(SIGKILL\).*run the same"
        ),
    ):
        executor.run(units, lambda *_: None)
    assert (tmp_path / "made 0").exists()
    assert (tmp_path / "attempts").read_text().split().count("1") == 3


def test_both_units_of_a_worker_that_dies_are_run_again(tmp_path: Path) -> None:
    """A worker that runs two at a time loses the neighbour too."""
    units = _units(meet_then_die, [{"folder": tmp_path, "number": n} for n in range(2)], Resources(gpus=0.5))
    events: list[Event] = []
    with _local(1) as executor:
        assert executor.run(units, lambda _unit, event: events.append(event)) == [0, 1]
    assert [event["how"] for event in events if event["event"] == WORKER_DIED] == ["exit status 9"] * 2


def meet_then_die(context: Context, folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    while not all((folder / name).exists() for name in ("0", "1")):
        time.sleep(0.01)
    died = folder / "died"
    if number == 1 and not died.exists():
        died.touch()
        os._exit(9)
    while not died.exists():
        context.raise_if_stopped()
        time.sleep(0.01)
    return number


def test_leaving_stops_units_between_two_steps(tmp_path: Path) -> None:
    """Also those that report nothing on their way."""

    def interrupt(_unit: Unit, event: Event) -> None:
        if event["event"] == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), _local(2) as executor:
        executor.run(_units(linger, [{"folder": tmp_path}] * 2), interrupt)
    assert (tmp_path / "started").exists()
    assert not (tmp_path / "finished").exists()


def _on_gpu(device: str, **settings: Any) -> LocalExecutor:
    """As on a machine that has that device."""
    executor = LocalExecutor(LocalConfig(**settings), device)
    vars(executor)["device"] = Device(device)
    return executor


def test_the_number_of_workers() -> None:
    assert _local(3).workers == 3
    assert _on_gpu("cuda:0").workers == 1
    assert 1 <= LocalExecutor(LocalConfig(), "cpu").workers <= 8


def chatter(context: Context, count: int) -> None:
    for number in range(count):
        context.report({"event": "word", "number": number})


def test_every_event_arrives_before_the_run_returns_and_none_after(two_workers: LocalExecutor) -> None:
    for _ in range(20):
        heard: list[str] = []
        two_workers.run(_units(chatter, [{"count": 30}] * 3), lambda unit, _event: heard.append(unit.name))  # noqa: B023
        assert sorted(heard) == [f"unit {index}" for index in range(3) for _ in range(30)]


def meet(context: Context, folder: Path, number: int) -> str:
    """Ends when the other one has come too."""
    (folder / str(number)).touch()
    while len(list(folder.iterdir())) < 2:
        context.report({"event": "waiting"})
        time.sleep(0.01)
    return threading.current_thread().name


def test_a_worker_does_units_side_by_side(tmp_path: Path) -> None:
    units = _units(meet, [{"folder": tmp_path, "number": n} for n in range(2)], Resources(gpus=0.5))
    with _local(1) as executor:
        assert len(set(executor.run(units, lambda *_: None))) == 2


def test_a_unit_that_fails_stops_its_neighbours(tmp_path: Path) -> None:
    together = Resources(gpus=0.5)
    units = [
        *_units(linger, [{"folder": tmp_path}], together),
        *_units(fail, [{"problems": ["one"]}], together),
    ]
    with _local(1) as executor, pytest.raises(CohortError) as caught:
        executor.run(units, lambda *_: None)
    assert caught.value.problems == ("one",)
    assert not (tmp_path / "finished").exists()


def look(context: Context, folder: Path, number: int) -> str:
    meet(context, folder, number)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_worker_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = _units(look, [{"folder": tmp_path, "number": number} for number in range(2)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with _on_gpu("cuda", workers=2) as executor:
        assert sorted(executor.run(units, lambda *_: None)) == ["3", "5"]


def environment(_context: Context) -> str:
    return os.environ["SET_JUST_NOW"]


def test_workers_have_the_environment_of_the_moment_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv("SET_JUST_NOW", value)
        with _local(2) as executor:
            assert executor.run(_units(environment, [{}, {}]), lambda *_: None) == [value, value]


def test_gpus_that_are_hidden_are_not_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,7")
    assert visible_gpus("cuda") == ["2", "7"]
    assert _on_gpu("cuda").workers == 2
    assert visible_gpus("cuda:1") == visible_gpus("cpu") == []


def make(context: Context, artifact: Path) -> str:
    if artifact.exists():
        return "there already"
    artifact.write_text("made")
    context.report({"event": "made"})
    return "made"


@pytest.mark.parametrize("workers", [1, 2])
def test_locked_units_are_done_last_and_looked_at_again(
    workers: int, tmp_path: Path, two_workers: LocalExecutor
) -> None:
    """Another open lock keeps two units back until all others are done; one of them is then there already."""
    artifacts = [tmp_path / f"{number}.txt" for number in range(5)]
    units = [Unit(path.stem, make, {"artifact": path}, path) for path in artifacts]
    heard: list[tuple[str, str]] = []
    executor = two_workers if workers == 2 else _local(1)
    with ExitStack() as others:
        for path in artifacts[:2]:
            assert others.enter_context(try_lock(path))

        def on_event(unit: Unit, event: Event) -> None:
            heard.append((unit.name, event["event"]))
            if heard.count(("0", LOCKED)) and heard.count(("1", LOCKED)):
                if not artifacts[0].exists():
                    artifacts[0].write_text("made elsewhere")
                others.close()

        results = executor.run(units, on_event)
    assert results == ["there already", "made", "made", "made", "made"]
    assert artifacts[0].read_text() == "made elsewhere"
    assert sorted(heard[:3]) == [(name, "made") for name in "234"]
    assert sorted(heard[3:5]) == [("0", LOCKED), ("1", LOCKED)]
    assert heard[5:] == [("1", "made")]
    assert set(tmp_path.iterdir()) == set(artifacts)
