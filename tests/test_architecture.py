"""Imports go one way, and the packages that are installed are the packages that exist."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from packaging.requirements import Requirement

import lsrl
from lsrl import cache as finished

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]

# The parts of lsrl from the ground up: each may import those above it in this table and nothing
# below, so a part is read with its back to all that follows. A module belongs to the part with the
# longest name that it is or lies in. Parts of one row know nothing of each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("lsrl.errors", "lsrl.options"),
    ("lsrl.arguments", "lsrl.extras"),
    ("lsrl.folders", "lsrl.numerics", "lsrl.schema"),
    ("lsrl.card", "lsrl.sealed"),
    ("lsrl.ir",),
    ("lsrl.automata", "lsrl.placement", "lsrl.showing"),
    ("lsrl.drawing", "lsrl.parameters", "lsrl.pytrees", "lsrl.sharding", "lsrl.target"),
    ("lsrl.circuit",),
    ("lsrl.language",),
    ("lsrl.paper", "lsrl.testing"),
    ("lsrl.passes",),
    ("lsrl.levels", "lsrl.specialisation"),
    ("lsrl.schedule",),
    ("lsrl.layers",),
    ("lsrl.program_json",),
    ("lsrl.storage", "lsrl.torch_cache"),
    ("lsrl.cache", "lsrl.golden", "lsrl.state", "lsrl.torch_config"),
    ("lsrl.torch_module",),
    ("lsrl.torch_folder",),
    ("lsrl.requests", "lsrl.run_files"),
    ("lsrl.rounding",),
    ("lsrl.certificate",),
    ("lsrl.proof",),
    ("lsrl.backends",),
    ("lsrl.exporting", "lsrl.looping"),
    ("lsrl.model",),
    ("lsrl.reuse", "lsrl.support"),
    ("lsrl.stages",),
    ("lsrl.compiler",),
    ("lsrl.cost", "lsrl.explanation", "lsrl.loading"),
    ("lsrl",),
    ("lsrl.programs",),
    ("lsrl.demo", "lsrl.tables"),
    ("lsrl.induction", "lsrl.machine", "lsrl.noise"),
    ("lsrl.nn",),
    ("lsrl.interpret",),
    ("lsrl.stability",),
    ("lsrl.suite",),
    ("lsrl.cli",),
)

# Some parts know less than what lies above them in the table; the public names are always apart.
GROUND = {"lsrl.arguments", "lsrl.errors", "lsrl.ir"}
ARRAYS = {"lsrl.parameters", "lsrl.pytrees"}
MAY_IMPORT_ONLY = {
    "lsrl.arguments": {"lsrl.errors"},
    "lsrl.extras": {"lsrl.errors"},
    "lsrl.ir": {"lsrl.arguments", "lsrl.errors"},
    "lsrl.language": GROUND | {"lsrl.drawing", "lsrl.showing"},
    "lsrl.target": {"lsrl.ir"},
    "lsrl.numerics": {"lsrl.arguments", "lsrl.errors"},
    "lsrl.automata": {"lsrl.ir", "lsrl.options"},
    "lsrl.passes": GROUND | {"lsrl.automata", "lsrl.options", "lsrl.target"},
    "lsrl.levels": GROUND | {"lsrl.target"},
    "lsrl.schedule": GROUND | {"lsrl.levels", "lsrl.target"},
    "lsrl.layers": GROUND | {"lsrl.schedule"},
    "lsrl.rounding": GROUND | {"lsrl.numerics"},
    "lsrl.certificate": GROUND
    | {"lsrl.numerics", "lsrl.rounding", "lsrl.schedule", "lsrl.schema", "lsrl.showing"},
    "lsrl.backends": GROUND
    | ARRAYS
    | {"lsrl.certificate", "lsrl.circuit", "lsrl.extras", "lsrl.folders", "lsrl.golden"}
    | {"lsrl.language"}
    | {"lsrl.numerics", "lsrl.levels", "lsrl.options", "lsrl.rounding", "lsrl.schedule"}
    | {"lsrl.target"}
    | {"lsrl.torch_config", "lsrl.torch_folder"},
    "lsrl.circuit": GROUND
    | {"lsrl.drawing", "lsrl.folders", "lsrl.placement", "lsrl.schema", "lsrl.sealed"}
    | {"lsrl.showing"},
    "lsrl.drawing": GROUND | {"lsrl.extras", "lsrl.folders", "lsrl.placement"},
    "lsrl.golden": GROUND
    | {"lsrl.extras", "lsrl.parameters", "lsrl.schema", "lsrl.storage", "lsrl.torch_cache"},
    "lsrl.placement": set(),
    "lsrl.showing": set(),
    "lsrl.folders": {"lsrl.errors"},
    "lsrl.proof": GROUND | ARRAYS | {"lsrl.certificate"},
    "lsrl.schema": {"lsrl.arguments", "lsrl.errors"},
    "lsrl.sealed": {"lsrl.arguments", "lsrl.errors", "lsrl.schema"},
    "lsrl.program_json": GROUND | {"lsrl.language", "lsrl.parameters", "lsrl.schema"},
    "lsrl.state": GROUND
    | ARRAYS
    | {"lsrl.language", "lsrl.options", "lsrl.program_json", "lsrl.schema", "lsrl.storage"},
    "lsrl.storage": GROUND
    | {"lsrl.folders", "lsrl.language", "lsrl.options", "lsrl.parameters", "lsrl.program_json"}
    | {"lsrl.levels", "lsrl.schema"},
    "lsrl.torch_cache": {"lsrl.errors", "lsrl.ir"},
    "lsrl.testing": GROUND | {"lsrl.language"},
    "lsrl.machine": GROUND | {"lsrl", "lsrl.language", "lsrl.model"},
    "lsrl.programs": {"lsrl", "lsrl.errors"},
}

# Imports that run back up, or close a circle: (importer, imported) to the reason. The list may only
# shrink: what is gone from the code has to go from here.
BACK = {
    ("lsrl", "lsrl.programs"): "the public names offer the library, which is written in them",
}


# What the rest may know of the targets; all else in lsrl.backends is of one family.
COMMON = {
    "lsrl.backends",
    *(
        f"lsrl.backends.{name}"
        for name in (
            "anatomy", "axes", "base", "buckets", "curves", "engine", "events", "factors", "hooks",
            "input_map", "loop", "machines", "network", "packed", "pattern", "reader", "records",
            "registry", "runner", "scans", "shortening", "strength", "sweeps", "torch_modules",
            "units", "xla",
        )
    ),
}  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of lsrl by its dotted name, those behind the links included."""
    found = {}
    for folder, _, files in os.walk(ROOT / "lsrl", followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file).relative_to(ROOT).with_suffix("")
                name = ".".join(path.parts).removesuffix(".__init__")
                found[name] = ast.parse(Path(folder, file).read_text())
    return found


@cache
def nodes(module: str) -> list[ast.AST]:
    """All of a module's syntax, at any depth."""
    return list(ast.walk(modules()[module]))


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module that a module imports, inside functions too."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = "." * node.level + (node.module or "")
            for alias in node.names:
                child = f"{parent}.{alias.name}"
                yield node.lineno, child if child in modules() else parent


def is_within(module: str, part: str) -> bool:
    """Whether a module is a part or lies in it; `lsrl` itself is only its public names."""
    return module == part or (part != "lsrl" and module.startswith(f"{part}."))


@cache
def part_of(module: str) -> str:
    """The part that a module belongs to; empty if it has no place yet."""
    found = [part for layer in LAYERS for part in layer if is_within(module, part)]
    return max(found, key=len, default="")


@cache
def arrows() -> list[tuple[str, int, str]]:
    """Module, line and module of lsrl that it imports, of every import.

    Imports inside functions and under TYPE_CHECKING count like all others: they keep a module from
    loading, and its reader knows of it all the same. What the `__init__` of a package imports is
    the package's own, and not of those that import a module in it.
    """
    return [
        (module, line, target)
        for module in modules()
        for line, target in imports(module)
        if is_within(target, "lsrl") or target.startswith(("lsrl.", "."))
    ]


def circles(back: set[tuple[str, str]]) -> list[list[str]]:
    """The groups of modules that import each other, some imports aside."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edges_from((m, t) for m, _, t in arrows() if (m, t) not in back and m != t)
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def test_every_module_has_its_layer() -> None:
    """And every part exists, once."""
    assert not [module for module in modules() if not part_of(module)]
    parts = [part for layer in LAYERS for part in layer]
    assert len(parts) == len(set(parts))
    assert set(parts) == {part_of(module) for module in modules()}
    assert MAY_IMPORT_ONLY.keys() <= set(parts)


def test_imports_go_one_way() -> None:
    height = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    up, offences = set(), []
    for module, line, target in arrows():
        part, other = part_of(module), part_of(target)
        if part != other and height.get(other, len(LAYERS)) >= height.get(part, 0):
            up.add((module, target))
            if (module, target) not in BACK:
                offences.append(f"{module}:{line} imports {target}, which stands above it")
    assert not offences, "\n".join(offences)
    needless = [arrow for arrow in BACK.keys() - up if not circles(BACK.keys() - {arrow})]
    assert not needless, "gone from the code: take them from the list"


@pytest.mark.parametrize("part", MAY_IMPORT_ONLY)
def test_parts_know_no_more_than_they_need(part: str) -> None:
    allowed = MAY_IMPORT_ONLY[part] | {part}
    offences = [
        f"{module}:{line} imports {target}"
        for module, line, target in arrows()
        if part_of(module) == part and part_of(target) not in allowed
    ]
    assert not offences, "\n".join(offences)


def of_a_family(module: str) -> bool:
    return is_within(module, "lsrl.backends") and module not in COMMON


def test_no_other_module_knows_a_family() -> None:
    """What it needs of one it asks the backend or the network, or it is plain data."""
    offences = [
        f"{module}:{line} imports {target}"
        for module, line, target in arrows()
        if of_a_family(target)
        and not of_a_family(module)
        and module != "lsrl.backends.registry"  # the one list of targets
    ]
    assert not offences, "\n".join(offences)


def texts_in(node: ast.AST) -> set[str]:
    """The words that stand in quotes, in an expression."""
    return set(re.findall(r"'(\w+)'", ast.unparse(node)))


def test_no_other_module_asks_which_family_it_has() -> None:
    """By the class of a network or a target, nor by a target's name."""
    families = [module for module in modules() if of_a_family(module)]
    bases = {
        node.name: {ast.unparse(base).split("[")[0] for base in node.bases}
        for family in families
        for node in nodes(family)
        if isinstance(node, ast.ClassDef)
    }
    known = {"Network", "Backend", "StackBackend"}
    while more := {name for name, of in bases.items() if of & known} - known:
        known |= more
    targets = {target.name for target in lsrl.targets()}
    assert {"LinearNetwork", "CellBackend", "MambaNetwork"} <= known
    offences = []
    for module in modules().keys() - families:
        for node in nodes(module):
            if isinstance(node, ast.Compare):
                found = texts_in(node) & targets
            elif not isinstance(node, ast.Call):
                continue
            elif getattr(node.func, "id", "") in ("isinstance", "issubclass", "cast"):
                found = known.intersection(re.findall(r"\w+", ast.unparse(node)))
            elif getattr(node.func, "attr", "") in ("startswith", "endswith"):
                found = {x for x in texts_in(node) if any(t.endswith(x) for t in targets)}
            else:
                continue
            offences += [f"{module}:{node.lineno} asks for {word}" for word in sorted(found)]
    assert not offences, "\n".join(offences)


def test_there_is_no_circle() -> None:
    assert not circles(set(BACK))


def file_of(module: str) -> str:
    """Where a module lies in the package."""
    path = module.removeprefix("lsrl").removeprefix(".").replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / "lsrl" / path).is_dir() else f"{path}.py"


def test_no_result_depends_on_what_only_tells_results() -> None:
    """What the hash of the code leaves out is imported by nothing that it takes in."""
    assert all((ROOT / "lsrl" / place).exists() for place in finished.TELLING)
    telling = {module for module in modules() if file_of(module).startswith(finished.TELLING)}
    importers = {
        module
        for module in modules()
        if telling.intersection(target for _, target in imports(module))
    }
    assert importers <= telling


def test_only_graphs_import_networkx() -> None:
    importers = {
        module
        for module in modules()
        if any(is_within(target, "networkx") for _, target in imports(module))
    }
    assert importers <= {"lsrl.ir.graph", "lsrl.circuit"}


def test_programs_use_public_names() -> None:
    public = {*lsrl.__all__, "errors", "programs"}
    offences = []
    for module in modules():
        if not is_within(module, "lsrl.programs"):
            continue
        for node in nodes(module):
            names = set()
            if isinstance(node, ast.ImportFrom) and node.module == "lsrl":
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lsrl":
                names = {node.attr}
            offences += [f"{module} uses lsrl.{name}" for name in sorted(names - public)]
    assert not offences, "\n".join(offences)


def test_no_module_uses_what_is_banned() -> None:
    offences = []
    for module in modules():
        found = imports(module)
        offences += [f"{module}:{line} pickle" for line, name in found if "pickle" in name]
        for node in nodes(module):
            if isinstance(node, ast.Assert):
                offences.append(f"{module}:{node.lineno} assert")
            elif isinstance(node, ast.ExceptHandler) and "ImportError" in ast.unparse(node):
                if module != "lsrl.extras":
                    offences.append(f"{module}:{node.lineno} a text of its own, not lsrl.extras")
            elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                offences.append(f"{module}:{node.lineno} import *")
    assert not offences, "\n".join(offences)


def test_packages_equal_the_tree() -> None:
    folders = {
        ".".join(Path(folder).relative_to(ROOT).parts)
        for folder, _, files in os.walk(ROOT / "lsrl", followlinks=True)
        if any(file.endswith(".py") for file in files)
    }
    assert set(SETUPTOOLS["packages"]) == folders
    assert folders <= modules().keys(), "a package has no __init__.py"


@pytest.mark.parametrize("name", ["backends", "programs"])
def test_packages_at_the_top_are_linked(name: str) -> None:
    link = ROOT / "lsrl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert SETUPTOOLS["package-dir"] == {"": "."}


def test_a_folder_called_lsrl_hides_nothing(tmp_path: Path) -> None:
    """As a clone is in the folder above it."""
    (tmp_path / "lsrl").mkdir()
    command = [sys.executable, "-c", "import lsrl; print(lsrl.Program.__name__)"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "Program\n"


def test_the_lock_holds_what_pyproject_admits() -> None:
    """One plain version of everything, for any machine, and of setuptools where it can't reach."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {}
    for line in lines[1:]:
        name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
        locked[re.sub("[-_.]+", "-", name).lower()] = version
    project = PYPROJECT["project"]
    needed = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        needed += extra
    for requirement in map(Requirement, needed):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(locked[requirement.name]), requirement
    assert all("==" in requirement for requirement in PYPROJECT["build-system"]["requires"])


def test_warnings_are_errors_where_our_code_causes_them() -> None:
    code = """
import warnings
import numpy as np
def warn(level):
    warnings.warn("deprecated", DeprecationWarning, stacklevel=level)
def divide():
    return np.ones(1) / 0
"""
    library: dict[str, Any] = {"__name__": "lsrl_of_others"}
    exec(code, library)
    with warnings.catch_warnings(record=True) as shown:
        library["warn"](1)
        library["divide"]()
    assert [warning.category for warning in shown] == [DeprecationWarning, RuntimeWarning]
    with pytest.raises(DeprecationWarning):  # we called what is deprecated
        library["warn"](2)
    for name in ("lsrl", "lsrl.ir.matrix", "tests.conftest", "benchmarks.run", None):
        ours: dict[str, Any] = {"__name__": name} if name else {}
        exec(code, ours)
        with pytest.raises(RuntimeWarning):
            ours["divide"]()
    with pytest.raises(pytest.PytestWarning):
        library["warnings"].warn_explicit("x", pytest.PytestWarning, "a.py", 1, "_pytest.python")
