"""Training: order of the images, optimiser, schedule, the loop, its checkpoints and its log.

What a step sees is a function of the seed and the number of the step: the order of the images, their augmentation,
and what the network draws. A training that was killed therefore continues as if nothing had happened.
"""
