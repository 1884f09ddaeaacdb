"""Every finished episode of an evaluation, in one SQLite file: written as it arrives, found again, merged with others.

    with EpisodeStore("outputs/eval/episodes.sqlite") as store:
        keys = [store.key(setting, scene) for scene in scenes]        # by what decides an episode, and nothing else
        for result in store.resumed(keys, lambda left: play_all([scenes[n] for n in left], workers=2)):
            …                                                         # in order; only what was missing was played

A row is an *outcome* of a key, so a store is a set, and merging is its union: in any order, any number of times, the
same. Two outcomes of one key contradict each other (another processor, another driver, a bug): both stay, are named
(`contradictions`), and count as not played. Latencies are measured anew every time and are no part of an outcome; of
equal outcomes the one that was finished first keeps its own.

    settings   id, json                         what a whole evaluation shares, once
    episodes   key, outcome      → its name     setting, task, told, condition, seed, prompt, goal: what was asked
               result            JSON           `sim.results.EpisodeResult` without what is measured, or as by default
               latency_ms        float32        one an inference
               actions           float32        [T, A], where they were kept; A in action_dim
               finished          seconds        since 1970

SQLite's write-ahead log makes every `add` whole or absent, whenever the process is killed. Workers never write: the one
process that plays does. Nothing in the file is ever run: it holds JSON and numbers.
"""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from sim.results import EpisodeResult
from vla.errors import UnderstudyError

FILE = "episodes.sqlite"
OURS = ("vla", "policies", "robot_bridge", "sim")
"""Our packages."""
DECIDING = ("numpy", "torch", "diffusers", "transformers", "lerobot", "mujoco", "gymnasium", "metaworld")
"""Packages of others whose version may change a number."""
SCHEMA = 1
APPLICATION = 0x56E9150D
"""Tells SQLite's files of this kind from others."""
BUSY_S = 30.0
"""For which a process waits until another has written."""
MEASURED = ("latency_ms", "film")
"""Fields of a result that playing again does not give again."""

TABLES = """
CREATE TABLE IF NOT EXISTS settings (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS episodes (
    key TEXT NOT NULL, outcome TEXT NOT NULL,
    setting TEXT NOT NULL REFERENCES settings (id),
    task TEXT NOT NULL, told TEXT NOT NULL, condition TEXT NOT NULL, seed INTEGER NOT NULL,
    prompt TEXT NOT NULL, goal TEXT NOT NULL,
    result TEXT NOT NULL, latency_ms BLOB NOT NULL, actions BLOB, action_dim INTEGER, finished REAL NOT NULL,
    PRIMARY KEY (key, outcome)
) STRICT;
"""
# Of equal outcomes the earlier stays; of two of one instant the lesser, so that the order of merging does not matter.
INSERT = """
INSERT INTO episodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key, outcome) DO UPDATE SET
    latency_ms = excluded.latency_ms, actions = excluded.actions, action_dim = excluded.action_dim,
    finished = excluded.finished
WHERE (excluded.finished, excluded.latency_ms, ifnull(excluded.actions, x''))
    < (episodes.finished, episodes.latency_ms, ifnull(episodes.actions, x''))
"""
CONTRADICTING = """
SELECT key, task, condition, seed, json, result, latency_ms FROM episodes JOIN settings ON settings.id = setting
WHERE key IN (SELECT key FROM episodes GROUP BY key HAVING count(*) > 1) ORDER BY task, condition, seed, key, outcome
"""
ALL = """
SELECT key, told, prompt, goal, json, finished, result, latency_ms FROM episodes
JOIN settings ON settings.id = setting ORDER BY task, condition, seed, key, outcome
"""


class Asked(Protocol):
    """What is asked of one episode; `sim.rollout.Scene` is one."""

    task: str
    told: str
    condition: Any
    seed: int
    prompt: str
    goal: str


class Played(Protocol):
    """What came of it; `sim.rollout.Played` is one."""

    result: EpisodeResult
    actions: np.ndarray


@dataclass(frozen=True)
class Key:
    """What decides an episode: ``name`` is the hash of the rest; ``setting``: canonical JSON."""

    name: str
    setting: str
    asked: tuple[str, str, str, int, str, str]


@dataclass(frozen=True)
class Contradiction:
    """One key of which several outcomes are stored."""

    task: str
    condition: str
    seed: int
    setting: str
    results: tuple[EpisodeResult, ...]

    def __str__(self) -> str:
        found = " or ".join(_told(result) for result in self.results)
        return f"{self.task}, {self.condition}, seed {self.seed}: {found}"


@dataclass(frozen=True)
class Merged:
    """What came of a merge: outcomes that were new, and those that were there already."""

    added: int
    known: int
    contradictions: tuple[Contradiction, ...]


class EpisodeStore:
    """One file of episodes; made when it is not there, unless it is only to be ``read``.

    Raises:
        UnderstudyError: no store, or one of a newer version.
    """

    def __init__(self, path: str | Path, *, read: bool = False) -> None:
        self.path = Path(path)
        if read and not self.path.is_file():
            raise UnderstudyError(f"there is no {self.path}: vla eval writes it")
        if not read:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "ro" if read else "rwc"
        try:
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", timeout=BUSY_S, isolation_level=None, uri=True
            )
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._check_kind()
            if not read:
                self._begin()
        except sqlite3.Error as error:
            raise UnderstudyError(f"{self.path} cannot be used as a store of episodes: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM episodes").fetchone()
        return int(count)

    def close(self) -> None:
        """Put the log into the file."""
        self._db.close()

    def _check_kind(self) -> None:
        (version,), (application,), (tables,) = (
            self._db.execute(query).fetchone()
            for query in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_schema")
        )
        if tables and application != APPLICATION:
            raise UnderstudyError(f"{self.path} is a database of another program")
        if tables and version != SCHEMA:
            raise UnderstudyError(f"{self.path} has format {version}, this version of Understudy reads {SCHEMA}")

    def _begin(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._writing():
            for statement in TABLES.split(";")[:-1]:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    @staticmethod
    def key(setting: Mapping[str, Any], asked: Asked) -> Key:
        """What decides the episode ``asked`` for.

        ``setting``: JSON of all else that decides it (weights, code, execution, suite, disturbance), of the whole
        evaluation or of this episode: what is not named here is taken for the same.
        """
        text = json.dumps(setting, sort_keys=True, allow_nan=False)
        about = (asked.task, asked.told, str(asked.condition), int(asked.seed), asked.prompt, asked.goal)
        return Key(_digest([text, *about]), text, about)

    def found(self, keys: Iterable[Key]) -> dict[str, EpisodeResult]:
        """Name of a key → its result, of those that have been played and have one outcome."""
        wanted = {key.name for key in keys}
        rows: dict[str, list[EpisodeResult]] = {}
        for name, *row in self._db.execute("SELECT key, result, latency_ms FROM episodes"):
            if name in wanted:
                rows.setdefault(name, []).append(self._result(*row))
        return {name: results[0] for name, results in rows.items() if len(results) == 1}

    def add(self, key: Key, result: EpisodeResult, actions: np.ndarray | None = None) -> None:
        """Keep what came of ``key``; ``actions`` [T, A]. On return it survives the process."""
        kept = None if actions is None else np.ascontiguousarray(actions, "<f4")
        text = json.dumps(_outcome(result))
        setting = _digest(key.setting)
        row = (
            *(key.name, _digest(text), setting, *key.asked, text),
            np.asarray(result.latency_ms, "<f4").tobytes(),
            *((None, None) if kept is None else (kept.tobytes(), kept.shape[1])),
            time.time(),
        )
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (setting, key.setting))
            self._db.execute(INSERT, row)

    def resumed(self, keys: Sequence[Key], play: Callable[[list[int]], Iterable[Played]]) -> Iterator[EpisodeResult]:
        """The result of every key, in order: as stored, or as ``play`` gives it, which is then stored.

        ``play`` gets the numbers of the keys that are missing and yields their episodes in that order. What ended with
        a fault could not be judged: it is passed on and not stored, and so played again next time.
        """
        found = self.found(keys)
        missing = [number for number, key in enumerate(keys) if key.name not in found]
        fresh = iter(play(missing) if missing else ())
        for key in keys:
            if key.name in found:
                yield found[key.name]
            else:
                played = next(fresh)
                if not played.result.fault:
                    self.add(key, played.result, played.actions)
                yield played.result

    def actions(self, key: Key) -> np.ndarray | None:
        """The actions [T, A] float32 of an episode; none when they were not kept."""
        row = self._db.execute("SELECT actions, action_dim FROM episodes WHERE key = ?", (key.name,)).fetchone()
        return None if row is None or row[0] is None else np.frombuffer(row[0], "<f4").reshape(-1, row[1])

    def merge(self, other: "EpisodeStore") -> Merged:
        """Take in all that another store holds."""
        before = len(self)
        with self._writing():
            settings = other._db.execute("SELECT id, json FROM settings")
            self._db.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings)
            self._db.executemany(INSERT, other._db.execute("SELECT * FROM episodes"))
        added = len(self) - before
        return Merged(added, len(other) - added, self.contradictions())

    def contradictions(self) -> tuple[Contradiction, ...]:
        """All keys of which several outcomes are stored."""
        found: dict[str, tuple[Any, list[EpisodeResult]]] = {}
        for name, task, condition, seed, setting, *row in self._db.execute(CONTRADICTING):
            found.setdefault(name, ((task, condition, seed, setting), []))[1].append(self._result(*row))
        return tuple(Contradiction(*about, tuple(results)) for about, results in found.values())

    def rows(self) -> list[dict[str, Any]]:
        """Every outcome as one flat record: what was asked, the setting's JSON, the fields of the result."""
        names = ("key", "told", "prompt", "goal", "setting", "finished")
        return [
            dict(zip(names, about)) | asdict(self._result(text, latency_ms))
            for *about, text, latency_ms in self._db.execute(ALL)
        ]

    def to_parquet(self, path: str | Path) -> int:
        """Write `rows` as a Parquet file for other programs; returns how many."""
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UnderstudyError("Parquet needs pyarrow: pip install pyarrow") from error
        rows = self.rows()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return len(rows)

    def _writing(self) -> "_Transaction":
        return _Transaction(self._db, self.path)

    def _result(self, text: str, latency_ms: bytes) -> EpisodeResult:
        values = json.loads(text)
        if strange := set(values) - {field.name for field in fields(EpisodeResult)}:
            raise UnderstudyError(f"{self.path} was written by a newer version: it knows {', '.join(sorted(strange))}")
        return EpisodeResult(**values, latency_ms=tuple(np.frombuffer(latency_ms, "<f4").tolist()))


class _Transaction:
    """What is done in it is done whole or not at all."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = db, path

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise self._refused(error) from error

    def _refused(self, error: sqlite3.Error) -> UnderstudyError:
        return UnderstudyError(f"{self._path} cannot be written ({error}): is another command at it, or the disk full?")


def _outcome(result: EpisodeResult) -> dict[str, Any]:
    """What playing again has to give again, without what is as by default: fields may be added later."""
    values = {field.name: (getattr(result, field.name), field.default) for field in fields(result)}
    return {name: value for name, (value, default) in values.items() if name not in MEASURED and value != default}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _told(result: EpisodeResult) -> str:
    return f"{'success' if result.success else 'failure'} after {result.steps} steps"


def fingerprint(checkpoint: Path) -> str:
    """Thirty-two hex digits of what decides how a checkpoint acts: its settings and its weights, not its provenance.

    What answers at the address of a remote policy nobody knows, and it may be another one tomorrow: its fingerprint is
    never the same, so that it is always played anew.
    """
    if (checkpoint / "remote.json").is_file():
        return secrets.token_hex(16)
    told = hashlib.sha256()
    for file in sorted(file for end in ("json", "yaml", "safetensors") for file in checkpoint.glob(f"*.{end}")):
        if file.name != "provenance.json":
            told.update(file.name.encode() + _hash_of(file))
    return told.hexdigest()[:32]


def by_content(file: str) -> str:
    """A file's name and what is in it, wherever it lies; "" of none."""
    return f"{Path(file).name} {_hash_of(Path(file)).hex()[:32]}" if file else ""


@cache
def software() -> dict[str, str]:
    """What decides an episode beside weights and settings: our code, as it lies here, and `versions`."""
    told, home = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(file for name in OURS for file in (home / name).rglob("*.py")):
        told.update(file.relative_to(home).as_posix().encode() + _hash_of(file))
    return {"code": told.hexdigest()[:32], **versions()}


def versions() -> dict[str, str]:
    """Of the packages in `DECIDING`, where they are installed."""
    found = {}
    for package in DECIDING:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _hash_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
