"""Training: nano's own data and recipes, and the mathematics that every variant shares."""
