"""The one training loop, what it writes down, and how it goes on after a stop."""
