"""Fingerprints of the source of plugins: of all code and data that affect their results, and nothing else.

From milsurv, they cover the modules that are reached by import statements and are listed in `DECIDING`. From other
plugins, they cover the whole import package (with data and compiled files) or the single module, and all packages and
modules that its code imports, except libraries: the standard library, and installed packages of other distributions,
whose versions are recorded in ``environment.json``. Comments, docstrings, formatting and ``__version__`` of Python code
are ignored.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import milsurv
from milsurv.storage.atomic import fingerprint
from milsurv.storage.checksums import sha256_of

OWN = "milsurv"
DECIDING = (
    "milsurv.aggregators",
    "milsurv.backbones",
    "milsurv.evaluation.pairs",
    "milsurv.features.bag",
    "milsurv.features.embedding",
    "milsurv.features.encoder",
    "milsurv.features.importers",
    "milsurv.losses",
    "milsurv.slides",
    "milsurv.training",
)
"""Modules and packages of milsurv that change the content of features, models or predictions."""
LIBRARY_FOLDERS = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class _Unit:
    """A unit that is hashed as a whole: a module of milsurv, a package, or a single module."""

    name: str
    """Dotted name."""
    files: tuple[tuple[str, Path], ...]
    """Path within the unit, and path of the file."""


def source_fingerprint(*modules: str, distribution_name: str | None = None, with_milsurv: bool = True) -> str:
    """12 hexadecimal digits for the source of these modules, which are installed by ``distribution_name``.

    ``with_milsurv`` includes the modules of milsurv that they import. The digits do not depend on the location of the
    code, the kind of installation, or the version of Python. Raises OSError if a file cannot be read.
    """
    pending = list(modules)
    inside = {name.partition(".")[0] for name in pending} | _packages(distribution_name)
    digests: dict[str, dict[str, str]] = {}
    while pending:
        name = pending.pop()
        if not with_milsurv and name.partition(".")[0] == OWN:
            continue
        unit = _unit(name, inside)
        if unit is None or unit.name in digests:
            continue
        digests[unit.name] = {}
        for inner, path in unit.files:
            digest, tree = _read(path)
            digests[unit.name][inner] = digest
            if tree is not None:
                pending += _imported(tree, unit.name, inner)
    return fingerprint(digests)


@cache
def framework_fingerprint(*modules: str) -> str:
    """The fingerprint of modules of milsurv itself, which do not change while it runs."""
    return source_fingerprint(*modules)


def _packages(distribution_name: str | None) -> set[str]:
    """Top-level packages and modules installed by a distribution."""
    try:
        files = distribution(distribution_name).files if distribution_name else None
    except PackageNotFoundError:
        return set()
    return {file.parts[0].removesuffix(".py") for file in files or ()}


def _unit(name: str, inside: Collection[str]) -> _Unit | None:
    """The unit that contains a dotted name; None for libraries and unknown modules."""
    if name.partition(".")[0] == OWN:
        return _own_unit(name)
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return None
    for depth in range(1, len(parts) + 1):
        prefix = ".".join(parts[:depth])
        spec = _spec(prefix)
        if spec is None:
            return None
        if spec.origin is not None and spec.origin not in ("built-in", "frozen"):
            library = parts[0] not in inside and _is_library(spec, depth)
            return None if library else _foreign_unit(prefix, spec)
    return None


def _own_unit(name: str) -> _Unit | None:
    public = name.removeprefix(f"{OWN}.")
    if public in milsurv.__all__:
        name = getattr(getattr(milsurv, public), "__module__", name)
    if not any(name == module or name.startswith(f"{module}.") for module in DECIDING):
        return None
    base = Path(__file__).parents[1].joinpath(*name.split(".")[1:])
    for inner, path in (("__init__.py", base / "__init__.py"), ("", base.with_suffix(".py"))):
        if path.is_file():
            return _Unit(name, ((inner, path),))
    return None


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _is_library(spec: ModuleSpec, depth: int) -> bool:
    """Whether a module, whose name has ``depth`` parts, is in a folder of installed packages."""
    is_package = spec.submodule_search_locations is not None
    folder = Path(str(spec.origin)).parents[depth - (not is_package)]
    return bool(LIBRARY_FOLDERS & set(folder.parts)) or any(folder.glob("*.dist-info"))


def _foreign_unit(name: str, spec: ModuleSpec) -> _Unit:
    origin = Path(str(spec.origin))
    if not origin.is_file():  # within an archive, which is hashed as a whole
        archive = next((parent for parent in origin.parents if parent.is_file()), None)
        return _Unit(name, () if archive is None else ((archive.suffix, archive),))
    if spec.submodule_search_locations is not None:
        folders = sorted(map(Path, spec.submodule_search_locations))
        return _Unit(name, tuple(file for folder in folders for file in _files_in(folder)))
    return _Unit(name, (("" if origin.suffix == ".py" else origin.suffix, origin),))


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inner.parts)
        if path.is_file() and not hidden:
            yield inner.as_posix(), path


def _read(path: Path) -> tuple[str, ast.Module | None]:
    """The digest of a file, and the syntax tree of one that is Python."""
    if path.suffix == ".py":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
            return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest(), tree
        except (SyntaxError, ValueError, RecursionError):
            pass  # a template, or nested too deeply: hashed as bytes
    return sha256_of(path), None


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples, without parts that have no effect; empty fields depend on the Python version."""
    if isinstance(node, ast.AST):
        fields = (
            (name, _plain(value))
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in ("ctx", "kind")
        )
        return type(node).__name__, *fields
    if isinstance(node, list):
        return tuple(_plain(item) for item in node if not _is_ignored(item))
    return node


def _is_ignored(node: Any) -> bool:
    """Whether a statement is a docstring, another constant, or sets the version."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imported(tree: ast.Module, unit: str, inner: str) -> Iterator[str]:
    """Dotted names that a file imports; for ``from a import b`` both a and a.b, which may be a module."""
    package = [*unit.split("."), *Path(inner).parts][:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
