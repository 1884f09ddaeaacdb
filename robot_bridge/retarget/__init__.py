"""A person's hand in a video → a trajectory of an arm, with a report of how far to trust it."""
