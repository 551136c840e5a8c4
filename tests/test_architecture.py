"""The stair: a room imports only from steps below its own; rooms on one step are strangers; the torch-free stay so."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "h1r"
STAIR = [
    {"errors", "types", "config", "log"},
    {"ops", "data", "text", "verify", "search", "report"},
    {"model"},
    {"engine", "endpoint", "train"},
    {"rl", "evals", "serve", "scale", "bench", "doctor"},
    {"cli"},
]
STEP = {room: i for i, rooms in enumerate(STAIR) for room in rooms}
TORCH_FREE = ["data", "text", "verify", "search", "report", "endpoint", "evals", "scale"]
FRUGAL = {"model", "ops", "engine"}  # rooms that run where only torch, numpy and safetensors are installed
FILE_LIMIT, KERNEL_LIMIT, FUNCTION_LIMIT, LOOP_LIMIT = 400, 600, 60, 120


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or not p.name.startswith("__"))


ROOM_OF = {"LLM": "engine", "SamplingParams": "types"}  # names that h1r itself exports


def imported(tree: ast.AST, jailed: bool = False) -> set[str]:
    """Absolute names of every module imported anywhere in the tree, inside functions too. jailed: a file that runs inside the
    sandbox, where h1r is not installed: there, neighbours import one another relatively."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            if jailed and node.level == 1:
                continue
            assert node.level == 0, "relative imports hide an arrow: write the module's full name"
            module = node.module or ""
            names |= {f"h1r.{a.name}" for a in node.names} if module == "h1r" else {module}
    return names


def test_every_room_is_on_the_stair():
    rooms = {room_of(p) for p in sources()}
    assert rooms == set(STEP), f"not on the stair: {rooms - set(STEP)}; missing: {set(STEP) - rooms}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_stair(path):
    mine = room_of(path)
    for name in imported(ast.parse(path.read_text(encoding="utf-8")), jailed="inside" in path.parts):
        if not name.startswith("h1r.") or name == "h1r.__version__":
            continue
        other = ROOM_OF.get(name.split(".")[1], name.split(".")[1])
        ground = STEP[mine] == STEP[other] == 0
        assert other == mine or STEP[other] < STEP[mine] or ground, f"{mine} may not import {name}"


@pytest.mark.parametrize(
    "path", [p for p in sources() if room_of(p) in FRUGAL], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_frugal_rooms_import_little(path):
    allowed = {"torch", "numpy", "safetensors", "h1r", "triton"} | set(sys.stdlib_module_names)
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        root = name.split(".")[0]
        hub = root == "huggingface_hub" and path.name == "llm.py"  # resolving a Hub id, where the package is there
        assert root in allowed or hub, f"{path.name} imports {name}"
        if name.startswith("h1r.text"):
            assert path.name == "llm.py", f"{path.name} imports {name}: only engine/llm.py may"


def test_torch_free_rooms_import_with_torch_blocked():
    code = "import sys, importlib\nsys.modules['torch'] = None\n" + "\n".join(
        f"importlib.import_module('h1r.{room}')" for room in TORCH_FREE
    )
    modules = [
        "h1r." + ".".join(p.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for p in sources()
        if room_of(p) in TORCH_FREE and not p.name.startswith("_")
    ]
    code += "\n" + "\n".join(f"importlib.import_module({m!r})" for m in modules if "worker" not in m)
    code += "\nassert sys.modules['torch'] is None\nprint('ok')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "ok", done.stderr[-2000:]


def test_files_and_functions_are_short():
    long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        limit = KERNEL_LIMIT if path.stem in ("triton", "native") or "native" in path.parts else FILE_LIMIT
        if text.count("\n") > limit:
            long.append(f"{path.relative_to(SOURCE)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                limit = LOOP_LIMIT if node.name == "run" else FUNCTION_LIMIT
                if length > limit:
                    long.append(f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}: {length} lines")
    assert not long, "\n".join(long)


def test_help_is_fast_because_torch_is_not_imported():
    code = "import sys, h1r.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr[-2000:]
