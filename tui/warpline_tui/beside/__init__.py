"""The accused beside its peers: who they are, and what is asked of both."""
