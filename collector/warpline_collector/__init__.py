"""The collector: takes frames in, keeps them, answers SQL and runs the analysis."""
