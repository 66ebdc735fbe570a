"""The network in plain PyTorch: explicit keyword arguments, no config object, no detectron2."""
