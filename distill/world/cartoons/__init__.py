"""The cartoons world: animated sprites on paths through drawn scenes."""
