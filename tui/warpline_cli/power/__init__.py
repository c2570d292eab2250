"""Subverbs of `warpline power`, a file each."""
