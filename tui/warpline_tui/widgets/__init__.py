"""Widgets, one file each, filed by their place on the screen."""
