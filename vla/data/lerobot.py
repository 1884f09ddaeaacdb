"""The one adapter to LeRobotDataset v3.0: write episodes, read episodes.

    with EpisodeWriter(root, spec) as writer:
        writer.save(episode)
    dataset = open_dataset(root)
    dataset.arrays(0)["actions"]  # [T, A]

The format is written here directly, not through LeRobot's own writer. That one keeps one parquet file open over many
episodes until ``finalize()``, and a process that is killed before leaves a dataset that cannot be opened at all. Here
every episode is its own small file, complete and on the disk before `EpisodeWriter.save` returns; LeRobot reads the
result like any other dataset. Nothing here imports ``lerobot`` (ten seconds) or torch, and nothing asks the network.
"""

from vla.data.lerobot_format import DatasetSpec
from vla.data.lerobot_reader import Dataset, EpisodeInfo, open_dataset
from vla.data.lerobot_writer import EpisodeWriter

__all__ = ["Dataset", "DatasetSpec", "EpisodeInfo", "EpisodeWriter", "open_dataset"]
