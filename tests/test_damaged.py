"""Files that are damaged, or made to harm: each is refused by name, or is read as it says.

An honest file of every format is changed in many ways: cut, bits turned over, one field of its JSON
or one of its arrays changed. Whatever comes of it, a reader raises FormatError, or gives what was
written. Where the checksum is made right again, to harm, it raises FormatError, or gives what the
file says to the letter. Either way it takes little memory.
"""

import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as to_safetensors

import lsrl
from lsrl import sealed, storage, torch_folder
from lsrl.backends import registry
from lsrl.errors import FormatError, InputError
from lsrl.golden import GoldenState
from lsrl.induction import Skills
from lsrl.induction.affine import Affine, Response
from lsrl.induction.macros import parsed
from lsrl.induction.realisation import Realisation
from lsrl.induction.task_files import Journal, Try
from lsrl.interpret import Circuit, variants
from lsrl.proof import NOT_COMPILED
from lsrl.stability import store
from lsrl.suite import build, manifest
from tests.plain_target import Plain

pytestmark = pytest.mark.one_in(3)

# What a hostile file may say in place of any value.
DEEP = "\ud7ffdeep"  # stands for what json.dumps can't write
HOSTILE: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 10**12, 2**63, 10**30, 10**400, 0.5, 1e300, math.nan,
    math.inf, -math.inf, "", "x", "y" * 10_000, "\ud800", "../../etc/passwd", [], [[[[]]]], [0, 1],
    {}, {"vector": 10**9, "low": 0, "high": 1}, {"token": 10**12}, DEEP,
)  # fmt: skip
# What a load may take, beside four times the honest file.
ROOM = 32 << 20
PROGRAM = lsrl.programs.majority(max_length=10)


class Format(NamedTuple):
    """A format of files.

    Attributes:
      read: what a path holds, as plain data; FormatError if nothing.
      file: of the folder, the one that is cut and flipped; "" where it is no folder.
      said: the JSON data of a path, and its arrays.
      write: writes such data and arrays to a path; with a last argument of True it makes the
        checksum right, and else leaves the one in the file as it is.
      unread: fields that are said for those who read the file themselves.
    """

    read: Callable[[Path], Any]
    said: Callable[[Path], tuple[Any, dict[str, np.ndarray]]]
    write: Callable[[Path, Any, dict[str, np.ndarray], bool], None]
    files: tuple[str, ...] = ("",)
    unread: frozenset[str] = frozenset()


# ---------------------------------------------------------------- the formats


def text_of(data: Any) -> str:
    return json.dumps(data).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)


def said_in_model(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["lsrl"].partition(" ")[2])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_model(path: Path, data: Any, arrays: dict[str, np.ndarray], right: bool = True) -> None:
    text = text_of(data)
    checksum = storage._checksum(text, arrays) if right else checksum_of(path)
    path.write_bytes(to_safetensors(arrays, {"lsrl": f"{checksum} {text}"}))


def checksum_of(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        return file.metadata()["lsrl"].partition(" ")[0]


def read_model(path: Path) -> Any:
    """What a loaded model writes when it is saved again."""
    model = lsrl.load(path)
    again = path.with_name("again.lsrl")
    model.save(again)
    header, arrays = said_in_model(again)
    alteration = header.get("alteration", {})
    if NOT_COMPILED in str(model.certificate):
        alteration.pop("certificate", None)  # it says that something was changed
    alteration.pop("weights", None)
    return header, arrays


def said_in_folder(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    weights = path / torch_folder.WEIGHTS
    with safe_open(weights, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return json.loads((path / torch_folder.CONFIG).read_text()), arrays


def write_folder(path: Path, data: Any, arrays: dict[str, np.ndarray], right: bool = True) -> None:
    content = to_safetensors(arrays, {"format": "pt"})
    (path / torch_folder.WEIGHTS).write_bytes(content)
    text = sealed_text(data, lambda known: torch_folder.checksum(known, content), right)
    (path / torch_folder.CONFIG).write_text(text)


def sealed_text(data: Any, checksum: Callable[[dict[str, Any]], str], right: bool) -> str:
    text = text_of(data)
    try:
        known = json.loads(text)
        if right and isinstance(known, dict) and sealed.CHECKSUM in known:
            text = text_of({**data, sealed.CHECKSUM: checksum(known)})
    except (RecursionError, ValueError):
        pass  # JSON that says nothing has no checksum
    return text


def read_folder(path: Path) -> Any:
    module = lsrl.load_torch(path)
    return dict(module.config), {n: x.numpy() for n, x in module.state_dict().items()}


def said_in_json(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    return json.loads(path.read_text()), {}


def write_json(path: Path, data: Any, arrays: dict[str, np.ndarray], right: bool = True) -> None:
    path.write_text(sealed_text(data, lambda known: sealed.digest(known).hex(), right))


def read_circuit(path: Path) -> Any:
    return json.loads(Circuit.load(path).to_json()), {}


def read_manifest(path: Path) -> Any:
    return json.loads(manifest.read_manifest(path.parent).to_json()), {}


COLUMNS = ("program", "target", "level", "share")


def read_part(path: Path) -> Any:
    rows = [list(row.values()) for row in store.read_part(path, COLUMNS)]
    return {"columns": list(COLUMNS), "rows": rows}, {}


def read_unit(path: Path) -> Any:
    (path.parent / "data").write_bytes(b"1")  # the file that the unit tells of
    kept = build._kept(path.parent, ".", "key")
    if kept is None:
        raise FormatError(f"{path}: made anew")
    files = {name: one for name, one in kept.files.items() if name != build.UNIT}
    return {"key": "key", "files": files, "record": kept.record}, {}


def read_golden(path: Path) -> Any:
    """What a golden state writes when it is saved again."""
    again = path.with_name("again.safetensors")
    GoldenState.load(path).save(again)
    return said_in_model(again)


def read_skills(path: Path) -> Any:
    """What a library writes when it is saved again."""
    again = path.with_name("again.json")
    Skills.load(path).save(again)
    return said_in_json(again)


def read_state(path: Path) -> Any:
    """The tries of a search, as it writes them again."""
    tries = Journal.opened(path, "key").tries
    return {"key": "key", "tries": json.loads(json.dumps([one._asdict() for one in tries]))}, {}


MODEL = Format(read_model, said_in_model, write_model, unread=frozenset({
    "lsrl", "labels", "certificate",
}))  # fmt: skip
OUTER = frozenset({"format", "version", "checksum"})  # what every sealed file says
FORMATS = {
    "model": MODEL,
    "torch": Format(
        read_folder, said_in_folder, write_folder, (torch_folder.CONFIG, torch_folder.WEIGHTS)
    ),
    "golden": Format(read_golden, said_in_model, write_model, unread=frozenset({"lsrl"})),
    "circuit": Format(read_circuit, said_in_json, write_json),
    "manifest": Format(read_manifest, said_in_json, write_json),
    "part": Format(read_part, said_in_json, write_json, unread=OUTER),
    "unit": Format(read_unit, said_in_json, write_json, unread=OUTER),
    "skills": Format(read_skills, said_in_json, write_json, unread=OUTER),
    "state": Format(read_state, said_in_json, write_json, unread=OUTER),
}


@lsrl.program(max_length=20)
def mixed(t: lsrl.Token(3), x: lsrl.Vector(2, low=-1, high=1, step=0.5)) -> lsrl.Token(9):
    """With every kind of field: tables, matrices, states, delays, names, bounds."""
    table = lsrl.lookup(t, [[1, 0], [0, 1], [0.5, 0.25]])
    few = lsrl.bound(lsrl.cumsum(x[0] >= 0), 0, 5, keeper="prompt")
    kept = lsrl.delay(t, 2, initial=1) + lsrl.periodic([[1], [0]])
    return lsrl.relu(few + kept - (table[0] >= 1))


def _write_skills(path: Path) -> None:
    skills = Skills.standard()
    for name, text in (("even", "is_zero(remainder(x, n=2))"), ("evens", "total(even(x))")):
        skills.learn(name, parsed(text, skills.skills, ["x"]))
    taps, state = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [-1.0, 1.0]])
    wave = Realisation(state, np.ones((2, 2)), np.eye(1, 2), None)
    skills.learn_filter("smooth", ["x"], Affine((), (Response(taps, 1),), None))
    skills.learn_filter("wave", ["x"], Affine((), (None,), wave))
    skills.save(path)


def _write_manifest(path: Path) -> None:
    row = manifest.ProgramRecord("p", "memory", "memory/p", "copy", {"k": [2, "a"]}, ("x", "y"))
    model = manifest.ModelRecord(
        "p", "memory", "lstm", "plain", "memory/p/lstm/plain", True, None, 2, 5, 90, 40, {"a": 0.5}
    )
    whole = manifest.Manifest(
        1, {"lsrl": "1"}, "c0", {"memory/p/unit.json": "ab"}, (row,), (model, model),
        (manifest.Refusal("p", "gru", "plain", "why"),),
    )  # fmt: skip
    path.write_text(whole.to_json())


def _compiled(program: lsrl.Program, target: str, **options: Any) -> lsrl.Model:
    return lsrl.compile(program, target, **options)


def make_all(folder: Path) -> dict[str, tuple[str, Path]]:
    """An honest file or several of every format: by name its format and its path."""
    with registry.registered(Plain()):
        models = {
            "linear_rnn": _compiled(mixed, "linear_rnn"),
            "lstm": _compiled(PROGRAM, "lstm"),
            "mamba": _compiled(PROGRAM, "mamba"),
            "altered": variants.permuted(_compiled(PROGRAM, "gru", inspectable=True), seed=1),
            "sparse": _compiled(PROGRAM, "plain"),
        }
        found = {}
        for name, model in models.items():
            path = folder / name / "model.lsrl"
            path.parent.mkdir()
            model.save(path)
            found[name] = ("model", path)
        models["lstm"].export("torch", folder / "torch")
        models["altered"].export("torch", folder / "separate", layers="separate")
        models["linear_rnn"].export("torch", folder / "linear")
        models["altered"].circuit.save(folder / "circuit.json")
        models["mamba"].export_state([[1, 0, 1]], 2).save(folder / "golden.safetensors")
    (folder / "suite").mkdir()
    _write_manifest(folder / "suite" / manifest.NAME)
    rows = [dict(zip(COLUMNS, ("majority", "lstm", 0.5, k), strict=True)) for k in range(6)]
    store.write_part(folder / "part.json", COLUMNS, rows)
    (folder / "unit").mkdir()
    build._write_beside(folder / "unit", {"data": b"1"}, "key", {"signals": ["a", "b"]})
    _write_skills(folder / "skills.json")
    journal = Journal(folder / "state.json", "key")
    journal.add(Try("a", 9, 9, 0.5, (), (), (("compose", "none", None), ("automaton", "no", 7))))
    journal.add(Try("a", 18, 3, 0.5, ("compose",), ("total(x)",), ()))
    return found | {
        "skills": ("skills", folder / "skills.json"),
        "state": ("state", folder / "state.json"),
        **{name: ("torch", folder / name) for name in ("torch", "separate", "linear")},
        "golden": ("golden", folder / "golden.safetensors"),
        "circuit": ("circuit", folder / "circuit.json"),
        "manifest": ("manifest", folder / "suite" / manifest.NAME),
        "part": ("part", folder / "part.json"),
        "unit": ("unit", folder / "unit" / build.UNIT),
    }


# ---------------------------------------------------------------- damage

Path_ = tuple[str | int, ...]


def places_of(data: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Every value of JSON data, containers too."""
    yield at
    if isinstance(data, dict | list):
        for key, one in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places_of(one, (*at, key))


def put(data: Any, at: Path_, change: Callable[[Any, Any], Any]) -> Any:
    """The data with one entry changed: `change` takes a container and a key, in place."""
    whole = [json.loads(json.dumps(data))]
    inside: Any = whole
    for key in (0, *at)[:-1]:
        inside = inside[key]
    change(inside, (0, *at)[-1])
    return whole[0] if whole else None


def changes_of(value: object) -> list[Callable[[Any, Any], Any]]:
    """What may become of an entry: another value, none, a further one."""

    def replaced(other: object) -> Callable[[Any, Any], Any]:
        return lambda inside, key: inside.__setitem__(key, other)

    def extended(inside: Any, key: Any) -> None:
        if isinstance(inside[key], dict):
            inside[key]["further"] = 1
        else:
            inside[key] = [inside[key], inside[key]]

    def doubled(inside: Any, key: Any) -> None:
        if isinstance(inside[key], list) and inside[key]:
            inside[key].append(inside[key][-1])

    def dropped(inside: Any, key: Any) -> None:
        del inside[key]

    numbers = isinstance(value, int | float) and not isinstance(value, bool)
    near = [value + 1, -value, value * 1000] if numbers and math.isfinite(value) else []  # type: ignore[operator]
    return [*map(replaced, (*HOSTILE, *near)), extended, doubled, dropped]


def changed_arrays(
    arrays: dict[str, np.ndarray], draw: random.Random
) -> dict[str, np.ndarray] | None:
    """The arrays with one that has another type or shape, other numbers, or is not there."""
    if not arrays:
        return None
    found, name = dict(arrays), draw.choice(sorted(arrays))
    array = found.pop(name)
    bad = np.array(array)
    if bad.size:
        last = np.iinfo(bad.dtype).max if bad.dtype.kind in "iu" else math.nan
        bad.reshape(-1)[draw.randrange(bad.size)] = draw.choice([last, -1, 0, 77]) if (
            bad.dtype.kind != "b"
        ) else draw.random() < 0.5  # fmt: skip
    made = draw.choice(
        [
            None,
            bad,
            array.astype(np.float64),
            array.astype(np.int64),
            array.astype(bool),
            array.reshape(-1),
            array[None],
            array.reshape(-1)[:-1],
            np.concatenate([array.reshape(-1), array.reshape(-1)]),
            np.zeros((0, 10**9), array.dtype),
            np.array(1, array.dtype),
        ]
    )
    if made is not None:
        found[name if draw.random() < 0.9 else f"{name}.7"] = np.ascontiguousarray(made)
    return found


def damaged(format: Format, honest: Path, path: Path, draw: random.Random, right: bool) -> None:
    """Write a copy with one kind of damage, of what lies on disk or of what it says.

    With right=True the checksum fits what it says.
    """
    kind = draw.choice(["cut", "flip", "field", "field", "array"])
    data, arrays = format.said(honest)
    format.write(path, data, arrays, True)
    if kind == "array" and (made := changed_arrays(arrays, draw)) is not None:
        format.write(path, data, made, right)
        return
    if kind in ("field", "array"):
        at = draw.choice(list(places_of(data)))
        value = data
        for key in at:
            value = value[key]
        format.write(path, put(data, at, draw.choice(changes_of(value))), arrays, right)
        return
    file = path / draw.choice(format.files)
    content = bytearray(file.read_bytes())
    if kind == "cut":
        content = content[: draw.randrange(len(content))]
    else:
        for _ in range(draw.choice([1, 1, 1, 8])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def without(data: Any, names: frozenset[str]) -> Any:
    return {n: x for n, x in data.items() if n not in names} if isinstance(data, dict) else data


def same(one: Any, other: Any) -> bool:
    """Whether plain data and arrays are equal, NaN to itself; numbers by value."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return storage.same_bits(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def said_of(found: Any, data: Any) -> Any:
    """What was found without the fields that the data lack: those have a default."""
    if isinstance(found, dict) and isinstance(data, dict):
        return {key: said_of(found[key], data[key]) for key in found.keys() & data.keys()}
    if isinstance(found, list | tuple) and isinstance(data, list) and len(found) == len(data):
        return [said_of(one, other) for one, other in zip(found, data, strict=True)]
    return found


def outcome(format: Format, honest: Any, path: Path) -> str:
    """ "error", "equal" to the honest file, or "as it says": another one, read to the letter."""
    try:
        found, arrays = format.read(path)
    except (FormatError, InputError):
        return "error"
    found = without(found, format.unread)
    if same((found, arrays), honest):
        return "equal"
    data, said = format.said(path)
    data = without(data, format.unread)
    kind = data.get("program", {}) if isinstance(data, dict) else {}
    if isinstance(kind, dict) and isinstance(kind.get("output_type"), int):
        kind["output_type"] = {"token": kind["output_type"]}  # as older versions wrote it
    if isinstance(data, dict) and "alteration" in data:
        data["alteration"] = {
            key: x for key, x in data["alteration"].items() if key in found["alteration"]
        }
    assert same((said_of(found, data), arrays), (data, said)), "it is not read as it is written"
    return "as it says"


def sweep(
    kind: str, honest: Path, folder: Path, count: int, seed: int, right: bool
) -> tuple[dict[str, int], int]:
    """How often what came of damage, and the most memory that a load took beyond its allowance."""
    format, draw, found = FORMATS[kind], random.Random(seed), {}
    found = dict.fromkeys(("error", "equal", "as it says"), 0)
    data, arrays = format.read(honest)
    known = without(data, format.unread), arrays
    files = [honest] if honest.is_file() else list(honest.iterdir())
    allowed, worst = 4 * sum(file.stat().st_size for file in files) + ROOM, 0
    path = folder / honest.name
    if honest.is_dir():
        path.mkdir()
    tracemalloc.start()
    try:
        for number in range(count):
            damaged(format, honest, path, draw, right)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                found[outcome(format, known, path)] += 1
            except Exception as error:
                error.add_note(f"{kind}, damage {number} of seed {seed}, in {path}")
                raise
            worst = max(worst, tracemalloc.get_traced_memory()[1] - before)
            assert worst <= allowed, f"{kind}, damage {number} of seed {seed} took {worst} bytes"
    finally:
        tracemalloc.stop()
    return found, worst


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, Path]]:
    return make_all(tmp_path_factory.mktemp("honest"))


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    with registry.registered(Plain()):
        yield


NAMES = (
    "linear_rnn", "lstm", "mamba", "altered", "sparse", "torch", "separate", "linear", "golden",
    "circuit", "manifest", "part", "unit", "skills", "state",
)  # fmt: skip


def check_sweep(kind: str, path: Path, folder: Path, count: int, seed: int, right: bool) -> str:
    found, worst = sweep(kind, path, folder, count, seed, right)
    assert right or not found["as it says"], "a damaged file is read as if it were another one"
    assert found["error"] > count // 2
    return f"{found}, at most {worst / 2**20:.1f} MiB"


@pytest.mark.parametrize("right", [False, True], ids=["damaged", "made to harm"])
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_and_forged_ones_read_as_they_say(name, right, honest, tmp_path):
    kind, path = honest[name]
    check_sweep(kind, path, tmp_path, 8 if kind == "model" else 40, 1, right)


@pytest.mark.nightly
@pytest.mark.parametrize("right", [False, True], ids=["damaged", "made to harm"])
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files(name, right, honest, tmp_path):
    kind, path = honest[name]
    found = check_sweep(kind, path, tmp_path, 500, 2, right)
    print(f"{name}, {'made to harm' if right else 'damaged'}: {found}")


# ---------------------------------------------------------------- made to harm


def first(header: Any, op: str) -> Any:
    return next(node["fields"] for node in header["program"]["nodes"] if node["op"] == op)


def pointing_outside(header: Any) -> None:
    """A row of a matrix that ends far behind its entries, and the last one where they end."""
    fields = first(header, "Lookup")
    fields["table"]["indptr"][1] = 10**9


def longest(header: Any) -> None:
    first(header, "Delay")["steps"] = 10**9
    header["program"].update(max_length=2 * 10**9, tokens=2 * 10**9)


LARGE = {
    "matrix": ("linear_rnn", pointing_outside, r"fields\.table: .* indptr: expected numbers that"),
    "columns": (
        "linear_rnn",
        lambda header: first(header, "Lookup")["table"].update(matrix=[3, 10**9]),
        "columns without an entry",
    ),
    "delay": ("linear_rnn", longest, "a delay of at most"),
    "tokens": (
        "lstm",
        lambda header: first(header, "Input").update(type={"token": 10**12}),
        "10{12}",
    ),
    "tokens of a stream": (
        "mamba",
        lambda header: first(header, "Input").update(type={"token": 10**12}),
        "10{12}",
    ),
    "levels": (
        "sparse",
        lambda header: header.update(levels=[[n, r, 10**9] for n, r, _ in header["levels"]]),
        "levels:",
    ),
    "sparse": ("sparse", lambda header: header["sparse"].clear(), "sparse: expected the arrays"),
    "units": (
        "altered",
        lambda header: header["alteration"]["circuit"]["units"].__setitem__(0, 10**12),
        "belongs to no signal",
    ),
}


@pytest.mark.parametrize(("name", "change", "text"), LARGE.values(), ids=LARGE)
def test_sizes_that_a_file_does_not_hold_are_refused_before_they_are_made(
    name, change, text, honest, tmp_path
):
    header, arrays = said_in_model(honest[name][1])
    path = tmp_path / "model.lsrl"
    change(header)
    write_model(path, header, arrays)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=f"model.lsrl: expected a model saved .*{text}"):
            lsrl.load(path)
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


def test_a_state_of_more_sequences_than_its_arrays(honest, tmp_path):
    model = lsrl.load(honest["lstm"][1])
    model.save_state(model.init_state(2), tmp_path / "state")
    header, arrays = said_in_model(tmp_path / "state")
    write_model(tmp_path / "state", {**header, "batch": 10**12}, arrays)
    with pytest.raises(FormatError, match=r"arrays of a batch of 10{12}"):
        model.load_state(tmp_path / "state")


def raw(header: bytes, length: int | None = None) -> bytes:
    """A safetensors file of its bare parts, with 8 bytes of data."""
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(8)


ENTRY = b'"a": {"dtype": "%s", "shape": %s, "data_offsets": [0, 8]}'
RAW = {
    "a type of its own": raw(b"{" + ENTRY % (b"F8_E4M3", b"[8]") + b"}"),
    "no type": raw(b"{" + ENTRY % (b"X1", b"[8]") + b"}"),
    "an array twice": raw(b"{" + ENTRY % (b"F32", b"[2]") + b"," + ENTRY % (b"F64", b"[1]") + b"}"),
    "a long shape": raw(b"{" + ENTRY % (b"F32", b"[0, 4611686018427387904, 8]") + b"}"),
    "a long header": raw(b"{}", 2**62),
    "no header": b"\0" * 8,
    "deep": raw(b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
}


@pytest.mark.parametrize("content", RAW.values(), ids=RAW)
def test_headers_of_arrays_that_are_made_to_harm(content, tmp_path):
    path = tmp_path / "model.lsrl"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="expected a model saved by"):
        lsrl.load(path)


def recurrent(**arguments: object) -> Callable[[Any], None]:
    return lambda config: config["modules"]["recurrent"]["arguments"].update(arguments)


ARGUMENTS = {
    "layers": (recurrent(num_layers=10**9), "10{9} layers"),
    "sizes": (recurrent(hidden_size=30_000), "modules.output: expected .*30000"),
    "both": (
        recurrent(hidden_size=30_000, input_size=30_000),
        "modules.recurrent: expected .*30000",
    ),
    "a device": (recurrent(device="cuda"), "arguments: expected no field but .*, got 'device'"),
    "a dtype": (recurrent(dtype="float16"), "got 'dtype'"),
    "a projection": (recurrent(proj_size=1), "got 'proj_size'"),
    "a flag": (recurrent(batch_first=1), "batch_first: expected true or false, got 1"),
    "time first": (recurrent(batch_first=False), "batch_first"),
    "an input": (lambda config: config["inputs"].update(bit={"token": 10**12}), "10{12}"),
    "another class": (
        lambda config: config["modules"]["recurrent"].update({"class": "Module"}),
        "class: expected 'Embedding' or",
    ),
    "a module more": (
        lambda config: config["modules"].update(more=config["modules"]["output"]),
        "modules: expected the modules input_0, recurrent, output",
    ),
    "other numbers": (lambda config: config.update(dtype="float64"), "float64"),
}


@pytest.mark.parametrize(("change", "text"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_of_torch_modules_are_those_that_the_tensors_fill(change, text, honest, tmp_path):
    config, arrays = said_in_folder(honest["torch"][1])
    change(config)
    (tmp_path / "torch").mkdir()
    write_folder(tmp_path / "torch", config, arrays)
    with pytest.raises(FormatError, match=f"torch: expected a folder written by .*{text}"):
        lsrl.load_torch(tmp_path / "torch")


def layer(name: str, **arguments: object) -> Callable[[Any], None]:
    return lambda config: config["modules"][name]["arguments"].update(arguments)


OF_LAYERS = {
    "a unit more": ("linear", layer("layer_1", units=10**6), "layer_1.*10{6}"),
    "a unit that there is not": ("linear", layer("layer_1", left=[10**6]), "left, right and relu"),
    "no channels": ("linear", layer("layer_1", left=[], right=[], relu=[]), "of one length"),
    "a unit outside": (
        "linear",
        lambda config: config["modules"]["layer_1"]["arguments"]["right"].__setitem__(0, 99),
        "units below .*, got 99",
    ),
    "a sum of other size": ("linear", layer("layer_0", features=10**6), "layer_0: .*10{6}"),
    "another class": (
        "linear",
        lambda config: config["modules"]["layer_0"].update({"class": "Linear"}),
        "(an InputSum|num_embeddings|no field but)",
    ),
    "another version": ("linear", lambda config: config.update(version=1), "version 1 of layer_1"),
    "layers of one layer": ("separate", layer("layer_1", num_layers=2), "layer_1.*of one layer"),
    "layers of other sizes": (
        "separate", layer("layer_1", hidden_size=10**6), "expected .*10{6}",
    ),
    "a gap": (
        "separate",
        lambda config: config["modules"].update(layer_7=config["modules"].pop("layer_1")),
        "modules: expected the modules input_0, layer_1",
    ),
    "no layers": (
        "separate",
        lambda config: [config["modules"].pop(n) for n in [*config["modules"]] if "layer" in n],
        "modules: expected modules recurrent or layer_1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "text"), OF_LAYERS.values(), ids=OF_LAYERS)
def test_layers_fit_together(name, change, text, honest, tmp_path):
    config, arrays = said_in_folder(honest[name][1])
    change(config)
    (tmp_path / "torch").mkdir()
    write_folder(tmp_path / "torch", config, arrays)
    with pytest.raises(FormatError, match=f"torch: expected a folder written by .*({text})"):
        lsrl.load_torch(tmp_path / "torch")


def test_a_manifest_names_no_file_outside_its_folder(tmp_path):
    path = tmp_path / manifest.NAME
    _write_manifest(path)
    for place in ("../unit.json", "/etc/passwd", "a//b", "C:/x", "a\\b", "a\0b", ""):
        write_json(path, {**said_in_json(path)[0], "files": {place: "ab"}}, {})
        with pytest.raises(FormatError, match="files: expected a relative path"):
            manifest.read_manifest(tmp_path)


PARTS = {
    "columns: expected a list": {"columns": "ab"},
    r"\[1\]: expected a list of 2, got": {"rows": [["1", "2"], ["1"]]},
    r"\[0\]\[1\]: expected a text, got 2": {"rows": [["1", 2]]},
    "expected no field but": {"further": 1},
}


@pytest.mark.parametrize(("text", "change"), PARTS.items(), ids=PARTS)
def test_tasks_of_other_rows_than_columns(text, change, tmp_path):
    path = tmp_path / "part.json"
    store.write_part(path, ("a", "b"), [{"a": 1, "b": 0.5}])
    write_json(path, {**said_in_json(path)[0], **change}, {})
    with pytest.raises(FormatError, match=f"part.json: expected .*{text}.*; remove it"):
        store.read_part(path, ("a", "b"))


@pytest.mark.parametrize(
    ("kind", "cure"),
    {
        "circuit": r"circuit.save\(path\), and .* dataclasses.replace\(circuit, ...\).save\(path\)",
        "manifest": "build it again",
        "part": "remove it, and it is made anew",
    }.items(),
)
def test_what_was_changed_by_hand_is_told_of_with_its_cure(kind, cure, honest, tmp_path):
    path = tmp_path / honest[kind][1].name
    text = honest[kind][1].read_text()
    path.write_text(json.dumps(json.loads(text), indent=7, sort_keys=True))  # says the same
    FORMATS[kind].read(path)
    path.write_text(text.replace("majority", "minority").replace('"lstm"', '"gru"'))
    told = f"{path.name}: .*checksum: expected .*changed after it was written.*; .*{cure}"
    with pytest.raises(FormatError, match=told):
        FORMATS[kind].read(path)
