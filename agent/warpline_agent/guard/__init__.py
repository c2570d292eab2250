"""The power guard: lowers clocks of GPUs that hold a program and do nothing, and raises them again whatever happens."""
