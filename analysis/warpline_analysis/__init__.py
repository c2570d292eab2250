"""Rows in, findings out: progressive diagnosis over any Reader."""
