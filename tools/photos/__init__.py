"""Eight real photographs with triplets and rough labels written by hand: the first thing a user can run.

The photographs come with scikit-image and scikit-learn, so that nothing is downloaded. The labels are rough polygons
drawn by hand: they are there to run the whole way from picture to result and to see whether a result is plausible. They
are no benchmark of quality, and numbers on them compare with nothing.
"""
