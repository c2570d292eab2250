"""The killable child process that makes every NVML call."""
