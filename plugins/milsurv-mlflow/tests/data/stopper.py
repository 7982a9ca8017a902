"""A milsurv plugin, for tests: kills the run when it hears of the epoch that ``STOP_AT`` names (seed, fold, epoch)."""

import os
import signal

from milsurv import hookimpl


@hookimpl
def milsurv_epoch_finished(seed: int, fold: int, epoch: int) -> None:
    if os.environ.get("STOP_AT") == f"{seed} {fold} {epoch}":
        os.kill(os.getpid(), signal.SIGKILL)
