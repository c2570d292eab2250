"""Telling receivers of incidents: settings, the book of what was told, the way there."""
