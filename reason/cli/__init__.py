"""The command line of the reasoning: `python -m reason`."""
