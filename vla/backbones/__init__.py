"""From images and words to tokens that an action head can read."""
