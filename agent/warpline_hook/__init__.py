"""What is loaded into the training process: the standard library and, later, the native library; nothing else."""
