"""The architecture, held by a test: imports point one way, and the pure rooms stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "src" / "rushes"
LANGUAGE = {"units", "faults", "video"}

# What each room may import, besides itself. Rooms are modules or packages below rushes.
MAY: dict[str, set[str]] = {
    "units": set(),
    "faults": {"units"},
    "video": {"units", "faults"},
    "keyfile": {"faults"},
    "eventstore": LANGUAGE,
    "adapters": LANGUAGE,
    "assets": LANGUAGE,
    "media": LANGUAGE,
    "flight": LANGUAGE | {"adapters.base", "adapters.redaction"},
    "emulators": LANGUAGE | {"adapters.base", "adapters.capabilities"},
    "actors": LANGUAGE | {"eventstore", "adapters", "assets", "media"},
    "intake": LANGUAGE | {"adapters", "assets", "media", "actors"},
    "studio": LANGUAGE | {"eventstore", "adapters", "assets", "media", "actors", "intake"},
    "views": LANGUAGE | {"eventstore", "actors"},
    "api": LANGUAGE | {"adapters.families", "eventstore", "studio"},
    "client": LANGUAGE,
    "tools": LANGUAGE | {"eventstore.base", "studio", "api.auth", "api.protocol", "client"},
    "mcp": LANGUAGE | {"api.protocol", "tools"},
    "testing": LANGUAGE | {"eventstore", "adapters", "assets", "media", "actors", "emulators"},
    "replay": LANGUAGE
    | {"eventstore", "adapters", "assets", "media", "flight", "actors", "emulators.base", "testing.loop"},
    "main": LANGUAGE
    | {"eventstore", "adapters", "assets", "media", "flight", "actors", "emulators", "studio", "views", "keyfile"}
    | {"replay"},
    "cli": LANGUAGE
    | {"eventstore", "adapters.base", "media", "emulators", "studio", "api", "client", "main", "tools", "mcp"}
    | {"replay", "flight", "adapters.callbacks"},
    "__init__": LANGUAGE | {"eventstore", "main", "studio"},
}
# Within the actors, the words do not know the machinery.
PURE = {"units", "faults", "video", "actors.messages", "actors.job", "actors.codec", "actors.words"}
PURE |= {"adapters.capabilities", "adapters.catalogue", "adapters.families", "adapters.fit", "adapters.redaction"}
PURE |= {"studio.showing"}
# The studio's own rooms: each may import those before it.
STUDIO = ["doors", "routing", "asking", "beginning", "batches", "following", "listing", "showing"]
STUDIO += ["providers", "studio"]
IMPURE = {"asyncio", "time", "random", "logging", "structlog", "os", "socket", "subprocess", "threading"}


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_arrows(root: Path) -> list[str]:
    wrong = []
    for path in sorted(root.rglob("*.py")):
        module = module_name(path, root)
        room = module.partition(".")[0]
        later = STUDIO[STUDIO.index(module.removeprefix("studio.")) :] if room == "studio" else []
        for name in imported(ast.parse(path.read_text("utf-8"))):
            inside = name.removeprefix("rushes.") if name.startswith("rushes.") else ""
            target = inside.partition(".")[0]
            allowed = MAY.get(room, set())
            if (
                target
                and target != room
                and target not in allowed
                and not any(inside == a or inside.startswith(f"{a}.") for a in allowed)
            ):
                wrong.append(f"{module} imports {name}")
            if module.startswith("studio.") and inside.removeprefix("studio.").partition(".")[0] in later:
                wrong.append(f"{module} imports {name}")
            if module in PURE and name.partition(".")[0] in IMPURE:
                wrong.append(f"{module} is pure and imports {name}")
    return wrong


def test_every_room_is_known() -> None:
    rooms = {module_name(path, ROOT).partition(".")[0] for path in ROOT.rglob("*.py")}
    assert rooms <= set(MAY), f"say where {rooms - set(MAY)} stands"


def test_imports_point_one_way() -> None:
    assert wrong_arrows(ROOT) == []


def test_an_outward_arrow_is_seen(tmp_path: Path) -> None:
    """The negative control: a store that knows of jobs, siblings that know each other, a decider with a watch …"""
    for name, line in {
        "eventstore/sqlite.py": "from rushes.actors.messages import Event",
        "adapters/http.py": "from rushes.assets import Assets",
        "actors/job.py": "import time",
        "emulators/local.py": "from rushes.adapters.http import Http",
        "studio/routing.py": "from rushes.studio.asking import asked",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(line)
    assert len({arrow.partition(" ")[0] for arrow in wrong_arrows(tmp_path)}) == 5
