"""The single command `warpline`: one file a verb, heavy halves imported only when the verb runs."""
