"""Episodes that a robot records, into a dataset one by one as they end."""

from pathlib import Path

from vla.data.lerobot_format import INFO, DatasetSpec, stored_as
from vla.data.lerobot_reader import open_dataset
from vla.data.lerobot_writer import EpisodeWriter
from vla.types import Episode, PolicySpec


def dataset_spec(policy: PolicySpec, embodiment: str) -> DatasetSpec:
    """What a dataset of this policy's runs on such an arm holds."""
    spec = DatasetSpec(
        fps=policy.control_hz,
        cameras=policy.cameras,
        proprio_names=policy.proprio_names,
        action=policy.action,
        embodiment=embodiment,
    )
    return stored_as(spec)


def save_episode(out: Path, policy: PolicySpec, episode: Episode) -> int:
    """Write ``episode`` durably into the dataset at ``out``, which is made if need be; its index there.

    An episode whose ``source`` is there already, because a kill came before its spool was removed, is not written
    again. Raises `UnderstudyError` when ``out`` holds other data, or the disk is full.
    """
    there = (out / INFO).is_file()
    known = {info.source: info.index for info in open_dataset(out).episodes} if there else {}
    if episode.source in known:
        return known[episode.source]
    with EpisodeWriter(out, dataset_spec(policy, episode.embodiment), resume=there) as writer:
        return writer.save(episode)
