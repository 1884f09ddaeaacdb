"""From features to behaviour: the policy families, their action heads, chunk execution."""
