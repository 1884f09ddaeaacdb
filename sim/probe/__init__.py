"""``vla probe``: what a representation is worth to a robot, measured in the table-top scene."""
