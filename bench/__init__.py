"""What a variant costs on this machine: seconds and memory, measured on random weights."""
