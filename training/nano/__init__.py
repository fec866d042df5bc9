"""What nano learns from, and how it is judged: scenes of one moving shape."""
