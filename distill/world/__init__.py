"""Worlds of captioned clips, and the judges that read them back."""
