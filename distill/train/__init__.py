"""Models and the stages that train them."""
