"""From an action chunk to motors. Imports numpy and the contract, never torch or mujoco."""
