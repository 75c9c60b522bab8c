"""Training of the cartoons' model: its stages, each within a share of the time."""
