"""The fleet as a picture: what its cells mean, where they lie, and which are left after a search."""
