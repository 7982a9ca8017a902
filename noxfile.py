"""Development sessions. They run in the environment that nox itself stands in: torch takes 6 GB, so there is one."""

import sys

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that is quick enough to run after each change."""
    _python(session, "pytest", "-m", "not acceptance and not plugins", "-n", "2", *session.posargs)


@nox.session
def acceptance(session: nox.Session) -> None:
    """What takes long: the demo in a fresh installation, random kills, full disks, plugins and their tutorial."""
    side_by_side = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    told = ("-rP", "--durations", "30")
    chosen = ("-m", "acceptance or plugins", *side_by_side, *told)
    _python(session, "pytest", *chosen, *session.posargs)


@nox.session
def plugins(session: nox.Session) -> None:
    """The plugin tutorial, and the packages of plugins/, in one fresh environment."""
    _python(session, "pytest", "-m", "plugins", "-s", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and common mistakes."""
    _python(session, "ruff", "check", ".")
    _python(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checking."""
    _python(session, "mypy")


@nox.session
def reference(session: nox.Session) -> None:
    """Write docs/reference/ (configuration keys, command line help) from the code."""
    _python(session, "docs.generate")


@nox.session
def bench(session: nox.Session) -> None:
    """Speed, as ratios measured in one run, on all cores."""
    session.run(sys.executable, "-m", "benchmarks", *session.posargs)


def _python(session: nox.Session, module: str, *arguments: str) -> None:
    """On one thread: workers run side by side, and sums are the same everywhere."""
    session.run(sys.executable, "-m", module, *arguments, env={"OMP_NUM_THREADS": "1"})
