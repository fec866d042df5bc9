"""Many prompts to many videos: on one GPU, on several, on several machines."""
