"""The `cogvideox` command, one module per verb."""
