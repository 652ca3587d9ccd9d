"""Images of every format, made up and damaged at random, and what has to come of them."""
