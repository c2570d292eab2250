"""A made-up cluster whose durations come from recorded ones, with faults whose truth is known."""
