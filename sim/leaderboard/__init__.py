"""``vla leaderboard``: the evaluations of several policies side by side, on the scenes that all of them were given."""
