"""The three networks, written for export and named as published."""
