"""Which backend runs each stage, how much of it at once, and what happens when it fails."""
