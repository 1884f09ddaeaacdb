"""LeRobot v3.0 itself, recorded by another writer or to be made smaller."""

from dataclasses import replace
from pathlib import Path

from vla.data.importers.source import Source, resized_frames, sized
from vla.data.lerobot_format import OURS, stored_as
from vla.data.lerobot_reader import open_dataset
from vla.types import Episode


def open_lerobot_v3(root: Path, *, image_size: int | None) -> Source:
    """The dataset at ``root`` as a `Source`."""
    dataset = open_dataset(root)
    spec = replace(dataset.spec, cameras=sized(dataset.spec.cameras, image_size))
    ours = (root / OURS).is_file()

    def label(number: int) -> str:
        told = dataset.episodes[number].source
        place = f"{root.name}/episode_{number:06d}"
        return f"{told}, {place}" if ours and told else place

    def read(number: int) -> Episode:
        episode = dataset.episode(number)
        images = {
            camera.name: resized_frames(episode.images[camera.name], (camera.height, camera.width))
            for camera in spec.cameras
        }
        return replace(episode, images=images, source=label(number))

    return Source(
        format="LeRobot v3.0",
        name=root.name,
        spec=stored_as(spec) if image_size else spec,
        numbers=tuple(range(len(dataset.episodes))),
        promised=len(dataset.episodes),
        read=read,
        label=label,
    )
