"""``vla remote ADDRESS``: make a policy of somebody else's server, a folder that ``vla eval`` takes as any other.

The server does not say what arm it drives. What it sees and does is taken from a suite, or from a dataset.
"""

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from policies.provenance import data_provenance
from robot_bridge.arguments import option
from robot_bridge.foreign.remote import Remote, RemotePolicy
from robot_bridge.foreign.table import read_map
from sim.suite import SUITES, SuiteSpec, make_suite
from vla.data.lerobot import DatasetSpec, open_dataset
from vla.errors import UnderstudyError, unknown
from vla.types import PolicySpec

logger = logging.getLogger(__name__)

EXAMPLE = """\
examples:
  vla remote ws://127.0.0.1:8000 --like tabletop --option image_size=96 --map front=agentview --out outputs/remote
      then: vla eval policy=outputs/remote suite.image_size=96 suite.cameras=[front]
  vla remote gr00t://127.0.0.1:5555 --like outputs/collect --exec-horizon 8 --out outputs/remote
      then: vla eval policy=outputs/remote
"""


def main(argv: list[str]) -> int:
    """The command."""
    given = _arguments().parse_args(argv)
    file = str(given.token.resolve()) if given.token else ""
    remote = Remote(given.server, read_map(given.map), given.timeout, file)
    options = dict(option(word) for word in given.option)
    spec, provenance = like(given.like, options)
    policy = RemotePolicy(_with_horizons(spec, 1, 1), remote)
    chunk = check_server(policy, given.chunk)
    made = RemotePolicy(_with_horizons(spec, chunk, given.exec_horizon or chunk), remote)
    made.save(given.out)
    (given.out / "provenance.json").write_text(json.dumps(provenance, indent=2))
    logger.info("now: %s", eval_command(given.like, options, made.spec, given.out))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vla remote",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("server", help="ws://HOST:PORT (vla-eval), gr00t://HOST:PORT, gr00t-sim://HOST:PORT (flat keys)")
    add("--like", required=True, help=f"a suite ({', '.join(SUITES)}) or a dataset: cameras, proprio, actions, rate")
    add(
        "--option", nargs="+", default=[], metavar="NAME=VALUE", help="of the suite, as in suite.NAME=VALUE of vla eval"
    )
    add("--map", nargs="+", default=[], metavar="NAME=THEIRS", help="what is called how there, or a .yaml")
    add("--chunk", type=int, help="actions in an answer; GR00T's servers say it, of others it is 1")
    add("--exec-horizon", type=int, help="how many of them are carried out; all, if not given")
    add("--timeout", type=float, default=30.0, help="seconds for an answer (%(default)s)")
    add("--token", type=Path, metavar="FILE", help="the server's secret")
    add("--out", type=Path, required=True, help="folder of the policy")
    return parser


def like(name: str, options: dict[str, Any]) -> tuple[PolicySpec, dict[str, Any]]:
    """What a policy for this suite or dataset sees and does, one action at a time, and its ``provenance.json``."""
    has: SuiteSpec | DatasetSpec
    if name in SUITES:
        suite = make_suite(name, **options)
        has, hz = suite.spec, suite.spec.control_hz
        provenance = {"data": {"fingerprint": has.fingerprint}, "tasks": list(type(suite).task_names())}
        suite.close()
    elif Path(name).is_dir():
        if options:
            raise UnderstudyError(f"{name} is a dataset, which has no options: {', '.join(options)}")
        dataset = open_dataset(name)
        has, provenance, hz = dataset.spec, data_provenance(dataset), dataset.spec.fps
    else:
        raise unknown("suite (and there is no such folder)", name, SUITES)
    spec = PolicySpec(has.cameras, has.proprio_names, has.action, ("instruction",), 1, 1, 1, hz)
    return spec, provenance


def eval_command(name: str, options: Mapping[str, Any], spec: PolicySpec, out: Path) -> str:
    """The ``vla eval`` that shows the policy the pictures it was made for."""
    if name not in SUITES:
        return f"vla eval policy={out}, with the suite.* options that {name} was collected with"
    seen = {"image_size": spec.cameras[0].height, "cameras": [camera.name for camera in spec.cameras]}
    told = [f"suite.{key}={json.dumps(value)}" for key, value in (options | seen).items()]
    return " ".join(["vla eval", f"policy={out}", *told]).replace('"', "").replace(", ", ",")


def _with_horizons(spec: PolicySpec, pred: int, exec_horizon: int) -> PolicySpec:
    if not 1 <= exec_horizon <= pred:
        raise UnderstudyError(f"--exec-horizon must be 1…{pred} (the actions in an answer), got {exec_horizon}")
    return replace(spec, pred_horizon=pred, exec_horizon=exec_horizon)


def check_server(policy: RemotePolicy, chunk: int | None) -> int:
    """Ask the server what it says of itself; refuse what does not fit. How many actions it answers at once."""
    about, table, server = policy.link.about(), policy.table, policy.remote.url
    policy.link.close()
    if policy.remote.protocol == "vla-eval":
        told = about.get("action_spec") or {}
        sizes = {name: part.get("dims", 0) for name, part in told.items()}
        if sizes and all(sizes.values()) and sum(sizes.values()) != table.action_theirs.size:
            raise UnderstudyError(
                f"the server at {server} answers {sum(sizes.values())} entries ({', '.join(sizes)}), action.theirs "
                f"has {table.action_theirs.size} ({table.action_theirs.text})"
            )
        return chunk or 1
    ours = {"video": table.cameras.values(), "state": table.state, "action": [name for name, _ in table.action]}
    for group, names in (ours | {"language": [table.instruction]}).items():
        theirs = about.get(group, {}).get("modality_keys", [])
        if set(names) != set(theirs):
            raise UnderstudyError(
                f"the {group} of the server at {server} is {', '.join(theirs) or 'nothing'}, the map says "
                f"{', '.join(names) or 'nothing'}: give --map"
            )
    return chunk or len(about["action"]["delta_indices"])
