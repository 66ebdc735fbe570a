"""Your own classes on your own pictures: `python -m tools.segment IMAGE... --vocabulary "cat, dog, sofa"`."""
