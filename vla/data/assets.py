"""Meshes and textures that a simulator needs and its package does not bring: checked, copied, and watched over.

    vla data fetch-assets libero --from path/to/LIBERO

Nothing is downloaded here. The user has a checkout of LIBERO's repository, or of the asset dataset; what its package
refers to (`libero_assets.json`: the scenes and objects of its 130 tasks), and all that these files refer to in turn, is
looked for there, and copied to where the suite looks for it. Nobody has published hashes of these files, so at the
first fetch they are taken as they are, and written down (`MANIFEST`); every later fetch and every start of the suite is
held against that list.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from vla.errors import UnderstudyError

FOLDER = "UNDERSTUDY_LIBERO_ASSETS"
"""Environment variable: where the suite looks, instead of in the user's cache."""
MANIFEST = "sha256.json"
COMMAND = "vla data fetch-assets libero --from DIR"
WHERE = (
    "DIR being a checkout of the repository Lifelong-Robot-Learning/LIBERO (its assets lie in libero/libero/assets, "
    "206 MB) or of the dataset lerobot/libero-assets"
)
_ENTRIES: tuple[str, ...] = tuple(json.loads(Path(__file__).with_name("libero_assets.json").read_text("utf-8")))
_PLACES = (".", "assets", "libero/libero/assets", "libero/assets")
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Fetched:
    """What a fetch came to: files and bytes in ``folder``; ``known``: whether an earlier list vouches for them."""

    folder: Path
    files: int
    size: int
    known: bool


def libero_folder() -> Path:
    """Where the suite looks for LIBERO's assets."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    from vla.data.frames import cache_folder  # what that imports takes seconds

    return cache_folder() / "libero-assets"


def libero_assets() -> Path:
    """The folder, after every file in its list has been checked; raises `UnderstudyError` saying what is to be done."""
    folder = libero_folder()
    listed = _listed(folder)
    if not listed:
        raise UnderstudyError(f"LIBERO's meshes and textures are not at {folder}: run {COMMAND}, {WHERE}")
    changed = [name for name, digest in listed.items() if _digest(folder / name) != digest]
    if changed:
        raise UnderstudyError(
            f"{len(changed)} of LIBERO's files in {folder} are not those that were fetched, {changed[0]} for one: "
            f"remove the folder and run {COMMAND} again"
        )
    return folder


def fetch_libero(source: Path, target: Path | None = None) -> Fetched:
    """Copy all that LIBERO's tasks need from ``source`` to ``target``, which is there as a whole or not at all."""
    target = libero_folder() if target is None else target
    root = _root(source)
    names = _needed(root)
    digests = {name: _digest(root / name) for name in names}
    listed = _listed(target)
    others = sorted(name for name in {*listed, *digests} if listed and listed.get(name) != digests.get(name))
    if others:
        raise UnderstudyError(
            f"{source} has other files than those that were fetched to {target} before ({len(others)}, {others[0]} for "
            "one): remove that folder if these are the ones that you want"
        )
    if target.exists() and not listed:
        raise UnderstudyError(f"{target} is there already and was not made by this command: give another --to")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        fresh = Path(partial, "assets")
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, fresh / name)
        (fresh / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", "utf-8")
        if target.exists():
            target.rename(Path(partial, "old"))
        fresh.rename(target)
    return Fetched(target, len(names), sum((target / name).stat().st_size for name in names), bool(listed))


def _root(source: Path) -> Path:
    """The folder of assets in or under ``source``."""
    for place in _PLACES:
        if (source / place / _ENTRIES[0]).is_file():
            return (source / place).resolve()
    raise UnderstudyError(f"there are no assets of LIBERO in {source}: give {COMMAND}, {WHERE}")


def _needed(root: Path) -> list[str]:
    """All files that LIBERO's tasks need, found by following what each refers to; none may be missing."""
    found: set[str] = set()
    left = list(_ENTRIES)
    missing = []
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        path = root / name
        if not path.is_file() or path.stat().st_size == 0:
            missing.append(name)
        elif path.open("rb").read(len(_POINTER)) == _POINTER:
            raise UnderstudyError(f"{path} is only a pointer of Git LFS: run `git lfs pull` in that checkout first")
        elif path.suffix == ".xml":
            left += _references(root, path)
    if missing:
        raise UnderstudyError(
            f"{len(missing)} of the {len(found)} files that LIBERO's tasks need are not in {root}, "
            f"{sorted(missing)[0]} for one: is the checkout complete?"
        )
    return sorted(found)


def _references(root: Path, path: Path) -> Iterable[str]:
    """The files that a model refers to, as seen from ``root``; robosuite looks for them beside the model."""
    try:
        elements = ElementTree.parse(path).iter()  # noqa: S314  the user's own file; expat bounds what it expands to
    except ElementTree.ParseError as problem:
        raise UnderstudyError(f"{path} is no XML: {problem}") from problem
    for element in elements:
        if file := element.get("file"):
            target = (path.parent / file).resolve()
            if not target.is_relative_to(root):
                raise UnderstudyError(f"{path} refers to {file}, which lies outside of the assets")
            yield target.relative_to(root).as_posix()


def _listed(folder: Path) -> dict[str, str]:
    """File → SHA-256 as written down in ``folder``; empty where nothing has been fetched."""
    manifest = folder / MANIFEST
    return json.loads(manifest.read_text("utf-8")) if manifest.is_file() else {}


def _digest(path: Path) -> str:
    """SHA-256 of a file; "" when there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
