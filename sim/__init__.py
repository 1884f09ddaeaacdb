"""Tasks made of physics, their experts, rollouts, evaluation and reports."""
