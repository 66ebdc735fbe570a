"""The conversation with the model: prompts, the questions of one image or class, answers parsed, names aligned."""
