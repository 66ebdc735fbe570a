"""Where an image's time goes."""
