"""What runs inside the container: a request in, a video file out."""
