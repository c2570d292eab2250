"""What the SQL console knows and does without a screen: names and meanings, completion, history, results as text."""
