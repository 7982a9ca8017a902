"""``milsurv new-plugin``: the package that a plugin starts from."""

from __future__ import annotations

from pathlib import Path

from milsurv.plugin.registry import get_registry
from milsurv.progress import RunProgress
from milsurv.scaffold import Kind, new_plugin


def new_plugin_command(kind: Kind, name: str, parent: Path) -> int:
    """Exit status: 0."""
    folder = new_plugin(kind, name, parent, get_registry())
    progress = RunProgress()
    progress.say(f"{folder} is a package with the {kind} '{name}', which works as it stands. Next:")
    progress.say(f"  cd {folder}")
    progress.say("  pip install -e '.[dev]'")
    progress.say("  pytest                      milsurv's contract, promise by promise")
    progress.say("  milsurv list-plugins")
    progress.say(f"  milsurv run demo --set {kind}.name={name}")
    progress.say(f"Then write your own in src/milsurv_{name}/{kind}.py.")
    return 0
