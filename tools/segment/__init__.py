"""Your own classes on your own images: `python -m tools.segment IMAGE... --vocabulary "cat, dog, sofa"`."""
