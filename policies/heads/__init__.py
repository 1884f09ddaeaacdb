"""Action heads: ``loss(context, actions, mask)`` and ``sample(context, noise)``; a head sees a TokenGroup only."""
