"""A range of what is kept, drawn as a trace that the Perfetto UI opens."""
