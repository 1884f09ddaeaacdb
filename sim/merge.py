"""``vla merge``: the episodes of several evaluations in one store, so that many machines may share one evaluation.

machine 1    vla eval policy=outputs/train seed=0  episodes=50 out=outputs/first
machine 2    vla eval policy=outputs/train seed=50 episodes=50 out=outputs/second
then         vla merge outputs/first outputs/second --out outputs/eval
             vla eval policy=outputs/train seed=0 episodes=100 out=outputs/eval     finds them all, and reports
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sim.store import FILE, EpisodeStore
from vla.errors import UnderstudyError

EXAMPLE = """\
A store is the folder of a `vla eval`, or its episodes.sqlite. Merging the same twice changes nothing.

examples:
  vla merge outputs/first outputs/second --out outputs/eval
  vla merge outputs/eval --out outputs/eval --parquet outputs/eval/episodes.parquet
"""
MOST_TOLD = 10


def main(argv: Sequence[str]) -> int:
    """``vla merge A [B …] --out C [--parquet FILE]``; 0, or 1 when the stores contradict each other."""
    parser = argparse.ArgumentParser(
        prog="vla merge",
        description="Merge the episodes of several evaluations into one store.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stores", metavar="STORE", nargs="+", type=Path, help="what to merge")
    parser.add_argument("--out", type=Path, required=True, help="the store that takes them in; made when not there")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="write what is then in it as Parquet too")
    given = parser.parse_args(argv)
    console = Console(highlight=False)
    out, sources = store_file(given.out), [store_file(path) for path in given.stores]
    if absent := [str(file) for file in sources if not file.is_file()]:
        raise UnderstudyError(f"there is no {', '.join(absent)}: give folders that vla eval wrote")
    with EpisodeStore(out) as store:
        for file in sources:
            with EpisodeStore(file, read=True) as source:
                done = store.merge(source)
            console.print(f"{file}: {done.added} episodes are new, {done.known} were there", soft_wrap=True)
        console.print(f"{out}: {len(store)} episodes", soft_wrap=True)
        if given.parquet is not None:
            console.print(f"{given.parquet}: {store.to_parquet(given.parquet)} rows", soft_wrap=True)
        contradictions = store.contradictions()
    if contradictions:
        console.print(
            f"{len(contradictions)} episodes contradict each other: the same was asked, and something else came of it "
            "on another processor, driver or version. Both are kept; vla eval plays them again:"
        )
        for contradiction in contradictions[:MOST_TOLD]:
            console.print(f"  {contradiction}", soft_wrap=True)
    return int(bool(contradictions))


def store_file(path: Path) -> Path:
    """The store that a folder holds, or the file itself."""
    return path if path.suffix == Path(FILE).suffix else path / FILE
