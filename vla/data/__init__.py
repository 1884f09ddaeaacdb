"""Robot episodes and human video: reading, writing, importing, looking at them."""
