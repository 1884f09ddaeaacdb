"""Which tasks of robosuite there are, in which words; read by both sides, so it needs nothing of either."""

from dataclasses import dataclass
from typing import Literal

ProfileName = Literal["fast", "robosuite"]
PROFILES = {"fast": 64, "robosuite": 256}
"""Profile → pixels a side of its pictures, unless others are asked for."""


@dataclass(frozen=True)
class Environment:
    """One task: ``made``, its name in robosuite, the words for it, and how many steps an episode has."""

    made: str
    words: str
    max_steps: int = 400


ENVIRONMENTS = {
    "lift": Environment("Lift", "lift the red cube", 200),
    "stack": Environment("Stack", "stack the red cube on the green cube", 300),
    "pick-place-can": Environment("PickPlaceCan", "put the can into its bin"),
    "pick-place-milk": Environment("PickPlaceMilk", "put the milk carton into its bin"),
    "pick-place-bread": Environment("PickPlaceBread", "put the loaf of bread into its bin"),
    "pick-place-cereal": Environment("PickPlaceCereal", "put the cereal box into its bin"),
    "nut-assembly-square": Environment("NutAssemblySquare", "put the square nut over the square peg"),
    "nut-assembly-round": Environment("NutAssemblyRound", "put the round nut over the round peg"),
    "door": Environment("Door", "turn the handle and open the door"),
    "wipe": Environment("Wipe", "wipe the dirt off the table", 500),
    "tool-hang": Environment("ToolHang", "put the stand into its base and hang the tool on it", 700),
}
"""Task → what it is. Those for two arms are left out: their actions are those of another robot."""
