"""From folders of captioned videos to clips that are worth training on."""
