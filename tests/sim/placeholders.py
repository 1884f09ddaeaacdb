"""LIBERO's assets, as far as its package refers to them, with a small box for every mesh: made on the spot."""

import json
from pathlib import Path

import cv2
import numpy as np

ENTRIES = json.loads((Path(__file__).parents[2] / "vla" / "data" / "libero_assets.json").read_text("utf-8"))
BOX = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
FACES = [(1, 2, 4), (1, 4, 3), (5, 7, 8), (5, 8, 6), (1, 5, 6), (1, 6, 2), (3, 4, 8), (3, 8, 7), (1, 3, 7), (1, 7, 5)]
SCENE = """<mujoco>
  <asset>
    <texture name="texplane" type="2d" file="../textures/light-gray-floor-tile.png"/>
    <texture name="tex-wall" type="2d" file="../textures/light-gray-plaster.png"/>
    <material name="floorplane" texture="texplane"/> <material name="walls" texture="tex-wall"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1" diffuse=".8 .8 .8"/>
    <geom name="floor" type="plane" size="3 3 .1" material="floorplane" group="1"/>
    <geom name="wall" type="box" pos="-2 0 1" size=".01 2 1" material="walls" group="1" contype="0" conaffinity="0"/>
    <body name="floor"/>
  </worldbody>
</mujoco>
"""
OBJECT = """<mujoco>
  <asset> <mesh name="{name}_mesh" file="{folder}mesh/{name}.obj"/> </asset>
  <worldbody>
    <body>
      <body name="object">
        <geom type="mesh" mesh="{name}_mesh" rgba="{color} 1" group="1" contype="0" conaffinity="0"/>
        <geom type="box" size=".02 .02 .02" group="0" rgba="0 0 0 0" mass=".1"/>
        {region}
      </body>
      <site name="bottom_site" pos="0 0 -.02" rgba="0 0 0 0"/>
      <site name="top_site" pos="0 0 .02" rgba="0 0 0 0"/>
      <site name="horizontal_radius_site" pos=".02 .02 0" rgba="0 0 0 0"/>
    </body>
  </worldbody>
</mujoco>
"""
REGION = '<site name="contain_region" type="box" pos="0 0 .03" quat="1 0 0 0" size=".06 .06 .05" rgba="0 0 0 0"/>'


def make_placeholders(root: Path) -> None:
    """All that the package's list names, and the meshes that these refer to."""
    rng = np.random.default_rng(0)
    for entry in ENTRIES:
        path = root / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            cv2.imwrite(str(path), rng.integers(0, 255, (8, 8, 3), np.uint8))
        elif path.parent.name == "scenes":
            path.write_text(SCENE)
        else:
            folder = "" if path.parent.name == path.stem else f"{path.stem}/"
            region = REGION if path.stem == "basket" else ""
            color = " ".join(f"{value:.2f}" for value in rng.uniform(size=3))
            path.write_text(OBJECT.format(name=path.stem, folder=folder, region=region, color=color))
            mesh = path.parent / folder / "mesh" / f"{path.stem}.obj"
            mesh.parent.mkdir(parents=True, exist_ok=True)
            corners = [f"v {x} {y} {z}" for x, y, z in 0.02 * BOX]
            mesh.write_text("\n".join([*corners, *("f {} {} {}".format(*face) for face in FACES)]) + "\n")
