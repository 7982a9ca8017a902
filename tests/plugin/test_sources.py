"""What changes the source of a plugin, and what does not."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from milsurv.plugin.kinds import KINDS, kinds_that_decide
from milsurv.plugin.registry import get_registry
from milsurv.plugin.sources import source_fingerprint

MODEL = '''"""A model."""
from .helper import scale
import shared_tool
import sibling_package.deep
import numpy


class Mine:
    """Mine."""

    def forward(self, bag):
        """Nothing yet."""
        return scale(bag) * 9  # nine
'''
FILES = {
    "my_mil/__init__.py": '__version__ = "1.0"\n',
    "my_mil/model.py": MODEL,
    "my_mil/helper.py": "def scale(x):\n    return x + 1\n",
    "my_mil/unused.py": "import nothing_that_is_there\n",
    "my_mil/template.py": "{{ not python }}\n",
    "my_mil/data/weights.bin": "0123",
    "shared_tool.py": "SCALE = 2\n",
    "sibling_package/__init__.py": "",
    "sibling_package/deep.py": "from shared_other import y\n",
    "shared_other.py": "y = 1\n",
    "stranger.py": "z = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, as an editable installation has it."""
    folder = tmp_path / "source"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_mil", "lab")]:
        del sys.modules[name]


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def _rename(folder: Path) -> None:
    _edit("my_mil/model.py", ".helper", ".helping")(folder)
    (folder / "my_mil/helper.py").rename(folder / "my_mil/helping.py")


CHANGES: dict[str, Callable[[Path], None]] = {
    "constant": _edit("my_mil/model.py", "* 9", "* -9"),
    "helper": _edit("my_mil/helper.py", "x + 1", "x - 1"),
    "module that nothing imports": _edit("my_mil/unused.py", "nothing", "something"),
    "file that is no Python": _edit("my_mil/template.py", "not", "no"),
    "data": _write("my_mil/data/weights.bin", b"0124"),
    "new data": _write("my_mil/data/more.bin", b""),
    "compiled": _write("my_mil/_fast.cpython-311-x86_64-linux-gnu.so", b"\x7fELF"),
    "module beside the package": _edit("shared_tool.py", "2", "3"),
    "package beside the package": _edit("sibling_package/deep.py", "y", "y, x"),
    "import of an import": _edit("shared_other.py", "1", "2"),
    "name of a module": _rename,
    "text in the code": _edit("my_mil/model.py", "import shared_tool", "import shared_tool\nNAME = 'a'"),
}
NO_CHANGES: dict[str, Callable[[Path], None]] = {
    "comment": _edit("my_mil/model.py", "# nine", "# noon"),
    "docstring of a module": _edit("my_mil/model.py", "A model.", "The model."),
    "docstring of a method": _edit("my_mil/model.py", "Nothing yet.", "Something."),
    "no docstring": _edit("my_mil/model.py", '    """Mine."""\n', ""),
    "layout": _edit("my_mil/helper.py", "x + 1", "(x\n            +   1)"),
    "empty lines": _edit("my_mil/helper.py", "\n", "\n\n"),
    "version": _edit("my_mil/__init__.py", "1.0", "1.1"),
    "line endings": _write("my_mil/helper.py", b"def scale(x):\r\n    return x + 1\r\n"),
    "byte order mark": _write("my_mil/helper.py", b"\xef\xbb\xbfdef scale(x):\n    return x + 1\n"),
    "quotes": _edit("my_mil/__init__.py", '"', "'"),
    "mode": lambda folder: (folder / "my_mil/model.py").chmod(0o755),
    "time": lambda folder: os.utime(folder / "my_mil/model.py", (0, 0)),
    "bytecode": _write("my_mil/__pycache__/model.cpython-311.pyc", b"code"),
    "hidden files": _write("my_mil/.ipynb_checkpoints/model.py", b"code"),
    "what nothing reaches": _edit("stranger.py", "1", "2"),
    "a readme beside the package": _write("README.md", b"read"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_the_output_changes_the_fingerprint(package: Path, change: str) -> None:
    before = source_fingerprint("my_mil.model")
    CHANGES[change](package)
    assert source_fingerprint("my_mil.model") != before


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_does_not_decide_the_output_does_not(package: Path, change: str) -> None:
    before = source_fingerprint("my_mil.model")
    NO_CHANGES[change](package)
    assert source_fingerprint("my_mil.model") == before


def test_where_the_code_stands_does_not_matter_and_libraries_do_not_count(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied to where pip installs, the modules beside the package are somebody else's."""
    here = source_fingerprint("my_mil.model")
    elsewhere = package.rename(tmp_path / "elsewhere")
    importlib.invalidate_caches()
    monkeypatch.syspath_prepend(elsewhere)
    assert source_fingerprint("my_mil.model") == here
    installed = elsewhere.rename(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(installed)
    own = source_fingerprint("my_mil.model")
    CHANGES["module beside the package"](installed)
    assert source_fingerprint("my_mil.model") == own
    CHANGES["constant"](installed)
    assert source_fingerprint("my_mil.model") != own


def test_modules_in_a_namespace_count_alone_and_with_what_they_import(package: Path) -> None:
    """The folder of a namespace can hold anything, slides and results among them."""
    (package / "my_mil/__init__.py").unlink()
    before = source_fingerprint("my_mil.model")
    for change in ("data", "module that nothing imports", "compiled"):
        CHANGES[change](package)
    assert source_fingerprint("my_mil.model") == before
    CHANGES["helper"](package)
    assert source_fingerprint("my_mil.model") != before


def test_a_package_in_a_namespace_does_not_count_its_neighbours(package: Path) -> None:
    for name in ("mine", "other"):
        _write(f"lab/{name}/__init__.py", b"")(package)
        _write(f"lab/{name}/model.py", b"a = 1\n")(package)
    before = source_fingerprint("lab.mine.model")
    _write("lab/other/model.py", b"a = 2\n")(package)
    assert source_fingerprint("lab.mine.model") == before
    _write("lab/mine/model.py", b"from ..other import model\n")(package)
    with_other = source_fingerprint("lab.mine.model")
    _write("lab/other/model.py", b"a = 3\n")(package)
    assert source_fingerprint("lab.mine.model") != with_other


def test_an_archive_counts_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "packed.zip"
    monkeypatch.syspath_prepend(archive)
    found = set()
    for number in (1, 2):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("packed_mil/__init__.py", f"a = {number}\n")
        importlib.invalidate_caches()
        found.add(source_fingerprint("packed_mil"))
    assert len(found) == 2


def test_a_plugin_counts_what_it_takes_of_milsurv(package: Path) -> None:
    """By the module's name, and by the public one."""
    found = {source_fingerprint("shared_other")}
    for text in (
        "from milsurv.aggregators.pooling import MeanPool",
        "from milsurv import Loss",
        "import milsurv",
    ):
        _write("shared_other.py", f"{text}\ny = 1\n".encode())(package)
        found.add(source_fingerprint("shared_other"))
        own = source_fingerprint("shared_other", with_milsurv=False)
        assert (own in found) == (text == "import milsurv"), "of which nothing decides a result"
    pooling = source_fingerprint("milsurv.aggregators.pooling")
    assert len(found | {pooling}) == 5


def test_every_built_in_has_a_source_of_its_own_kind() -> None:
    registry = get_registry()
    origins = {
        (p.kind, p.name): registry.origin(p.kind, p.name)
        for p in registry.plugins
        if p.distribution == "milsurv"
    }
    assert {kind for kind, _ in origins} == set(KINDS) - {"command", "metric"}
    nothing = source_fingerprint("milsurv.errors")
    deciding = kinds_that_decide("features", "models")
    assert all(source != nothing for (kind, _), source in origins.items() if kind in deciding)
    assert origins["aggregator", "abmil"] != origins["aggregator", "transmil"]
