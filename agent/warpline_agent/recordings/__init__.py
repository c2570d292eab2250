"""Recorded files on disk: found, unpacked under bounds, described, and given to jobs on evidence."""
