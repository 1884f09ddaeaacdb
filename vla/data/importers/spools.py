"""What a robot recorded: spools, each an episode, written where there were no libraries of a dataset (`vla.spool`)."""

from dataclasses import replace
from pathlib import Path

from vla.data.importers.source import Source, resized_frames, sized
from vla.data.lerobot_format import stored_as
from vla.data.recordings import dataset_spec
from vla.errors import UnderstudyError
from vla.spool import Spooled, episode_of, find_spools
from vla.types import Episode


def open_spools(root: Path, *, image_size: int | None) -> Source:
    """The spools in the folder ``root`` as a `Source`; those that were cut off count as far as they are whole."""
    whole, warnings = [], []
    for file in find_spools(root):
        try:
            whole.append(Spooled(file))
        except UnderstudyError as error:
            warnings.append(str(error))
    if not whole:
        raise UnderstudyError(f"none of the spools in {root} can be read: {'; '.join(warnings)}")
    spec = dataset_spec(whole[0].policy, whole[0].head["embodiment"])
    stored = replace(spec, cameras=sized(spec.cameras, image_size))

    def read(number: int) -> Episode:
        spooled = whole[number]
        if dataset_spec(spooled.policy, spooled.head["embodiment"]) != spec:
            raise UnderstudyError(f"{spooled.file} is of another policy or arm than {whole[0].file}: import it apart")
        episode = episode_of(spooled)
        frames = {
            camera.name: resized_frames(episode.images[camera.name], (camera.height, camera.width))
            for camera in stored.cameras
        }
        return replace(episode, images=frames)

    return Source(
        format="spools of a robot",
        name=root.name,
        spec=stored_as(stored),
        numbers=tuple(number for number, one in enumerate(whole) if one.counts["seen"] and one.counts["steps"]),
        promised=len(whole),
        read=read,
        label=lambda number: str(whole[number].head["source"]),
        warnings=tuple(warnings),
    )
