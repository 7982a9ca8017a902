"""An executor that runs each unit in a Python interpreter of its own, from a pickle file, as a cluster's job would."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from milsurv import Register, hookimpl
from milsurv.executors import Done, Executor, Failed, Message, OnEvent, Reported, Unit, packed, run_units


class FreshInterpreter(Executor):
    """One unit after the other."""

    workers = 1

    def run_once(self, units: Sequence[Unit], on_event: OnEvent) -> list[Any]:
        return [self._run(unit, on_event) for unit in units]

    def _run(self, unit: Unit, on_event: OnEvent) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            work, messages = Path(folder) / "work.pickle", Path(folder) / "messages.pickle"
            work.write_bytes(pickle.dumps((unit, self.placement())))
            while True:
                job = subprocess.run([sys.executable, __file__, work, messages], check=False)
                for message in _read(messages):
                    match message:
                        case Reported(_, event):
                            on_event(unit, event)
                        case Done(_, result):
                            return result
                        case Failed(error):
                            raise error
                self.worker_died(unit, f"exit status {job.returncode}", on_event)


def _read(messages: Path) -> Iterator[Message]:
    with messages.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)


def run_job(work: Path, messages: Path) -> None:
    unit, placement = pickle.loads(work.read_bytes())
    with messages.open("wb", buffering=0) as file:
        run_units([(0, unit)], lambda message: file.write(packed(message)), placement)


@hookimpl
def milsurv_register_executors(register: Register) -> None:
    register(
        "fresh_interpreter",
        f"{__name__}:FreshInterpreter",
        summary="each unit in a Python interpreter of its own",
    )


if __name__ == "__main__":
    run_job(Path(sys.argv[1]), Path(sys.argv[2]))
