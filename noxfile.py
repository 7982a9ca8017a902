"""Development sessions. They run in the environment that nox itself stands in: torch takes 6 GB, so there is one."""

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that is quick enough to run after each change."""
    session.run("pytest", "-m", "not acceptance", "-n", "2", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def acceptance(session: nox.Session) -> None:
    """What takes long: the demo from end to end, fresh installations, kills."""
    session.run("pytest", "-m", "acceptance", "-s", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and common mistakes."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checking."""
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Speed, as ratios measured in one run."""
    session.run("python", "-m", "benchmarks", *session.posargs)
