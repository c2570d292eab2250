"""One file a verb: `arguments(parser)` and `run(options)`; heavy imports happen inside `run`."""
