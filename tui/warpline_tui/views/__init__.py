"""What each screen wants to know: one file a screen, with its SQL and the frozen dataclasses that it gives."""
