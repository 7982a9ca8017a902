"""Real environments in which plugins are installed by pip, on top of the packages that the tests themselves have."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

import milsurv

OWN = (sysconfig.get_path("purelib"), str(Path(milsurv.__file__).parents[1]))
"""Where the packages of the running interpreter stand, and milsurv itself."""


class Environment:
    """A virtual environment that also sees what is installed here."""

    def __init__(self, folder: Path):
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "beside.pth").write_text("\n".join(OWN))

    def install(self, *packages: Path, editable: bool = False) -> None:
        """Build and install the packages of these folders, from nothing but the folders; ``editable`` as ``pip -e``."""
        options = [
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--disable-pip-version-check",
        ]
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", *options]
        named = [part for package in packages for part in (["-e"] * editable + [str(package)])]
        self.run(*command, *named)

    def milsurv(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``milsurv`` with these arguments; its exit status is the caller's to look at."""
        return self.run(str(self.python), "-m", "milsurv", *arguments, check=False, environment=environment)

    def run(
        self,
        *command: str,
        cwd: Path | None = None,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command, its output captured."""
        env = {**os.environ, "COLUMNS": "200", **(environment or {})}
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done
