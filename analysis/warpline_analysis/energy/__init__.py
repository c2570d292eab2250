"""Energy: what each GPU did with its power. `signals` are read, `states` told from them, `runs` added up."""
