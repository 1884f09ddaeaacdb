"""``vla lerobot CHECKPOINT``: let the other side load it.

A checkpoint of ours is given LeRobot's ``config.json`` and processors, one of LeRobot's our ``policy_spec.json``; no
weight is touched or copied.
"""

import argparse
import json
import logging
from pathlib import Path

from policies.policy import SPEC_FILE, read_spec, write_spec
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError

logger = logging.getLogger(__name__)

CONFIG = "config.json"
EXAMPLE = """\
examples:
  vla lerobot outputs/train
      then: lerobot-eval --policy.path=outputs/train --env.discover_packages_path=sim.lerobot_plugin …
  vla lerobot outputs/act/checkpoints/last/pretrained_model --data outputs/collect
      then: vla eval policy=outputs/act/checkpoints/last/pretrained_model
"""


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "vla lerobot",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="folder that vla train wrote, or a pretrained_model of LeRobot's")
    parser.add_argument("--data", type=Path, help="of a policy of LeRobot's: the dataset that it was trained on")
    given = parser.parse_args(argv)
    if (given.checkpoint / SPEC_FILE).is_file():
        export(given.checkpoint)
        logger.info("%s is now a pretrained_model of LeRobot's as well", given.checkpoint)
    elif (given.checkpoint / CONFIG).is_file():
        adopt(given.checkpoint, given.data)
        logger.info("vla eval policy=%s works now", given.checkpoint)
    else:
        raise UnderstudyError(f"{given.checkpoint} holds neither {SPEC_FILE} (ours) nor {CONFIG} (LeRobot's)")
    return 0


def export(checkpoint: Path) -> None:
    """Write LeRobot's files into a checkpoint of ours."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
    from torch import cuda

    from policies.lerobot_plugin.configuration_understudy import UnderstudyConfig
    from policies.lerobot_plugin.processor_understudy import make_understudy_pre_post_processors

    spec = read_spec(checkpoint)
    seen = {f"{OBS_IMAGES}.{c.name}": PolicyFeature(FeatureType.VISUAL, (3, c.height, c.width)) for c in spec.cameras}
    if spec.proprio_names:
        seen[OBS_STATE] = PolicyFeature(FeatureType.STATE, (spec.proprio_dim,))
    config = UnderstudyConfig(
        input_features=seen,
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (spec.action.dim,))},
        push_to_hub=False,
        device="cuda" if cuda.is_available() else "cpu",
    )
    config.save_pretrained(checkpoint)
    for pipeline in make_understudy_pre_post_processors(config):
        pipeline.save_pretrained(checkpoint)


def adopt(folder: Path, data: Path | None) -> None:
    """Write our files into a ``pretrained_model`` of LeRobot's, with what only its dataset says."""
    from lerobot.configs import PreTrainedConfig

    from policies.lerobot_plugin.peer import FAMILY, spec_of
    from policies.provenance import data_provenance

    if data is None:
        raise UnderstudyError(
            f"{folder} does not say what its actions mean; give --data, the dataset it was trained on"
        )
    dataset = open_dataset(data)
    write_spec(folder, FAMILY, spec_of(PreTrainedConfig.from_pretrained(folder), dataset.spec))
    (folder / "provenance.json").write_text(json.dumps(data_provenance(dataset), indent=2))
