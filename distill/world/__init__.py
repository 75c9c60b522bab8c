"""Worlds of captioned clips, each with a renderer and a judge that shares no code with it."""
