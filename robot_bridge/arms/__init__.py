"""Drivers: one file an arm, each importing its maker's kit only when it is asked to connect."""
